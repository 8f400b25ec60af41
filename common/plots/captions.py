"""Caption of a plot: which run, which data, which split."""

from __future__ import annotations

from pathlib import Path

from common.data.sources import SourceDataModule


def run_caption(folder: Path, data: SourceDataModule, split: str) -> str:
    """Caption of a plot in `folder`, that of a run's plots: the run, its data, and the split that is shown."""
    run = folder.resolve().parent
    return f"run {run.parent.name}/{run.name}, data {data.source_description}, {split}"
