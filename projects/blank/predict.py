"""Prediction command: `python -m projects.blank.predict FILE --checkpoint PATH`."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from common.cli.command import OneLineParser, add_checkpoint, report_errors
from common.errors import UserError
from common.io.text import read_lines


def new_parser() -> OneLineParser:
    """Parser of the command's flags; imports no torch, so that `--help` answers at once."""
    parser = OneLineParser(prog="python -m projects.blank.predict", description="Prints a prediction for each line.")
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="CSV: one row of features per line, with or without a header."
    )
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
        predictions = pipeline(read_rows(options.file, pipeline.feature_names))
    except UserError as error:
        raise UserError(f"{options.file}: {error}") from error
    for prediction in predictions:
        print(f"{prediction:.4f}")


def read_rows(file: Path, feature_names: Sequence[str]) -> list[list[float]]:
    """Rows of numbers in a CSV file; with a header, the columns of these names, and it is said which others are left out.

    Raises UserError for a cell that is no number, and for a header without one of the names.
    """
    lines = list(csv.reader(read_lines(file)))
    header = [cell.strip() for cell in lines[0]] if lines and not all(map(is_number, lines[0])) else []
    columns = list(range(len(header)))
    if header and feature_names:
        if missing := [name for name in feature_names if name not in header]:
            raise UserError(f"no column {missing[0]}, a feature of the training; the header has {', '.join(header)}")
        columns = [header.index(name) for name in feature_names]
        if others := [name for name in header if name not in feature_names]:
            print(f"{file}: columns that are no features are left out: {', '.join(others)}", file=sys.stderr)
    rows = []
    for number, cells in enumerate(lines[1:] if header else lines, 1):
        if header and len(cells) != len(header):
            raise UserError(f"row {number} has {len(cells)} cells, the header {len(header)}")
        chosen = [cells[column] for column in columns] if header else cells
        if words := [cell for cell in chosen if not is_number(cell)]:
            raise UserError(f"row {number}: {words[0]!r} is not a number")
        rows.append([float(cell) for cell in chosen])
    return rows


def is_number(cell: str) -> bool:
    """Whether a cell is a number."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
