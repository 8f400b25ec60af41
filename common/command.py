"""What the commands that use a checkpoint share. Needs no torch, so that `--help` answers at once."""

from __future__ import annotations

import argparse
from typing import NoReturn

from common.errors import EXIT_BAD_INPUT


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Exits with the code of bad input."""
        self.exit(EXIT_BAD_INPUT, f"error: {message} (see --help)\n")


def add_accelerator(parser: argparse.ArgumentParser) -> None:
    """Adds `--accelerator`, which `common.device.choose_device` understands."""
    parser.add_argument(
        "--accelerator",
        choices=("auto", "cpu", "gpu"),
        default="auto",
        help="What to compute on; auto takes a GPU if there is one (default: auto).",
    )
