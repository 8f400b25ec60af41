"""Scaffold of a new project: `python -m common.scaffold NAME --from TEMPLATE [--to FOLDER]`; `--help` lists the templates.

Every project of this repository is a template: the new one has its files, its code under new names, its recipes and tests.
With `--to` it gets a repository of its own, with `common/` and all that is needed to install, train and test.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from common.cli.command import OneLineParser, report_errors
from common.scaffold.create import create_project
from common.scaffold.files import template_names


def new_parser() -> OneLineParser:
    """Parser of the command's flags."""
    parser = OneLineParser(prog="python -m common.scaffold", description="Creates a project from one of ours.")
    parser.add_argument("name", metavar="NAME", help="Name of the new project, a Python identifier: my_task.")
    parser.add_argument(
        "--from",
        dest="template",
        required=True,
        metavar="TEMPLATE",
        help=f"Project to copy: {', '.join(template_names())}.",
    )
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="Create a repository there; default: add to this one.")
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code (see `common.errors`)."""
    options = new_parser().parse_args(args)
    return report_errors(lambda: create_project(options.name, options.template, options.to))


if __name__ == "__main__":
    sys.exit(main())
