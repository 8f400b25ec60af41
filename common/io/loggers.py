"""Where a run's figures go: `metrics.csv` always, W&B when asked for."""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from common.errors import UserError
from common.io.connectivity import reachable
from common.io.metrics import read_metrics

WANDB_SERVER = "https://api.wandb.ai"


def csv_logger(run_folder: Path, resumed_step: int | None = None) -> CSVLogger:
    """A logger that writes `run_folder/metrics.csv`, in the first process.

    Args:
        run_folder: the run's folder.
        resumed_step: the steps done by the run that is resumed, which number the next; figures before that are kept.
    """
    logger = CSVLogger(run_folder.parent, name=run_folder.name, version="", flush_logs_every_n_steps=1)
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        start_metrics(logger, run_folder / "metrics.csv", resumed_step)
    return logger


def start_metrics(logger: CSVLogger, path: Path, resumed_step: int | None) -> None:
    """Opens `logger`'s file `path` with the old rows before `resumed_step`; all old ones go to another file beside it."""
    rows: list[dict[str, float]] = []
    if resumed_step is not None and path.is_file():
        old = path.with_name("metrics.before-resume.csv")
        path.replace(old)  # Lightning's logger starts an empty file
        rows = [row for row in read_metrics(old) if row.get("step", math.inf) < resumed_step]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.experiment.metrics.extend(rows)
    logger.save()


def wandb_logger(
    run_folder: Path,
    project: str,
    best: dict[str, str],
    config: dict[str, Any],
    say: Callable[[str], None],
) -> WandbLogger:
    """A W&B logger: online with a key and a reachable server, offline otherwise; it never asks and never hangs.

    Args:
        run_folder: the run's folder; W&B's files go to `run_folder/wandb`.
        project: the W&B project.
        best: metric name -> "max" or "min": what W&B's summary keeps of it, instead of the last value.
        config: the run's whole configuration.
        say: prints a line.

    Raises:
        ModuleNotFoundError: wandb is not installed.
        UserError: W&B does not take the key.
    """
    import wandb

    os.environ.setdefault("WANDB_SILENT", "true")
    reason = offline_reason()
    if reason:
        say(f"W&B: offline, {reason}; upload later with `wandb sync {run_folder}/wandb/offline-run-*`")
    logger = WandbLogger(
        name=run_folder.name,
        project=project,
        save_dir=run_folder,
        mode="offline" if reason else None,  # (its own `offline` would stay set for the rest of the process)
        id=f"{project}-{run_folder.name}".replace("/", "-"),
        resume="allow",
        config=config,
    )
    logger._wandb_init.pop("anonymous", None)  # Lightning passes it always, and wandb warns of it
    try:
        run = logger.experiment
    except wandb.Error as error:
        line = " ".join(str(error).split())
        raise UserError(f"--wandb: {line}; set WANDB_MODE=offline to log without a server") from error
    if hasattr(run, "define_metric"):  # a placeholder in all processes but the first
        for metric, mode in best.items():
            # without its own step_metric a metric that is defined later loses its x-axis
            run.define_metric(metric, step_metric="trainer/global_step", summary=mode)
    return logger


@contextmanager
def closing_wandb() -> Iterator[None]:
    """Ends W&B's run with the block, as a failed one if by an error; the next run of this process then has its own."""
    code = 1
    try:
        yield
        code = 0
    finally:
        if "wandb" in sys.modules and sys.modules["wandb"].run is not None:
            sys.modules["wandb"].finish(exit_code=code)


def offline_reason(timeout: float = 3.0) -> str:
    """Why W&B has to stay offline; empty if it can be online, or if WANDB_MODE switches it off altogether."""
    mode = os.environ.get("WANDB_MODE", "")
    if mode in ("offline", "dryrun"):
        return f"WANDB_MODE is {mode}"
    if mode == "disabled":
        return ""
    server = os.environ.get("WANDB_BASE_URL") or WANDB_SERVER
    if not _has_key(urlsplit(server).hostname or ""):
        return "no API key (set WANDB_API_KEY or run `wandb login`)"
    return "" if reachable(server, timeout) else f"{server} cannot be reached"


def _has_key(host: str) -> bool:
    import netrc

    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def log_plot(trainer: Trainer, name: str, path: Path) -> None:
    """Sends a picture file to those of the trainer's loggers that take pictures."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(f"plots/{name}", [str(path)])


def log_table(trainer: Trainer, name: str, header: list[str], rows: list[list[Any]]) -> None:
    """Sends a table to those of the trainer's loggers that take tables."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_table(name, columns=header, data=rows)
