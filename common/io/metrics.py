"""Metrics file of a run, `metrics.csv`. Needs no torch."""

from __future__ import annotations

import csv
from pathlib import Path


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Rows of a `metrics.csv`: metric name -> value, without empty cells."""
    with path.open(newline="") as file:
        return [{k: float(v) for k, v in row.items() if v not in ("", None)} for row in csv.DictReader(file)]
