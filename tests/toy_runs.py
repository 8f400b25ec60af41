"""Tiny runs of the toy project's command line, in this process."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

from common.cli.main import main
from common.project import Project
from toy.train import PROJECT

TINY = ["--data.source", "sample", "--accelerator", "cpu", "--precision", "32-true"]  # two epochs of two steps


@dataclass
class Ended:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str
    folder: Path  # its working directory

    def run(self, name: str) -> Path:
        return self.folder / "runs" / "toy" / name

    @property
    def error(self) -> str:
        """The one line that a command with bad input leaves on stderr."""
        assert self.code == 2, (self.code, self.out, self.err)
        assert self.err.startswith("error: ") and self.err.count("\n") == 1, self.err
        return self.err.removeprefix("error: ").strip()


def call(folder: Path, *flags: str, project: Project = PROJECT, alone: bool = False) -> Ended:
    """The train command in `folder` with `flags`, `alone` or after the tiny settings, in this process."""
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        code = main(project, [*flags] if alone else [*TINY, *flags])
    return Ended(code, out.getvalue(), err.getvalue(), folder)
