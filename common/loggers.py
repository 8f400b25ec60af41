"""Where a run's figures go: `metrics.csv` always, W&B when asked for."""

from __future__ import annotations

import csv
import os
import socket
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, WandbLogger

WANDB_HOST = "api.wandb.ai"


def csv_logger(run_folder: Path, resumed_step: int | None = None) -> CSVLogger:
    """A logger that writes `run_folder/metrics.csv`.

    Args:
        run_folder: the run's folder.
        resumed_step: the step that a resumed run continues from; the figures up to it are kept.
    """
    old = run_folder / "metrics.csv"
    rows: list[dict[str, float]] = []
    if resumed_step is not None and old.is_file():
        old.replace(run_folder / "metrics.before-resume.csv")  # Lightning's logger starts an empty file
        rows = [row for row in read_metrics(run_folder / "metrics.before-resume.csv") if row["step"] <= resumed_step]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger = CSVLogger(run_folder.parent, name=run_folder.name, version="", flush_logs_every_n_steps=1)
        logger.experiment.metrics.extend(rows)
    logger.save()
    return logger


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a `metrics.csv`, each with the figures that it holds."""
    with path.open(newline="") as file:
        return [{k: float(v) for k, v in row.items() if v not in ("", None)} for row in csv.DictReader(file)]


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
    """
    os.environ.setdefault("WANDB_SILENT", "true")
    reason = offline_reason()
    if reason:
        say(f"W&B: offline, {reason}; upload later with `wandb sync {run_folder}/wandb/offline-run-*`")
    logger = WandbLogger(
        name=run_folder.name,
        project=project,
        save_dir=run_folder,
        offline=bool(reason),
        id=f"{project}-{run_folder.name}".replace("/", "-"),
        resume="allow",
        config=config,
    )
    run = logger.experiment
    if hasattr(run, "define_metric"):  # a placeholder in all processes but the first
        for metric, mode in best.items():
            # without its own step_metric a metric that is defined later loses its x-axis
            run.define_metric(metric, step_metric="trainer/global_step", summary=mode)
    return logger


def offline_reason(timeout: float = 3.0) -> str:
    """Why W&B has to stay offline; empty if it can be online."""
    if os.environ.get("WANDB_MODE") in ("offline", "disabled"):
        return f"WANDB_MODE is {os.environ['WANDB_MODE']}"
    if not _has_key():
        return "no API key (set WANDB_API_KEY or run `wandb login`)"
    try:
        socket.create_connection((WANDB_HOST, 443), timeout=timeout).close()
    except OSError:
        return f"{WANDB_HOST} cannot be reached"
    return ""


def _has_key() -> bool:
    import netrc

    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(WANDB_HOST) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def log_picture(trainer: Trainer, name: str, path: Path) -> None:
    """Sends a picture file to those of the trainer's loggers that take pictures."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(f"plots/{name}", [str(path)])
