"""Image of the demo page in the README: `python -m benchmarks.demo_screenshot` writes `docs/demo.png`.

It needs the extra `demo`, Selenium, and Chromium with its driver; what the page needs and is missing is trained first.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.browser import open_browser, resize
from common.cli.command import OneLineParser, positive, report_errors
from common.demo.command import import_gradio
from common.errors import UserError

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

OUTPUT = Path(__file__).parents[1] / "docs" / "demo.png"
UNCHANGED_SECONDS = 3.0  # for which the page does not change
MAX_SECONDS = 60.0
MIN_HEIGHT = 300  # pixels


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code (see `common.errors`)."""
    parser = OneLineParser(prog="python -m benchmarks.demo_screenshot", description="Writes an image of a demo page.")
    parser.add_argument("--tab", default="cifar10", metavar="PROJECT", help="The capstone (default: cifar10).")
    parser.add_argument("--width", type=positive, default=1280, metavar="N", help="Width in pixels (default: 1280).")
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="PNG", help="Default: docs/demo.png.")
    options = parser.parse_args(args)
    return report_errors(lambda: screenshot(options))


def screenshot(options: argparse.Namespace) -> None:
    """Serves the page of all capstones, and writes an image of one tab."""
    import_gradio()
    import torch

    from common.demo.page import build
    from common.demo.server import listen, page_files, serving
    from projects.demo.runs import FLAGS, load_pages

    if options.tab not in FLAGS:
        raise UserError(f"--tab {options.tab}: use one of {', '.join(FLAGS)}")
    pages = load_pages("cpu")
    with (
        closing(listen("127.0.0.1", None)) as listener,
        page_files(),
        serving(build(pages, torch.device("cpu")), listener) as url,
        open_browser(url) as browser,
    ):
        select_tab(browser, list(FLAGS).index(options.tab))
        resize(browser, options.width, MIN_HEIGHT)
        wait_until_unchanged(browser)
        resize(browser, options.width, browser.execute_script("return document.documentElement.scrollHeight"))
        wait_until_unchanged(browser)
        browser.save_screenshot(str(options.output))
    print(options.output)


def select_tab(browser: Chrome, number: int) -> None:
    """Opens a tab, once there is one; of a narrow page some are in a menu."""
    end = time.monotonic() + MAX_SECONDS
    while browser.execute_script("return document.querySelectorAll('button[role=tab]').length") <= number:
        if time.monotonic() > end:
            raise UserError("the page has no such tab")
        time.sleep(0.1)
    browser.execute_script("document.querySelectorAll('button[role=tab]')[arguments[0]].click()", number)


def wait_until_unchanged(browser: Chrome) -> None:
    """Waits until the page has not changed for some seconds."""
    end, before, since = time.monotonic() + MAX_SECONDS, "", time.monotonic()
    while time.monotonic() < min(end, since + UNCHANGED_SECONDS):
        time.sleep(0.2)
        if (now := browser.execute_script("return document.body.innerHTML")) != before:
            before, since = now, time.monotonic()


if __name__ == "__main__":
    sys.exit(main())
