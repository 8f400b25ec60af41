"""Helpers of the commands: one-line errors and shared flags. Needs no torch, so that `--help` answers at once."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from common.errors import EXIT_BAD_INPUT, EXIT_PREEMPTED, Preempted, UserError
from common.io.ranks import is_global_zero
from common.io.terminal import prepare_streams


def report_errors(command: Callable[[], int | None]) -> int:
    """Calls `command` and returns its exit code; a UserError is one line on stderr and exit code 2."""
    prepare_streams()
    try:
        return command() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except Preempted as stop:
        if is_global_zero():  # all processes stop at the same step
            print(f"{stop}", file=sys.stderr)
        return EXIT_PREEMPTED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


class OneLineParser(argparse.ArgumentParser):
    """Parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Prints `message` and exits with code 2."""
        self.exit(EXIT_BAD_INPUT, f"error: {message} (see --help)\n")


def add_accelerator(parser: argparse.ArgumentParser) -> None:
    """Adds `--accelerator`, a value for `common.nn.device.choose_device`."""
    parser.add_argument(
        "--accelerator",
        choices=("auto", "cpu", "gpu"),
        default="auto",
        help="Device type; auto takes a GPU if there is one (default: auto).",
    )


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Adds `--precision`, as in training."""
    parser.add_argument(
        "--precision",
        choices=("bf16-mixed", "32-true"),
        help="Number format; unset, bf16-mixed where the hardware has it, else 32-true.",
    )


def add_pseudo_labels(parser: argparse.ArgumentParser, metavar: str, sentence: str) -> None:
    """Adds `--save_pseudo_labels`, with the project's own metavar and help, and `--threshold`."""
    parser.add_argument("--save_pseudo_labels", type=Path, metavar=metavar, help=sentence)
    parser.add_argument(
        "--threshold",
        type=probability,
        default=0.95,
        metavar="P",
        help="Minimum probability of a pseudo-label, between 0 and 1 (default: 0.95).",
    )


def integer_from(low: int) -> Callable[[str], int]:
    """Argument type: an integer of at least `low`, and small enough for every library."""

    def integer(text: str) -> int:
        value = int(text)
        if not low <= value < 2**31:
            raise argparse.ArgumentTypeError(f"{text[:20]} is not {f'at least {low}' if value < low else 'below 2**31'}")
        return value

    return integer


def number_between(low: float, high: float) -> Callable[[str], float]:
    """Argument type: a number from `low` to `high`."""

    def number(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{value} is not between {low} and {high}")
        return value

    return number


positive, non_negative, probability = integer_from(1), integer_from(0), number_between(0, 1)


def seed_value(text: str) -> int:
    """Argument type: a seed that every random number generator takes, an integer from 0 to 2**32 - 1."""
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) < 2**32):
        raise argparse.ArgumentTypeError(f"{text[:20]}: use a whole number from 0 to {2**32 - 1}")
    return int(text)
