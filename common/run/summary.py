"""What stays of a run: its curves, `summary.json`, and the closing table."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import WandbLogger

from common.callbacks.throughput import Throughput
from common.io.checkpoints import sorted_by_step
from common.io.loggers import log_plot, read_metrics
from common.nn.device import device_name
from common.plots.curves import draw_curves

if TYPE_CHECKING:
    from common.cli.parser import CapstoneCLI
    from common.io.run_folder import Run


def write_summary(
    cli: CapstoneCLI,
    place: Run,
    data: Any,
    trainer: Trainer,
    test_figures: dict[str, float],
    best: str | None,
    seconds: float,
) -> None:
    """Draws the curves, writes `summary.json`, and prints the closing table."""
    metrics = place.folder / "metrics.csv"
    rows = read_metrics(metrics) if metrics.is_file() else []
    if path := draw_curves(rows, place.plots / "curves.png"):
        log_plot(trainer, "curves", path)
    (place.folder / "hparams.yaml").unlink(missing_ok=True)  # Lightning's logger leaves it; config.yaml has it all
    throughput = next(c for c in trainer.callbacks if isinstance(c, Throughput))  # type: ignore[attr-defined]
    project = cli.project
    checkpoint = Path(best) if best else next(iter(sorted_by_step(place.checkpoints)), None)
    summary = {
        "project": project.name,
        "name": place.folder.name,
        "data_source": data.source_label,
        "recipe": cli.config.recipe,
        "command": f"python -m projects.{project.name}.train {shlex.join(cli.arguments)}".strip(),
        "seed": cli.config.seed,
        "test": test_figures,
        "metadata": getattr(trainer.lightning_module, "metadata", {}),
        "monitor": project.monitored(data),
        "mode": project.mode,
        "best_validation": best_validation(rows, project.monitored(data), project.mode),
        "epochs": trainer.current_epoch,
        "steps": trainer.global_step,
        "train_seconds": round(throughput.seconds, 1),
        "wall_seconds": round(seconds, 1),
        "samples_per_second": round(throughput.samples_per_second, 1),
        "parameters": sum(p.numel() for p in trainer.lightning_module.parameters()),
        "device": device_name(trainer.strategy.root_device),
        "devices": trainer.world_size,
        "precision": trainer.precision,
        "checkpoint": checkpoint and checkpoint.name,
        "git_commit": git_commit(),
        "versions": versions(),
    }
    (place.folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.summary.update({"perf/train_seconds": throughput.seconds})
    print_summary(summary, place, checkpoint, project.usage, is_sample=data.resolve().kind == "sample")


def best_validation(rows: list[dict[str, float]], monitor: str, mode: str) -> dict[str, float]:
    """The validation figures of the row that is best in `monitor`; empty if there was no validation."""
    with_monitor = [row for row in rows if monitor in row]
    if not with_monitor:
        return {}
    best = (max if mode == "max" else min)(with_monitor, key=lambda row: row[monitor])
    return {key: value for key, value in best.items() if key.startswith("val/")} | {"step": best["step"]}


def git_commit() -> str | None:
    """The commit of the working tree, with a `+` if it has changes; None outside of a repository."""
    try:
        command = ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


def versions() -> dict[str, str]:
    """What the figures were made with."""
    return {"python": sys.version.split()[0], "torch": torch.__version__, "lightning": lightning.__version__}


def print_summary(summary: dict[str, Any], place: Run, checkpoint: Path | None, use: str, is_sample: bool) -> None:
    """The last lines of a run: test figures, where everything is, and the commands that go on from here."""
    from rich.console import Console
    from rich.table import Table

    note = " (EMBEDDED SAMPLE, not the real data set)" if is_sample else ""
    table = Table(title=f"{summary['project']} on {summary['data_source']}{note}", title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in summary["test"].items():
        table.add_row(name, f"{value:.4f}")
    table.add_row("training seconds", f"{summary['train_seconds']:.0f}")
    table.add_row("samples a second", f"{summary['samples_per_second']:.0f}")
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    module = f"projects.{summary['project']}"
    lines = [
        f"run folder: {place.folder} (plots, metrics.csv, config.yaml, summary.json)",
        f"again:      python -m {module}.train --config {place.folder}/config.yaml",
    ]
    if checkpoint is not None:
        lines += [
            f"resume:     python -m {module}.train --name {place.folder.name} --resume auto --max_epochs N",
            f"use:        python -m projects.{summary['project']}.{use} --checkpoint {place.checkpoints / checkpoint.name}",
        ]
    for line in lines:
        console.print(line, markup=False)
