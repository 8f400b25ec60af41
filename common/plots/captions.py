"""Caption of a plot: which run, which data, which split."""

from __future__ import annotations

from pathlib import Path

from common.data.sources import SourceDataModule


def run_caption(folder: Path, data: SourceDataModule, split: str) -> str:
    """Caption of a plot in `folder`, that of a run's plots: the run, or the checkpoint evaluated, data, and split."""
    run = folder.resolve().parent
    shown = data.evaluated_checkpoint or f"run {run.parent.name}/{run.name}"
    return f"{shown}, data {data.source_description}, {split}"
