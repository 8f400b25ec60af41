"""Demo commands: their flags, and what they do. Needs neither torch nor Gradio, so that `--help` answers at once."""

from __future__ import annotations

import argparse
import os
import sys
import threading
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.cli.command import OneLineParser, add_accelerator, add_checkpoint, number_between, report_errors
from common.errors import UserError

if TYPE_CHECKING:
    from common.demo.page import Page

LOCAL = "127.0.0.1"


def run_demo(project: str, load_page: Callable[[], Page], args: Sequence[str] | None = None) -> int:
    """Runs the demo command of a capstone and returns its exit code (see `common.errors`).

    Args:
        project: Name of the capstone.
        load_page: Imports its page, after the parser has answered `--help`.
        args: Command-line arguments; unset, those of the process.
    """
    parser = OneLineParser(
        prog=f"python -m projects.{project}.demo", description="Opens a page in the browser, to try a trained model."
    )
    add_checkpoint(parser)
    add_page_flags(parser)
    options = parser.parse_args(args)
    return report_errors(lambda: show(lambda: [(load_page(), options.checkpoint)], options))


def add_page_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of every demo command but for the checkpoint."""
    add_accelerator(parser)
    help_text = f"Address to listen on; 0.0.0.0 shows the page to the whole network, without a password (default: {LOCAL})."
    parser.add_argument("--host", default=LOCAL, metavar="ADDRESS", help=help_text)
    parser.add_argument("--port", type=number_between(int, 1, 65535), metavar="N", help="Port; unset, a free one.")
    parser.add_argument("--no_browser", action="store_true", help="Print the address and open no browser.")


def show(load_pages: Callable[[], list[tuple[Page, Path]]], options: argparse.Namespace) -> None:
    """Serves pages until the command is stopped; what takes seconds comes after a look at the address and at Gradio.

    Args:
        load_pages: Imports the pages, each with its checkpoint.
        options: Flags of `add_page_flags`.
    """
    import_gradio()
    from common.demo.server import listen, page_files, serving

    with listen(options.host, options.port) as listener, page_files():
        from common.demo.page import build
        from common.nn.device import choose_device

        with serving(build(load_pages(), choose_device(options.accelerator)), listener) as url:
            print(f"{url} is open; Ctrl-C ends it", flush=True)
            if not options.no_browser and has_display():
                webbrowser.open(url)
            threading.Event().wait()


def import_gradio() -> None:
    """Imports Gradio, without its reports to its makers. Raises UserError if it is not installed."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise UserError('the page needs Gradio: run `pip install "lightning-capstones[demo]"`') from error


def has_display() -> bool:
    """Whether a browser would have a window of its own; on Linux without a display it would take over the terminal."""
    return not sys.platform.startswith("linux") or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())
