"""Text input, line by line."""

from __future__ import annotations

import codecs
import sys
import unicodedata
from pathlib import Path

from common.errors import UserError


def read_lines(file: Path | None) -> list[str]:
    """Lines of a file, or of the standard input if `file` is None, without line ends and without a byte order mark.

    Lines end with a line feed, with or without a carriage return before it; where there is none, with carriage returns.

    Raises:
        UserError: There is no such file, or it is not UTF-8.
    """
    name = "standard input" if file is None else str(file)
    try:
        data = sys.stdin.buffer.read() if file is None else file.read_bytes()
    except OSError as error:
        raise UserError(f"{name}: {error.strerror or error}") from error
    try:
        text = data.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{name}: line {line} is not UTF-8; convert it, for example with iconv -t UTF-8") from error
    lines = text.split(
        "\n" if "\n" in text else "\r"
    )  # not `splitlines`, which also breaks at rarer characters inside a sentence
    return [line.rstrip("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]


def is_blank(text: str) -> bool:
    """Whether nothing of `text` is visible: white space of any kind, zero-width spaces, control characters."""
    return all(unicodedata.category(character) in ("Zs", "Zl", "Zp", "Cc", "Cf") for character in text)
