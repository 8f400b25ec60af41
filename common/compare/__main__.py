"""Runs side by side: `python -m common.compare [RUN ...] [--output FILE] [--wandb ENTITY/PROJECT]`; see `--help`.

Runs that differ in nothing but seed and name are one line, with mean and standard deviation.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.cli.command import OneLineParser, report_errors
from common.errors import UserError


def new_parser() -> OneLineParser:
    """The command line's flags."""
    parser = OneLineParser(
        prog="python -m common.compare",
        description="Lists finished runs with what differs between their settings and with their best figures.",
        epilog="Validation figures are the best checkpoint's. A run that has not ended, or is damaged, is passed over.",
    )
    parser.add_argument(
        "runs", nargs="*", type=Path, metavar="RUN", help="A run's folder, or a folder of them (default: runs)."
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="Write a file instead of printing: .md (with a picture beside it), .csv or .html (one page, picture included).",
    )
    parser.add_argument("--wandb", metavar="ENTITY/PROJECT", help="Runs of a W&B project, instead of or beside folders.")
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code (see `common.errors`)."""
    options = new_parser().parse_args(args)
    return report_errors(lambda: compare(options))


def compare(options: argparse.Namespace) -> None:
    """Does what the parsed command line asks for."""
    from common.compare.groups import group_runs
    from common.compare.records import read_runs
    from common.compare.report import write_report
    from common.compare.terminal import print_tables

    paths = options.runs or ([] if options.wandb else [Path("runs")])
    records, complaints = read_runs(paths)
    if options.wandb:
        from common.compare.wandb_runs import read_wandb

        found, more = read_wandb(options.wandb)
        records, complaints = records + found, complaints + more
    for complaint in complaints:
        print(f"passed over: {complaint}", file=sys.stderr)
    if not records:
        raise UserError("no finished run to compare")
    groups = group_runs(records)
    if options.output is None:
        print_tables(groups)
    else:
        for path in write_report(groups, options.output):
            print(path)


if __name__ == "__main__":
    sys.exit(main())
