"""Helpers of the commands: one-line errors and shared flags. Needs no torch, so that `--help` answers at once."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from common.cli.suggestions import suggestion
from common.errors import EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_LOST, OtherProcessFailed, Preempted, ProcessLost, UserError
from common.io.disk import disk_error
from common.io.ranks import is_global_zero
from common.io.signals import stop_signals_handled
from common.io.terminal import prepare_streams


def number_between(kind: type[int] | type[float], minimum: float, maximum: float = math.inf) -> Callable[[str], Any]:
    """Argument type: an int or float from `minimum` to `maximum`, and finite."""
    bounds = f"of at least {minimum}" if maximum == math.inf else f"from {minimum} to {maximum}"

    def parse(text: str) -> int | float:
        try:
            value: int | float = kind(text)
        except ValueError:
            value = math.nan
        if not minimum <= value <= maximum or value == math.inf:
            raise argparse.ArgumentTypeError(f"{text[:20]}: use a {'whole ' * (kind is int)}number {bounds}")
        return value

    return parse


positive = number_between(int, 1)
non_negative = number_between(int, 0)
positive_float = number_between(float, 1e-6)
probability = number_between(float, 0, 1)
seed_value = number_between(int, 0, 2**32 - 1)  # a seed that every random number generator takes


def report_errors(command: Callable[[], int | None]) -> int:
    """Calls `command` and returns its exit code; a UserError, or a full disk, is one line on stderr and code 2."""
    prepare_streams()
    try:
        with stop_signals_handled():
            code = command() or 0
            sys.stdout.flush()  # what is written at exit would fail without a word
            return code
    except OtherProcessFailed:
        return EXIT_BAD_INPUT
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except ProcessLost as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_LOST
    except Preempted as stop:
        if is_global_zero():  # all processes stop at the same step
            print(f"{stop}", file=sys.stderr)
        return stop.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Exception as error:
        line = disk_error(error)
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        return EXIT_BAD_INPUT


class OneLineParser(argparse.ArgumentParser):
    """Parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Prints `message` and exits with code 2."""
        flags = [flag.removeprefix("--") for flag in self._option_string_actions]
        self.exit(EXIT_BAD_INPUT, f"error: {message}{suggestion(message, flags)} (see --help)\n")


def add_checkpoint(parser: argparse.ArgumentParser, sentence: str = "A checkpoint of a run.", several: bool = False) -> None:
    """Adds `--checkpoint`, of every command that uses a trained network; `several` allows more than one."""
    artifact = "PATH may be wandb:ENTITY/PROJECT/ARTIFACT:ALIAS."
    options: dict[str, Any] = {"nargs": "+", "action": "extend"} if several else {}
    parser.add_argument("--checkpoint", required=True, type=Path, metavar="PATH", help=f"{sentence} {artifact}", **options)


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
