"""Weights & Biases (W&B), the logger of a run with `--wandb`."""

from __future__ import annotations

import netrc
import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from common.errors import UserError, one_line
from common.io.connectivity import reachable
from common.io.ranks import print_rank_zero

WANDB_SERVER = "https://api.wandb.ai"
WANDB_MODES = ("online", "offline", "disabled", "dryrun", "run", "shared")
WANDB_STEP = "trainer/global_step"  # x-axis of every panel, as Lightning logs it


def wandb_logger(run_path: Path, project: str, summary_modes: dict[str, str], config: dict[str, Any]) -> WandbLogger:
    """W&B logger: online with a key and a reachable server, else offline; it never prompts and never hangs.

    WANDB_PROJECT, WANDB_NAME, WANDB_RUN_ID and WANDB_DIR replace the project, the run's name, its id and its folder.

    Args:
        run_path: The run folder; W&B's files go to `run_path/wandb`.
        project: W&B project.
        summary_modes: Metric name -> "max" or "min": which value W&B's summary keeps, instead of the last.
        config: Configuration of the run.

    Raises:
        UserError: wandb cannot be imported, WANDB_MODE is not one of its modes, or W&B rejects the key.
    """
    wandb = import_wandb()
    if (mode := os.environ.get("WANDB_MODE") or "online") not in WANDB_MODES:
        raise UserError(f"WANDB_MODE {mode!a}: use one of {', '.join(WANDB_MODES)}")
    run = None
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        os.environ.setdefault("WANDB_SILENT", "true")
        reason = offline_reason()
        if reason:
            upload = f"wandb sync {shlex.quote(os.environ.get('WANDB_DIR') or str(run_path))}/wandb/offline-run-*"
            print_rank_zero(f"W&B: offline, {reason}; upload later with `{upload}`")
        try:
            run = wandb.init(
                name=os.environ.get("WANDB_NAME") or run_path.name,
                project=os.environ.get("WANDB_PROJECT") or project,
                dir=os.environ.get("WANDB_DIR") or run_path,
                mode="offline" if reason else os.environ.get("WANDB_MODE") or None,  # which wandb reads only once
                id=os.environ.get("WANDB_RUN_ID")
                or re.sub(
                    r"[:;,#?%/\\']", lambda found: f"_{ord(found[0]):x}_", f"{project}-{run_path.name}"
                ),  # W&B's own rule
                resume="allow",
                config=config,
            )
        except wandb.Error as error:
            raise UserError(f"--wandb: {one_line(error)}; set WANDB_MODE=offline to log without a server") from error
        run.define_metric(WANDB_STEP)
        run.define_metric("*", step_metric=WANDB_STEP, step_sync=True)
        for metric, mode in summary_modes.items():
            # without its own step_metric a metric that is defined later loses its x-axis
            run.define_metric(metric, step_metric=WANDB_STEP, summary=mode)
    return WandbLogger(project=project, save_dir=run_path, experiment=run)


def import_wandb() -> Any:
    """Module `wandb`. Raises UserError if it cannot be imported."""
    try:
        import wandb
    except ImportError as error:
        raise UserError(f"--wandb: wandb cannot be imported ({error}); reinstall it with `pip install wandb`") from error
    return wandb


@contextmanager
def closing_wandb() -> Iterator[None]:
    """Context that finishes W&B's run at its end, as failed after an exception; the process's next run has its own."""
    exit_code = 1
    try:
        yield
        exit_code = 0
    finally:
        if "wandb" in sys.modules and sys.modules["wandb"].run is not None:
            sys.modules["wandb"].finish(exit_code=exit_code)


def offline_reason(timeout: float = 3.0) -> str:
    """Reason why W&B has to stay offline; empty if it can be online, or if WANDB_MODE disables it altogether."""
    mode = os.environ.get("WANDB_MODE", "")
    if mode in ("offline", "dryrun"):
        return f"WANDB_MODE is {mode}"
    if mode == "disabled":
        return ""
    server = os.environ.get("WANDB_BASE_URL") or WANDB_SERVER
    if not has_api_key(urlsplit(server).hostname or ""):
        return "no API key (set WANDB_API_KEY or run `wandb login`)"
    return "" if reachable(server, timeout) else f"{server} cannot be reached"


def has_api_key(host: str) -> bool:
    """Whether the environment or the netrc file holds a key for `host`."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def log_plot(trainer: Trainer, name: str, path: Path) -> None:
    """Logs an image file as `plots/<name>` to W&B, if the run has it."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(f"plots/{name}", [str(path)])


def log_table(trainer: Trainer, name: str, header: list[str], rows: list[list[Any]]) -> None:
    """Logs a table to W&B, if the run has it."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_table(name, columns=header, data=rows)
