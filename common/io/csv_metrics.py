"""Logger of every run, which writes its `metrics.csv`, and the steps that all loggers count."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.utilities import rank_zero_only

from common.io.metrics import read_metrics


def count_steps_done(logger: Logger) -> Logger:
    """`logger`, which now logs the number of steps done, as in a checkpoint's name: Lightning numbers a fit's from 0."""
    logger.log_metrics = partial(_log_steps_done, logger)  # type: ignore[method-assign]
    return logger


def _log_steps_done(logger: Logger, metrics: dict[str, float], step: int | None = None) -> None:
    type(logger).log_metrics(logger, metrics, step if step is None or is_test(metrics) else step + 1)


def is_test(metrics: Iterable[str]) -> bool:
    """Whether metrics of these names are of the test, which Lightning logs at the number of steps done."""
    return any(name.startswith("test/") for name in metrics)


def csv_logger(run_path: Path, resumed_step: int | None = None) -> CSVLogger:
    """Logger that writes `run_path/metrics.csv`, on rank 0.

    Args:
        run_path: The run folder.
        resumed_step: Steps done in the checkpoint that a run resumes from; their rows are kept.
    """
    logger = CSVLogger(run_path.parent, name=run_path.name, version="", flush_logs_every_n_steps=1)
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        restore_metrics(logger, run_path / "metrics.csv", resumed_step)
    return logger


def restore_metrics(logger: CSVLogger, path: Path, resumed_step: int | None) -> None:
    """Copies the rows up to `resumed_step` from the old file `path` into the logger; keeps the old file beside it."""
    rows: list[dict[str, float]] = []
    if resumed_step is not None and path.is_file():
        old = path.with_name("metrics.before-resume.csv")
        path.replace(old)  # Lightning's logger starts an empty file
        rows = [row for row in read_metrics(old) if row.get("step", math.inf) <= resumed_step and not is_test(row)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.experiment.metrics.extend(rows)
    logger.save()
