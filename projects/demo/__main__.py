"""Demo command: `python -m projects.demo` opens a page with a tab for each capstone, and trains what is missing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.cli.command import OneLineParser, report_errors
from common.demo.command import add_page_flags, show

if TYPE_CHECKING:
    from common.demo.page import Page


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code (see `common.errors`)."""
    parser = OneLineParser(
        prog="python -m projects.demo",
        description="Opens a page in the browser to try all capstones, trained on their embedded samples.",
        epilog="Models are those of the runs runs/PROJECT/demo; a run that is missing is trained first, one that was "
        "interrupted is continued: all five take about ten minutes on two cores.",
    )
    add_page_flags(parser)
    options = parser.parse_args(args)

    def pages() -> list[tuple[Page, Path]]:
        from projects.demo.runs import load_pages

        return load_pages(options.accelerator)

    return report_errors(lambda: show(pages, options))


if __name__ == "__main__":
    sys.exit(main())
