"""`metrics.csv` of a run survives a resume."""

from __future__ import annotations

from pathlib import Path

import pytest
from lightning.pytorch.utilities import rank_zero_only

from common.io.csv_metrics import csv_logger
from common.io.metrics import read_metrics


def write_rows(folder: Path, rows: list[dict[str, float]]) -> None:
    logger = csv_logger(folder)
    for row in rows:
        logger.log_metrics({k: v for k, v in row.items() if k != "step"}, step=int(row["step"]))
    logger.save()


ROWS = [
    {"step": 1, "train/loss": 3.0},
    {"step": 2, "train/loss": 2.0},
    {"step": 2, "val/loss": 2.5, "epoch": 0},  # the end of an epoch of two steps
    {"step": 3, "train/loss": 1.0},
    {"step": 4, "train/loss": 0.5},
    {"step": 4, "val/loss": 0.7, "epoch": 1},
    {"step": 4, "test/loss": 0.6},
]


def test_metrics_are_read_back_as_logged(tmp_path):
    write_rows(tmp_path, ROWS)
    assert read_metrics(tmp_path / "metrics.csv") == ROWS


@pytest.mark.parametrize("steps_done, kept", [(0, 0), (1, 1), (2, 3), (3, 4), (4, 6), (5, 6)])
def test_resumed_run_keeps_the_metrics_of_steps_that_it_does_not_repeat(tmp_path, steps_done, kept):
    write_rows(tmp_path, ROWS)
    logger = csv_logger(tmp_path, steps_done)
    assert (read_metrics(tmp_path / "metrics.csv") if kept else []) == ROWS[:kept]
    logger.log_metrics({"train/loss": 9.0, "new": 1.0}, step=steps_done)
    logger.save()
    assert read_metrics(tmp_path / "metrics.csv") == [*ROWS[:kept], {"step": steps_done, "train/loss": 9.0, "new": 1.0}]
    assert read_metrics(tmp_path / "metrics.before-resume.csv") == ROWS, "nothing is lost"


def test_line_truncated_by_a_kill_does_not_prevent_a_resume(tmp_path):
    write_rows(tmp_path, ROWS)
    path = tmp_path / "metrics.csv"
    path.write_text(path.read_text() + "3")
    csv_logger(tmp_path, 3)
    assert read_metrics(path) == ROWS[:4]


def test_only_rank_0_touches_the_file(tmp_path, monkeypatch):
    write_rows(tmp_path, ROWS)
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    csv_logger(tmp_path, 1).save()
    assert [path.name for path in tmp_path.glob("metrics*")] == ["metrics.csv"]
    assert read_metrics(tmp_path / "metrics.csv") == ROWS
