"""What a trained network says: `python -m projects.blank.predict FILE --checkpoint PATH`; `--help` lists the flags."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.cli.command import OneLineParser, report_errors
from common.errors import UserError
from common.io.text import read_lines


def new_parser() -> OneLineParser:
    """The command line's flags; needs no torch, so `--help` answers at once."""
    parser = OneLineParser(prog="python -m projects.blank.predict", description="Prints a prediction for each line.")
    parser.add_argument("file", type=Path, metavar="FILE", help="Lines of the input numbers, with commas between them.")
    parser.add_argument("--checkpoint", required=True, type=Path, metavar="PATH", help="A checkpoint of a run.")
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code (see `common.errors`)."""
    options = new_parser().parse_args(args)
    return report_errors(lambda: predict(options))


def predict(options: argparse.Namespace) -> None:
    """Does what the parsed command line asks for."""
    import torch

    from common.io.checkpoints import check_project, read_checkpoint
    from projects.blank.module import BlankModule

    checkpoint = read_checkpoint(options.checkpoint)
    check_project(checkpoint, "blank", options.checkpoint)
    module = BlankModule(**checkpoint["hyper_parameters"])
    module.load_state_dict(checkpoint["state_dict"])
    rows = []
    for number, line in enumerate(read_lines(options.file), 1):
        try:
            rows.append([float(cell) for cell in line.split(",")])
        except ValueError as error:
            raise UserError(f"{options.file}: line {number}: {error}") from error
        if len(rows[-1]) != module.hparams["inputs"]:
            raise UserError(f"{options.file}: line {number} has {len(rows[-1])} numbers, not {module.hparams['inputs']}")
    if rows:
        with torch.inference_mode():
            print("\n".join(f"{value:.4f}" for value in module.eval()(torch.tensor(rows)).tolist()))


if __name__ == "__main__":
    sys.exit(main())
