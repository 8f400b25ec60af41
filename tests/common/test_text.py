"""Text input of the commands."""

import pytest

from common.errors import UserError
from common.io.text import is_blank, read_lines


def test_lines_end_at_line_feeds_alone(tmp_path):
    file = tmp_path / "rare.txt"
    file.write_bytes("a\u2028b\r\nc\x0bd\n\nlast".encode())
    assert read_lines(file) == ["a\u2028b", "c\x0bd", "", "last"]


def test_line_that_is_not_utf8_is_numbered(tmp_path):
    file = tmp_path / "latin.txt"
    file.write_bytes("gut\nschön\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin.txt: line 2 is not UTF-8"):
        read_lines(file)


def test_byte_order_mark_and_ends_of_old_lines_are_no_text(tmp_path):
    file = tmp_path / "old.txt"
    file.write_bytes("\ufeffa\rb\r".encode())
    assert read_lines(file) == ["a", "b"]
    file.write_bytes("\ufeffa\rb\nc\n".encode())
    assert read_lines(file) == ["a\rb", "c"], "a lone one inside of a line"
    file.write_bytes(b"")
    assert read_lines(file) == []


def test_blank_text_has_nothing_visible():
    assert all(map(is_blank, ["", " \t", "\u00a0\u2003\u3000", "\u200b\u2060\ufeff", "\u2028\x00"]))
    assert not any(map(is_blank, [" a", "\u200b.", "\u0301", "😀"]))
