"""Prediction command: `python -m projects.blank.predict FILE --checkpoint PATH`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.cli.command import OneLineParser, add_checkpoint, report_errors
from common.errors import UserError
from common.io.text import read_lines


def new_parser() -> OneLineParser:
    """Parser of the command's flags; imports no torch, so that `--help` answers at once."""
    parser = OneLineParser(prog="python -m projects.blank.predict", description="Prints a prediction for each line.")
    parser.add_argument("file", type=Path, metavar="FILE", help="One row of features per line, separated by commas.")
    add_checkpoint(parser)
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code (see `common.errors`)."""
    options = new_parser().parse_args(args)
    return report_errors(lambda: predict(options))


def predict(options: argparse.Namespace) -> None:
    """Prints a prediction for each row of the file."""
    from projects.blank.inference import load

    pipeline = load(options.checkpoint)
    try:
        predictions = pipeline(read_rows(options.file))
    except UserError as error:
        raise UserError(f"{options.file}: {error}") from error
    for prediction in predictions:
        print(f"{prediction:.4f}")


def read_rows(file: Path) -> list[list[float]]:
    """Rows of numbers, separated by commas. Raises UserError for a cell that is no number."""
    rows = []
    for number, line in enumerate(read_lines(file), 1):
        try:
            rows.append([float(cell) for cell in line.split(",")])
        except ValueError as error:
            raise UserError(f"row {number}: {error}") from error
    return rows


if __name__ == "__main__":
    sys.exit(main())
