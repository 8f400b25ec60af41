"""Text input of the commands."""

import pytest

from common.errors import UserError
from common.io.text import read_lines


def test_lines_end_at_line_feeds_alone(tmp_path):
    file = tmp_path / "rare.txt"
    file.write_bytes("a\u2028b\r\nc\x0bd\n\nlast".encode())
    assert read_lines(file) == ["a\u2028b", "c\x0bd", "", "last"]


def test_line_that_is_not_utf8_is_numbered(tmp_path):
    file = tmp_path / "latin.txt"
    file.write_bytes("gut\nschön\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin.txt: line 2 is not UTF-8"):
        read_lines(file)
