"""Summary of a run: its curves, `summary.json`, the page of its plots, and the closing table."""

from __future__ import annotations

import json
import math
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch import Trainer

from common.callbacks.throughput import Throughput
from common.data.sources import SourceDataModule
from common.io.checkpoints import sorted_by_step
from common.io.files import write_text_atomically
from common.io.loggers import log_model, log_plot, log_summary
from common.io.metrics import read_metrics
from common.io.run_dir import RunDir
from common.io.yaml_files import code_flags
from common.nn.device import device_name
from common.plots.captions import run_caption
from common.plots.curves import draw_curves
from common.plots.figures import report_plot_errors
from common.plots.index import write_index
from common.project import RunRequest
from common.trainer import epochs_begun


def summarize(
    request: RunRequest,
    run_dir: RunDir,
    data: SourceDataModule,
    trainer: Trainer,
    test_metrics: dict[str, float],
    best: str | None,
    seconds: float,
) -> None:
    """Writes `summary.json`, draws the curves, and prints the closing table.

    Args:
        request: What the run was started from.
        run_dir: The run folder.
        data: The datamodule.
        trainer: The Trainer, after the test.
        test_metrics: Metrics of the test.
        best: Path of the checkpoint that was tested; None if it was the last weights.
        seconds: Wall-clock time of training and test.
    """
    project, monitor = request.project, request.project.monitored(data)
    rows = read_metrics(run_dir.path / "metrics.csv") if (run_dir.path / "metrics.csv").is_file() else []
    (run_dir.path / "hparams.yaml").unlink(missing_ok=True)  # of Lightning's logger; config.yaml has it all
    source = data.resolve()
    throughput = next(c for c in trainer.callbacks if isinstance(c, Throughput))  # type: ignore[attr-defined]
    checkpoint = Path(best) if best else next(iter(sorted_by_step(run_dir.checkpoints)), None)
    summary = {
        "project": project.name,
        "name": run_dir.path.name,
        "data_source": data.source_label,
        "data_path": str(Path(source.name).resolve()) if source.kind in ("folder", "file") else None,
        "recipe": request.config.recipe,
        "command": f"python -m projects.{project.name}.train {shlex.join(request.args)}".strip(),
        "seed": request.config.seed,
        "test": test_metrics,
        "metadata": getattr(trainer.lightning_module, "metadata", {}),
        "monitor": monitor,
        "mode": project.mode,
        "best_validation": best_validation(rows, monitor, best),
        "epochs": epochs_begun(trainer),
        "steps": trainer.global_step,
        "train_seconds": round(throughput.seconds, 3),
        "wall_seconds": round(seconds, 3),
        "samples_per_second": round(throughput.samples_per_second, 1),
        "parameters": sum(p.numel() for p in trainer.lightning_module.parameters()),
        "device": device_name(trainer.strategy.root_device),
        "devices": trainer.world_size,
        "precision": trainer.precision,
        "checkpoint": checkpoint and checkpoint.name,
        "git_commit": git_commit(),
        "versions": versions(),
    }
    write_text_atomically(run_dir.path / "summary.json", json.dumps(summary, indent=2) + "\n")
    log_summary(trainer, {"perf/train_seconds": throughput.seconds})
    draw_run_curves(rows, monitor, run_dir, data, trainer)
    with report_plot_errors("index.html"):
        write_index(run_dir.plots, summary, data.source_description)
    print_summary(summary, run_dir, project.usage, is_sample=source.kind == "sample")
    if request.config.wandb_artifact:
        log_best(trainer, run_dir, summary)


def log_best(trainer: Trainer, run_dir: RunDir, summary: dict[str, Any]) -> None:
    """Logs the checkpoint of the summary to W&B as a model artifact, with the results in its metadata."""
    if summary["checkpoint"] is not None:
        metadata = {name: summary[name] for name in ("data_source", "recipe", "seed", "best_validation", "test")}
        log_model(trainer, run_dir.checkpoints / summary["checkpoint"], run_dir.path / "config.yaml", metadata)


def draw_run_curves(
    rows: list[dict[str, float]], monitor: str, run_dir: RunDir, data: SourceDataModule, trainer: Trainer
) -> None:
    """Draws the curves of the run's metrics `rows`, and sends them to the loggers."""
    steps_per_epoch = trainer.num_training_batches / trainer.accumulate_grad_batches  # infinite for data without end
    with report_plot_errors("curves.png"):
        caption = run_caption(run_dir.plots, data, "training and validation")
        epoch = steps_per_epoch if math.isfinite(steps_per_epoch) else None
        if path := draw_curves(rows, run_dir.plots / "curves.png", monitor, epoch, caption):
            log_plot(trainer, "curves", path)


def best_validation(rows: list[dict[str, float]], monitor: str, best: str | None) -> dict[str, float]:
    """Validation metrics and step of the checkpoint `best`, or of the last weights if None; empty without validation."""
    end = math.inf if best is None else int(Path(best).stem.removeprefix("best-"))
    rows = [row for row in rows if monitor in row and row["step"] <= end]
    if not rows:
        return {}
    return {key: value for key, value in rows[-1].items() if key.startswith("val/")} | {"step": int(rows[-1]["step"])}


def git_commit() -> str | None:
    """Commit of the working tree, with a `+` if it has changes; None outside of a repository."""
    try:
        command = ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def versions() -> dict[str, str]:
    """Versions of Python and of the frameworks."""
    return {"python": sys.version.split()[0], "torch": torch.__version__, "lightning": lightning.__version__}


def print_summary(summary: dict[str, Any], run_dir: RunDir, usage: str, is_sample: bool) -> None:
    """Prints the last lines of a run: test metrics, where everything is, and the commands that use it."""
    costs = {
        "training seconds": f"{summary['train_seconds']:.0f}",
        "samples per second": f"{summary['samples_per_second']:.0f}",
    }
    print_results(summary["project"], summary["data_source"], is_sample, summary["test"], summary["metadata"] | costs)
    package, folder, name = f"python -m projects.{summary['project']}", run_dir.path, shlex.quote(run_dir.path.name)
    quoted = shlex.quote(str(folder))
    lines = [
        f"run folder: {folder} (plots/index.html, metrics.csv, config.yaml, summary.json)",
        f"again:      {package}.train --config {quoted}/config.yaml",
    ]
    if summary["checkpoint"] is not None:
        code = shlex.join(code_flags(folder / "config.yaml"))
        lines += [
            f"resume:     {package}.train --name {name} --resume auto --max_epochs N {code}".rstrip(),
            f"evaluate:   {package}.evaluate --checkpoint {quoted}/checkpoints/{summary['checkpoint']}",
            f"use:        {package}.{usage} --checkpoint {quoted}/checkpoints/{summary['checkpoint']}",
        ]
    print("\n".join(lines))


def print_results(
    project: str, data_source: str, is_sample: bool, metrics: dict[str, float], metadata: dict[str, Any]
) -> None:
    """Prints the table of metrics, and of what is text in `metadata`."""
    from rich.console import Console
    from rich.table import Table

    note = " (EMBEDDED SAMPLE, not the real data set)" if is_sample else ""
    table = Table(title=f"{project} on {data_source}{note}", title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in metrics.items():
        table.add_row(name, f"{value:.4f}")
    for name, text in metadata.items():
        if isinstance(text, str):
            table.add_row(name, text)
    Console(highlight=False, soft_wrap=True, markup=False, emoji=False).print(table)
