"""Logger of every run, which writes its `metrics.csv`, and the steps that all loggers count."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only

from common.io.disk import named
from common.io.files import write_text_atomically
from common.io.metrics import describe_unreadable, parse_metrics
from common.io.ranks import print_rank_zero


def count_steps_done(logger: Logger) -> Logger:
    """`logger`, which now logs the number of steps done, as in a checkpoint's name: Lightning numbers a fit's from 0."""
    logger.log_metrics = partial(_log_steps_done, logger)  # type: ignore[method-assign]
    return logger


def _log_steps_done(logger: Logger, metrics: dict[str, float], step: int | None = None) -> None:
    type(logger).log_metrics(logger, metrics, step if step is None or is_test(metrics) else step + 1)


def is_test(metrics: Iterable[str]) -> bool:
    """Whether metrics of these names are of the test, which Lightning logs at the number of steps done."""
    return any(name.startswith("test/") for name in metrics)


class MetricsWriter(ExperimentWriter):
    """Lightning's writer of `metrics.csv`, which here keeps the file of a run that resumes, and never has half of it."""

    def _check_log_dir_exists(self) -> None:
        """Deletes nothing."""

    def save(self) -> None:
        """Writes the new rows; an error of the disk names the file."""
        with named(Path(self.metrics_file_path)):
            super().save()

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        """Adds the columns of new metrics in one step, not to a file emptied before."""
        path = Path(self.metrics_file_path)
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            rows = list(csv.DictReader(file))
        write_rows(path, rows, fieldnames)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    """Replaces the CSV file `path` by `rows` below the header `names`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, names, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    write_text_atomically(path, text.getvalue())


def csv_logger(run_path: Path, resumed_step: int | None = None) -> CSVLogger:
    """Logger that writes `run_path/metrics.csv`, on rank 0.

    Args:
        run_path: The run folder.
        resumed_step: Steps done in the checkpoint that a run resumes from; their rows are kept.
    """
    logger = CSVLogger(run_path.parent, name=run_path.name, version="", flush_logs_every_n_steps=1)
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        names = restore_metrics(run_path / "metrics.csv", -1 if resumed_step is None else resumed_step)
        logger._experiment = MetricsWriter(logger.log_dir)
        logger._experiment.metrics_keys = names
    return logger


def restore_metrics(path: Path, resumed_step: int) -> list[str]:
    """Keeps the rows of the file `path` up to `resumed_step`, and returns the columns that it has then.

    Other rows, which the run logs again, and unreadable lines are moved to `metrics.dropped.csv`, in a line that says how
    many. A kill at any moment loses none: they are there before they are gone from `path`.
    """
    if not path.is_file():
        return []
    lines = parse_metrics(path.read_bytes())
    rows = [row for _, row in lines if row and row["step"] <= resumed_step and not is_test(row)]
    kept = set(map(id, rows))
    repeated = sum(bool(row) for _, row in lines) - len(rows)
    moved = [f"{repeated} row{'s' * (repeated > 1)} that this run logs again"] * (repeated > 0)
    moved += [unreadable] if (unreadable := describe_unreadable(lines)) else []
    if moved and lines:
        dropped = path.with_name("metrics.dropped.csv")
        before = dropped.read_bytes().decode(errors="replace") if dropped.is_file() else ""
        text = "".join(line for line, row in lines if id(row) not in kept)
        write_text_atomically(dropped, f"{before}{text.rstrip()}\r\n")
        moved[-1] += f": moved to {dropped.name}"
    if moved:
        print_rank_zero(f"{path}: {' and '.join(moved)}")
    if not rows:
        path.unlink()
        return []
    names = sorted({name for row in rows for name in row})
    write_rows(path, rows, names)
    return names
