"""Finished runs as W&B has them, by its public API."""

from __future__ import annotations

import os
from typing import Any

from common.compare.records import Curve, RunRecord, choose_curve, flat_settings
from common.errors import UserError

TIMEOUT = 20  # seconds for each answer
STEP = "trainer/global_step"
POINTS = 500  # of a curve, at most


def read_wandb(path: str, api: Any = None) -> tuple[list[RunRecord], list[str]]:
    """The finished runs of the W&B project `path`, and a line about each other one.

    Args:
        path: ENTITY/PROJECT.
        api: a `wandb.Api`; by default a new one.

    Raises:
        UserError: no such project, no key, no network, or wandb is not installed. Nothing is asked for.
    """
    if path.count("/") != 1 or not all(path.split("/")):
        raise UserError(f"--wandb {path}: name it as ENTITY/PROJECT")
    records: list[RunRecord] = []
    complaints: list[str] = []
    try:
        for run in (api or new_api(path)).runs(path):
            if run.state != "finished":
                complaints.append(f"{path}/{run.name}: {run.state}")
                continue
            try:
                records.append(read_wandb_run(run, path.split("/")[1].removeprefix("capstones-")))
            except (KeyError, ValueError, TypeError, AttributeError) as error:
                complaints.append(f"{path}/{run.name}: not a run of this suite: {type(error).__name__} {error}")
    except UserError:
        raise
    except Exception as error:  # what goes wrong on the way to a server has a dozen types
        raise UserError(f"--wandb {path}: {' '.join(str(error).split())[:200]}") from error
    return records, complaints


def new_api(path: str) -> Any:
    """A connection that never asks for a key and does not wait for long."""
    from common.io.loggers import offline_reason

    reason = "WANDB_MODE is disabled" if os.environ.get("WANDB_MODE") == "disabled" else offline_reason()
    if reason:
        raise UserError(f"--wandb {path}: {reason}")
    try:
        import wandb
    except ModuleNotFoundError as error:
        raise UserError('--wandb: wandb is not installed; run `pip install "lightning-capstones[wandb]"`') from error
    return wandb.Api(timeout=TIMEOUT)


def read_wandb_run(run: Any, project: str) -> RunRecord:
    """One run; what W&B does not know, such as the hardware's name, stays empty."""
    config = {name: value for name, value in dict(run.config).items() if not name.startswith("_")}
    source = config.pop("data/source")
    summary = {name: best_of(value) for name, value in dict(run.summary).items()}
    # the summary keeps the best of what was watched, and of the loss
    watched = {name: value for name, value in dict(run.summary).items() if hasattr(value, "keys") and "/" in name}
    monitor = min(watched, key=lambda name: (not name.startswith("val/"), name == "val/loss"), default="")
    figures = {name: value for name, value in summary.items() if name.startswith(("val/", "test/"))}
    curve_name = choose_curve(monitor, [figures | {name: 0.0 for name in summary if name == "train/loss"}])
    return RunRecord(
        project=project,
        name=str(run.name),
        source=str(source),
        recipe=str(config.get("recipe")),
        seed=int(config["seed"]),
        device="",
        settings=flat_settings(config),
        figures={name: float(value) for name, value in figures.items() if isinstance(value, int | float)},
        monitor=monitor,
        mode="min" if "min" in watched.get(monitor, {}) else "max",
        train_seconds=float(summary["perf/train_seconds"]),
        samples_per_second=float(summary["perf/samples_per_second"]),
        curve_name=curve_name,
        curve=read_curve(run, curve_name) if curve_name else [],
        command="",
    )


def best_of(value: Any) -> Any:
    """A summary's value: where W&B keeps the best instead of the last it is a dictionary of one."""
    return next(iter(dict(value).values())) if hasattr(value, "keys") and value.keys() else value


def read_curve(run: Any, name: str) -> Curve:
    """The curve of the figure `name` against the steps."""
    rows = run.history(keys=[name, STEP], samples=POINTS, pandas=False)
    return sorted((float(row[STEP]), float(row[name])) for row in rows if row.get(name) is not None)
