"""Killing: a process that ends at a given moment, as the files see it, so that one can try to resume."""

from __future__ import annotations

import functools
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


class Killed(BaseException):
    """The process is gone."""


@dataclass
class Kill:
    """When to kill: at the `number`-th training step, validation or write of a file ("step", "validation", "write")."""

    what: str = ""
    number: int = 0
    folder: Path = field(default_factory=Path)
    count: dict[str, int] = field(default_factory=dict)
    files: dict[str, bytes] | None = None

    def is_due(self, what: str) -> bool:
        """Counts an event, and tells whether it is the last."""
        self.count[what] = self.count.get(what, 0) + 1
        return what == self.what and self.count[what] == self.number

    def now(self) -> None:
        """Raises Killed. What is written to the folder from now on does not happen: a killed process has no `finally`."""
        self.files = {path.name: path.read_bytes() for path in self.folder.iterdir() if path.is_file()}
        raise Killed

    def bury(self) -> None:
        """Leaves the folder as it was at the moment of the kill."""
        for path in self.folder.iterdir():
            if path.is_file():
                path.unlink()
        for name, content in (self.files or {}).items():
            (self.folder / name).write_bytes(content)


def in_words(kills: tuple[tuple[str, int], ...]) -> str:
    """Kills, for a failure's lines."""
    return ", then ".join(f"at {what} {number} of process {i}" for i, (what, number) in enumerate(kills, 1)) or "never"


@contextmanager
def deadly_writes(kill: Kill) -> Iterator[None]:
    """Context in which `torch.save` writes half of a file, and the process is killed, when that is due."""
    save = torch.save

    def half(value: Any, file: Any, *args: Any, **kwargs: Any) -> None:
        if not kill.is_due("write"):
            return save(value, file, *args, **kwargs)
        whole = io.BytesIO()
        save(value, whole)
        content = whole.getvalue()[: len(whole.getvalue()) // 2]
        if hasattr(file, "write"):
            file.write(content)
            file.flush()
        else:
            Path(file).write_bytes(content)
        return kill.now()

    torch.save = half  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.save = save


@dataclass
class Replacement:
    """How a file got other contents: whether the old ones were written over in place, and whether there was no file for a
    moment.
    """

    in_place: bool = False
    gone: bool = False


_watched: dict[Path, Replacement] = {}  # where a file really is -> how it is replaced


def _note_removal(event: str, args: tuple[Any, ...]) -> None:
    if event in ("os.remove", "os.rename") and _watched and _place(args[0]) in _watched:
        _watched[_place(args[0])].gone = True


@functools.cache
def _add_hook() -> None:
    sys.addaudithook(_note_removal)  # it stays until the process ends


def _place(name: Any) -> Path:
    path = Path(os.fsdecode(name)).absolute()
    return path.parent.resolve() / path.name


@contextmanager
def watched(path: Path) -> Iterator[Replacement]:
    """Context in which `path`, which exists, gets other contents by whatever means; its value is complete afterwards.

    A second name of the old file shows whether that was written to; Python's audit events show whether the name was ever
    taken away.
    """
    _add_hook()
    replacement, old, content = Replacement(), path.with_name("old.link"), path.read_bytes()
    os.link(path.resolve(), old)
    _watched[_place(path)] = replacement
    try:
        yield replacement
    finally:
        del _watched[_place(path)]
        same = path.exists() and path.samefile(old)
        replacement.in_place = same or old.read_bytes() != content
        old.unlink()
