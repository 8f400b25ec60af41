"""Run records: settings, metrics and curve of finished runs, read from their run folders."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from common.errors import UserError, one_line
from common.io.metrics import read_metrics

RUN_FILES = ("config.yaml", "metrics.csv", "summary.json", "checkpoints")  # any of them marks a run folder
# settings that change no metric, or have a field of their own in the record
UNCOMPARED_SETTINGS = {"seed", "name", "recipe", "config", "resume", "debug", "checkpoint_every", "data.source"}
UNCOMPARED_SETTINGS |= {"wandb", "wandb_artifact", "tags", "notes", "group", "logger", "trainer.logger"}
Curve = list[tuple[float, float]]  # (step, value), in the order of the steps


@dataclass
class RunRecord:
    """Finished run.

    Args:
        project: Name of the capstone.
        name: Name of the run.
        source: Label of its data.
        data_path: Path of its data; empty if it is no folder or file.
        recipe: Name of its recipe.
        seed: Random seed.
        device: Hardware; empty if unknown.
        settings: Option -> value, as in `model.lr` -> 0.1, without `UNCOMPARED_SETTINGS`.
        metrics: Metric -> value: those of the best validation, and of the test.
        monitor: Metric that selected the best checkpoint; empty if unknown.
        mode: "max" if a higher value of it is better, "min" if a lower one is.
        train_seconds: Time of the training alone.
        samples_per_second: Training throughput.
        curve_name: Metric of the curve; empty if there is none.
        curve: Values of that metric against the steps.
        command: Command that started the run; empty if unknown.
    """

    project: str
    name: str
    source: str
    data_path: str
    recipe: str
    seed: int
    device: str
    settings: dict[str, Any]
    metrics: dict[str, float]
    monitor: str
    mode: str
    train_seconds: float
    samples_per_second: float
    curve_name: str
    curve: Curve
    command: str


def read_runs(paths: Sequence[Path]) -> tuple[list[RunRecord], list[str]]:
    """Runs in and below `paths`, each once, and a line about each that cannot be read.

    Raises:
        UserError: There is no such folder, or no run in it.
    """
    folders: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path}: no such folder; give run folders, or a folder of them such as runs/")
        found = list(run_folders(path))
        if not found:
            raise UserError(f"{path}: no run in this folder; `python -m projects.NAME.train` makes one")
        for folder in found:
            folders.setdefault(folder.resolve(), folder)
    records: list[RunRecord] = []
    errors: list[str] = []
    for folder in folders.values():
        try:
            records.append(read_run(folder))
        except UserError as error:
            errors.append(str(error))
    return records, errors


def run_folders(path: Path, depth: int = 2) -> Iterator[Path]:
    """`path` itself if it is a run folder, else those down to `depth` folders below it, in order of name."""
    if any((path / name).exists() for name in RUN_FILES):
        yield path
    elif depth:
        for folder in sorted(path.iterdir()):
            if folder.is_dir():
                yield from run_folders(folder, depth - 1)


def read_run(folder: Path) -> RunRecord:
    """Run in `folder`.

    Raises:
        UserError: It has not ended, or its summary or configuration is missing or damaged. Without its metrics.csv it has no
            curve, and with a damaged one the curve of the readable rows, in a line on stderr.
    """
    if not (folder / "summary.json").is_file():
        raise UserError(f"{folder}: no summary.json; the run has not ended")
    summary = read_mapping(folder / "summary.json", json.loads)
    config = read_mapping(folder / "config.yaml", yaml.safe_load)
    try:
        rows = read_metrics(folder / "metrics.csv")
    except OSError as error:
        print(f"{folder / 'metrics.csv'}: {error.strerror}: no curve", file=sys.stderr)
        rows = []
    try:
        monitor = summary.get("monitor", "")
        metrics = {**summary["best_validation"], **summary["test"]}
        curve_name = choose_curve(monitor, rows)
        return RunRecord(
            project=str(summary["project"]),
            name=folder.resolve().name,
            source=str(summary["data_source"]),
            data_path=str(summary.get("data_path") or ""),
            recipe=str(summary["recipe"]),
            seed=int(summary["seed"]),
            device=str(summary["device"]),
            settings=flat_settings(config),
            metrics={name: float(value) for name, value in metrics.items() if name != "step"},
            monitor=monitor,
            mode=summary.get("mode", "max"),
            train_seconds=float(summary["train_seconds"]),
            samples_per_second=float(summary["samples_per_second"]),
            curve_name=curve_name,
            curve=[(row["step"], row[curve_name]) for row in rows if curve_name in row],
            command=str(summary.get("command", "")),
        )
    except KeyError as error:
        raise UserError(f"{folder}: its summary.json has no {error}") from error
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(f"{folder}: its summary.json is damaged: {one_line(error, 120)}") from error


def read_mapping(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    """Mapping that `parse` finds in the text of a file. Raises UserError if the file is missing or damaged."""
    try:
        value = parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: damaged: {one_line(error, 120)}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: damaged: {'empty' if value is None else 'no mapping of names to values'}")
    return value


def choose_curve(monitor: str, rows: Sequence[dict[str, float]]) -> str:
    """Metric to plot: the monitored one, else a loss, else any of validation; empty if `rows` have none."""
    names = {name for row in rows for name in row}
    validation = sorted(name for name in names if name.startswith("val/"))
    return next((name for name in (monitor, "val/loss", "train/loss", *validation) if name in names), "")


def flat_settings(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level, with dotted names, without `UNCOMPARED_SETTINGS`.

    >>> flat_settings({"seed": 3, "trainer": {"logger": {"class_path": "X"}}, "model": {"lr": 0.1, "dims": [8, 8]}})
    {'model.lr': 0.1, 'model.dims': [8, 8]}
    """
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if f"{prefix}{name}" in UNCOMPARED_SETTINGS:
            continue
        if isinstance(value, dict) and value:
            flat |= flat_settings(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
