"""Errors of the disk: full, read-only, failing, or the run folder is gone. The user mends them, so they are one line."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import one_line

OF_DISK = {  # whatever the program does -> what the user does
    errno.ENOSPC: "free space",
    errno.EDQUOT: "free space",
    errno.EFBIG: "allow larger files (ulimit -f)",
    errno.EROFS: "make it writable",
    errno.EIO: "check the disk",
    errno.ESTALE: "check the disk",
}
OF_RUN_FOLDER = {  # a bug anywhere else
    errno.EACCES: "make it writable",
    errno.EPERM: "make it writable",
    errno.ENOENT: "put it back",
    errno.ENOTDIR: "put the folder back",
    errno.EISDIR: "put the file back",
}
TORCH_WRITER = "inline_container"  # in what torch.save raises after a failed write


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Context that writes `path`: its name is in the errors of the system, which name none in writing and closing."""
    try:
        yield
    except Exception as error:
        cause = system_error(error)
        if cause is None:
            raise
        if cause.filename is None:
            cause.filename = str(path)
        raise cause from None


def system_error(error: BaseException) -> OSError | None:
    """The system's error: `error` itself, or what torch's writer or a library in Rust has failed with; else None."""
    if isinstance(error, RuntimeError) and TORCH_WRITER in str(error) and error.__context__ is not None:
        error = error.__context__
    elif not isinstance(error, OSError) and (found := re.search(r"\(os error (\d+)\)", str(error))):
        error = OSError(int(found[1]), os.strerror(int(found[1])))
    return error if isinstance(error, OSError) and error.errno is not None else None


def disk_error(error: BaseException, run_path: Path | None = None) -> str | None:
    """Line that names file, reason and what to do if the disk is to blame for `error`, else None.

    Args:
        error: The exception.
        run_path: The run folder. A file in it that is gone, or that the user may not write, counts as well.
    """
    cause = system_error(error)
    if cause is None:
        is_of_torch = isinstance(error, RuntimeError) and TORCH_WRITER in str(error)
        return "a checkpoint cannot be written; free space" if is_of_torch else None
    names = [os.fsdecode(name) for name in (cause.filename2, cause.filename) if isinstance(name, str | bytes)]
    if not names and run_path is not None:  # what a run writes is there
        names = [str(run_path)]
    in_run = run_path is not None and any(Path(name).resolve().is_relative_to(run_path.resolve()) for name in names)
    code, reason = cause.errno or 0, cause.strerror or one_line(cause)
    way_out = OF_DISK.get(code) or (OF_RUN_FOLDER.get(code) if in_run else None)
    if code == errno.ENOENT and "temporary directory" in reason:  # of tempfile
        way_out = "free space, or set TMPDIR"
    if way_out is None:
        return None
    return "".join(f"{os.path.relpath(name) if in_run else name}: " for name in names[:1]) + f"{reason}; {way_out}"
