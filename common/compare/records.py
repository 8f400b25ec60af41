"""Finished runs as their folders have them: what each was, how it was set, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from common.errors import UserError
from common.io.metrics import read_metrics

RUN_FILES = ("config.yaml", "metrics.csv", "summary.json", "checkpoints")  # what tells a run's folder from any other
Curve = list[tuple[float, float]]  # (step, value), in the order of the steps


@dataclass
class RunRecord:
    """A finished run.

    Args:
        project: which capstone's.
        name: of the run.
        source: what figures call its data.
        recipe: what its settings are called.
        seed: of its random numbers.
        device: the hardware; empty if that is not known.
        settings: option -> value, as in `model.lr` -> 0.1, but for those that tell two runs of one kind apart.
        figures: the best validation's and the test's.
        monitor: the figure by which the best was chosen; empty if nothing is known to have been chosen.
        mode: whether more of it is better, "max", or less, "min".
        train_seconds: of the training alone.
        samples_per_second: in the training.
        curve_name: which figure's curve tells most of the training; empty if there is none.
        curve: that curve.
        command: what started it; empty if that is not known.
    """

    project: str
    name: str
    source: str
    recipe: str
    seed: int
    device: str
    settings: dict[str, Any]
    figures: dict[str, float]
    monitor: str
    mode: str
    train_seconds: float
    samples_per_second: float
    curve_name: str
    curve: Curve
    command: str


# what changes no figure, or has a place of its own in the record
OWN_SETTINGS = {"seed", "name", "recipe", "config", "resume", "wandb", "debug", "checkpoint_every", "data.source"}


def read_runs(paths: Sequence[Path]) -> tuple[list[RunRecord], list[str]]:
    """The runs in and below `paths`, each once, and a line about each that cannot be read.

    Raises:
        UserError: there is no such folder, or no run in it.
    """
    records: list[RunRecord] = []
    complaints: list[str] = []
    seen: set[Path] = set()
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path}: no such folder; give run folders, or a folder of them such as runs/")
        folders = list(run_folders(path))
        if not folders:
            raise UserError(f"{path}: no run in this folder; `python -m projects.NAME.train` makes one")
        for folder in folders:
            if folder.resolve() in seen:
                continue
            seen.add(folder.resolve())
            try:
                records.append(read_run(folder))
            except UserError as error:
                complaints.append(str(error))
    return records, complaints


def run_folders(path: Path, depth: int = 2) -> Iterator[Path]:
    """`path` itself if it is a run's folder, else those down to `depth` folders below it, in order of name."""
    if any((path / name).exists() for name in RUN_FILES):
        yield path
    elif depth:
        for folder in sorted(path.iterdir()):
            if folder.is_dir():
                yield from run_folders(folder, depth - 1)


def read_run(folder: Path) -> RunRecord:
    """The run in `folder`.

    Raises:
        UserError: it has not ended, or one of its files is missing or damaged.
    """
    if not (folder / "summary.json").is_file():
        raise UserError(f"{folder}: no summary.json; the run has not ended")
    try:
        summary = json.loads((folder / "summary.json").read_text())
        config = yaml.safe_load((folder / "config.yaml").read_text())
        rows = read_metrics(folder / "metrics.csv")
        monitor = summary.get("monitor", "")
        figures = {**summary["best_validation"], **summary["test"]}
        curve_name = choose_curve(monitor, rows)
        return RunRecord(
            project=str(summary["project"]),
            name=folder.resolve().name,
            source=str(summary["data_source"]),
            recipe=str(summary["recipe"]),
            seed=int(summary["seed"]),
            device=str(summary["device"]),
            settings=flat_settings(config),
            figures={name: float(value) for name, value in figures.items() if name != "step"},
            monitor=monitor,
            mode=summary.get("mode", "max"),
            train_seconds=float(summary["train_seconds"]),
            samples_per_second=float(summary["samples_per_second"]),
            curve_name=curve_name,
            curve=[(row["step"], row[curve_name]) for row in rows if curve_name in row and "step" in row],
            command=str(summary.get("command", "")),
        )
    except OSError as error:
        raise UserError(f"{error.filename or folder}: {error.strerror or error}") from error
    except KeyError as error:
        raise UserError(f"{folder}: its summary.json has no {error}") from error
    except (ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise UserError(f"{folder}: damaged: {' '.join(str(error).split())[:120]}") from error


def choose_curve(monitor: str, rows: Sequence[dict[str, float]]) -> str:
    """The figure to draw: the one that was watched, else a loss, else any of validation; empty if `rows` have none."""
    names = {name for row in rows for name in row}
    others = sorted(name for name in names if name.startswith("val/"))
    return next((name for name in (monitor, "val/loss", "train/loss", *others) if name in names), "")


def flat_settings(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The settings of a nest as one level, with dots between the names, without `OWN_SETTINGS`.

    >>> flat_settings({"seed": 3, "model": {"lr": 0.1, "widths": [8, 8]}})
    {'model.lr': 0.1, 'model.widths': [8, 8]}
    """
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict) and value:
            flat |= flat_settings(value, f"{prefix}{name}.")
        elif f"{prefix}{name}" not in OWN_SETTINGS:
            flat[f"{prefix}{name}"] = value
    return flat
