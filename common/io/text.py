"""Text input, line by line."""

from __future__ import annotations

import sys
from pathlib import Path

from common.errors import UserError


def read_lines(file: Path | None) -> list[str]:
    """Lines of a file, or of the standard input if `file` is None, without line ends.

    Raises:
        UserError: There is no such file, or it is not UTF-8.
    """
    name = "standard input" if file is None else str(file)
    try:
        data = sys.stdin.buffer.read() if file is None else file.read_bytes()
    except OSError as error:
        raise UserError(f"{name}: {error.strerror or error}") from error
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{name}: line {line} is not UTF-8; convert it, for example with iconv -t UTF-8") from error
    lines = text.split("\n")  # not `splitlines`, which also breaks at rarer characters inside a sentence
    return [line.rstrip("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]
