"""Entry point of every capstone's `train` command."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from common.cli.command import report_errors
from common.cli.parser import CapstoneCLI
from common.cli.recipes import with_saved_config
from common.errors import UserError
from common.project import Project

if TYPE_CHECKING:
    from lightning.pytorch import Callback


def main(project: Project, args: list[str] | None = None) -> int:
    """Runs a capstone from the command line and returns the exit code (see `common.errors`)."""
    return report_errors(lambda: start(project, sys.argv[1:] if args is None else args))


def start(project: Project, args: list[str], extra_callbacks: Sequence[Callback] = ()) -> None:
    """Runs a capstone from Python: `main` with callbacks, and with errors as exceptions.

    Args:
        project: The capstone.
        args: Command-line arguments.
        extra_callbacks: Callbacks in front of the run's own.

    Raises:
        UserError: A setting, a path or the device is not usable.
        Preempted: The process received SIGTERM; the state is saved.
    """
    for arg in args:
        if arg != arg.encode(errors="replace").decode():
            raise UserError(f"argument {arg!a}: not UTF-8, so no file of the run could name it; rename the file or folder")
    request = CapstoneCLI(project, with_saved_config(args, project.name)).request()
    from common.run.run import run  # after the parser has answered --help

    run(request, extra_callbacks)
