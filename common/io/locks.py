"""Lock of a run folder: one process trains in it at a time. It ends with its process, however that ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = ".lock"
_held: list[int] = []  # file descriptors


def lock_folder(folder: Path) -> bool:
    """Takes the lock of `folder`; False if another process has it. Where the file system has no locks, all get it."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    except OSError:  # some network file systems have none
        pass
    _held.append(descriptor)
    return True


def lock_is_gone(folder: Path) -> bool:
    """Whether the lock of `folder` was removed since this process has taken it, as with the whole folder."""
    return bool(_held) and (os.fstat(_held[-1]).st_nlink == 0 or not (folder / LOCK).exists())


@contextmanager
def locks_released() -> Iterator[None]:
    """Context at whose end this process has no lock any more."""
    try:
        yield
    finally:
        _release()


def _release() -> None:
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_release)  # else workers of a loader would keep the lock of a process that was killed
