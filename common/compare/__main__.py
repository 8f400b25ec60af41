"""Comparison of runs: `python -m common.compare [RUN ...] [--output FILE] [--wandb ENTITY/PROJECT]`; see `--help`.

Runs that differ in seed and name alone are one row, with mean and standard deviation.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.cli.command import OneLineParser, report_errors
from common.errors import UserError


def new_parser() -> OneLineParser:
    """Parser of the command's flags."""
    parser = OneLineParser(
        prog="python -m common.compare",
        description="Lists finished runs with their metrics and the settings in which they differ.",
        epilog="Validation metrics are the best checkpoint's. Runs that have not ended, or are damaged, are skipped; "
        "of a damaged metrics.csv the readable rows are used.",
    )
    parser.add_argument(
        "runs", nargs="*", type=Path, metavar="RUN", help="A run's folder, or a folder of them (default: runs)."
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="Write a file instead of printing: .md (with a plot beside it), .csv, or .html (one page, plot included).",
    )
    parser.add_argument("--wandb", metavar="ENTITY/PROJECT", help="Runs of a W&B project, instead of or beside folders.")
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code (see `common.errors`)."""
    options = new_parser().parse_args(args)
    return report_errors(lambda: compare(options))


def compare(options: argparse.Namespace) -> None:
    """Reads the runs and prints or writes their comparison."""
    from common.compare.groups import group_runs
    from common.compare.records import read_runs
    from common.compare.report import write_report
    from common.compare.terminal import print_tables

    paths = options.runs or ([] if options.wandb else [Path("runs")])
    records, errors = read_runs(paths)
    if options.wandb:
        from common.compare.wandb_runs import read_wandb

        wandb_records, wandb_errors = read_wandb(options.wandb)
        records, errors = records + wandb_records, errors + wandb_errors
    for error in errors:
        print(f"skipped: {error}", file=sys.stderr)
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
