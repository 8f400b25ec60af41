"""Entry point of every capstone's `train` command."""

from __future__ import annotations

import sys

from common.cli.command import report_errors
from common.cli.parser import CapstoneCLI
from common.cli.recipes import with_saved_config
from common.project import Project


def main(project: Project, args: list[str] | None = None) -> int:
    """Runs a capstone from the command line and returns the exit code (see `common.errors`)."""
    return report_errors(lambda: _main(project, sys.argv[1:] if args is None else args))


def _main(project: Project, args: list[str]) -> int:
    cli = CapstoneCLI(project, with_saved_config(args, project.name))
    from common.run.run import run  # after the parser has answered --help

    return run(cli)
