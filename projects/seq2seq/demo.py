"""Demo command: `python -m projects.seq2seq.demo --checkpoint PATH`, see `page.py`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from common.demo.command import run_demo

if TYPE_CHECKING:
    from common.demo.page import Page


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code (see `common.errors`)."""
    return run_demo("seq2seq", load_page, args)


def load_page() -> Page:
    """The page; imported only once the flags are right."""
    from projects.seq2seq.page import PAGE

    return PAGE


if __name__ == "__main__":
    sys.exit(main())
