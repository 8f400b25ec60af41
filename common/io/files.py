"""Atomic writing of files, and removal of what killed writes have left. Needs no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from common.io.disk import named


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Context with a temporary file's path to write to; at its end that file is synced to disk and renamed to `path`.

    A kill leaves the old file or the new one, never half of one. After an exception `path` is as it was. The temporary file
    is `.NAME.PID.tmp` beside `path`, so that the renaming does not cross file systems.
    """
    path = path.resolve()  # what a link points to is replaced, not the link
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with named(path):
            yield partial
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text_atomically(path: Path, text: str) -> None:
    """Writes `text` to `path` as UTF-8, through `atomic_write`."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files in `folder` that killed processes have left; those of a process that is alive stay.

    Called before this process writes to the folder: a file with its id is of an earlier one, as in a container.
    """
    for path in folder.glob(".*.tmp"):
        found = re.fullmatch(r"\..+\.(\d+)\.tmp", path.name)
        if found and (int(found[1]) == os.getpid() or not is_alive(int(found[1]))):
            with suppress(OSError):
                path.unlink()


def is_alive(pid: int) -> bool:
    """Whether there is a process with this id on this machine."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        pass
    return True
