"""Entry point of every capstone's `train` command."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.cli.command import report_errors
from common.cli.parser import CapstoneCLI
from common.cli.recipes import check_complete, saved_config_error, with_saved_config
from common.errors import UserError
from common.project import Project, RunRequest

if TYPE_CHECKING:
    from lightning.pytorch import Callback


def main(project: Project, args: list[str] | None = None) -> int:
    """Runs a capstone from the command line and returns the exit code (see `common.errors`)."""
    return report_errors(lambda: start(project, sys.argv[1:] if args is None else args))


def start(project: Project, args: list[str], extra_callbacks: Sequence[Callback] = ()) -> None:
    """Runs a capstone from Python: `main` with callbacks, and with errors as exceptions.

    Args:
        project: The capstone.
        args: Command-line arguments.
        extra_callbacks: Callbacks in front of the run's own.

    Raises:
        UserError: A setting, a path or the device is not usable.
        Preempted: The process received SIGTERM; the state is saved.
    """
    for arg in args:
        if arg != arg.encode(errors="replace").decode():
            raise UserError(f"argument {arg!a}: not UTF-8, so no file of the run could name it; rename the file or folder")
    request = parse(project, args)
    from common.run.run import run  # after the parser has answered --help

    run(request, extra_callbacks)


def parse(project: Project, args: list[str]) -> RunRequest:
    """Run request of a command line. Raises UserError if it, or the configuration of the run to resume, is not valid."""
    args_with_config = with_saved_config(args, project.name)
    if args_with_config is args:
        return CapstoneCLI(project, args).request()
    saved = args_with_config[:2]
    path = Path(saved[1])
    try:
        request = CapstoneCLI(project, args_with_config).request()
    except UserError:
        try:
            CapstoneCLI(project, saved)
        except UserError as error:
            raise saved_config_error(path, str(error)) from error
        raise  # the file is good: the fault is in the flags
    config = request.config.clone()
    config.pop("config")
    check_complete(path, request.dump(config, skip_none=False, skip_check=True))
    return request
