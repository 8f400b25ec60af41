"""Standard streams that never end a command: closed ones, closed pipes, and encodings without all characters."""

from __future__ import annotations

import errno
import io
import os
import sys
from pathlib import Path


class PipeWriter(io.TextIOWrapper):
    """Standard output that drops what is written after its reader has gone: a pipe's (`| head`), a closed terminal.

    Where it cannot be written for another reason, as on a full disk, the error names it.
    """

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())  # also for what is still in the buffer
        os.close(null)
        if error.errno not in (errno.EPIPE, errno.EIO) and self.name == "<stdout>":
            error.filename = "standard output"
            raise error


def prepare_streams() -> None:
    """Opens closed standard streams as the null device, and makes every character and every pipe writable."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if type(stream) is io.TextIOWrapper:  # not a test's or a notebook's
            buffered, encoding, lines = not stream.write_through, stream.encoding, stream.line_buffering
            stream.flush()
            errors = "backslashreplace"
            writer = PipeWriter(stream.detach(), encoding, errors, line_buffering=lines, write_through=not buffered)
            setattr(sys, name, writer)
