"""Run records of a W&B project, read by its public API."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from common.compare.records import Curve, RunRecord, choose_curve, flat_settings
from common.errors import UserError, one_line
from common.io.connectivity import within
from common.io.wandb_server import API_SECONDS, new_api, stop_wandb

STEP = "trainer/global_step"
MAX_CURVE_POINTS = 500


def read_wandb(path: str, api: Any = None, timeout: float = API_SECONDS) -> tuple[list[RunRecord], list[str]]:
    """Finished runs of the W&B project `path`, and a line about each other one.

    Args:
        path: ENTITY/PROJECT.
        api: A `wandb.Api`; by default a new one.
        timeout: Seconds for each answer.

    Raises:
        UserError: No such project, no key, a server that fails or cannot be reached, or wandb cannot be imported. It
            never prompts.
    """
    if path.count("/") != 1 or not all(path.split("/")):
        raise UserError(f"--wandb {path}: name it as ENTITY/PROJECT")
    records: list[RunRecord] = []
    errors: list[str] = []
    try:
        api = api or new_api(f"--wandb {path}")
        runs = within(timeout, lambda: iter(api.runs(path)))
        while (run := within(timeout, lambda: next(runs, None))) is not None:
            if run.state != "finished":
                errors.append(f"{path}/{run.name}: {run.state}")
                continue
            try:
                project = path.split("/")[1].removeprefix("capstones-")
                records.append(within(timeout, partial(read_wandb_run, run, project)))
            except (KeyError, ValueError, TypeError, AttributeError) as error:
                errors.append(f"{path}/{run.name}: not a run of this suite: {type(error).__name__} {error}")
    except UserError:
        raise
    except Exception as error:  # what goes wrong on the way to a server has a dozen types
        stop_wandb()
        late = f"W&B's server has not answered within {timeout:g} seconds"
        raise UserError(f"--wandb {path}: {late if isinstance(error, TimeoutError) else one_line(error, 200)}") from error
    return records, errors


def read_wandb_run(run: Any, project: str) -> RunRecord:
    """Record of one run; what W&B does not know, such as the device, stays empty."""
    config = {name: value for name, value in dict(run.config).items() if not name.startswith("_")}
    source = str(config.pop("data/source"))
    option = str((config.get("data") or {}).get("source", ""))  # W&B knows no absolute path
    summary = {name: best_of(value) for name, value in dict(run.summary).items()}
    # the summary keeps the best value, in a dict, of the monitored metric and of the loss
    best = {name: value for name, value in dict(run.summary).items() if hasattr(value, "keys") and "/" in name}
    monitor = min(best, key=lambda name: (not name.startswith("val/"), name == "val/loss"), default="")
    metrics = {name: value for name, value in summary.items() if name.startswith(("val/", "test/"))}
    curve_name = choose_curve(monitor, [metrics | {name: 0.0 for name in summary if name == "train/loss"}])
    return RunRecord(
        project=project,
        name=str(run.name),
        source=source,
        data_path=os.path.normpath(option) if option != source and "/" in option else "",
        recipe=str(config.get("recipe")),
        seed=int(config["seed"]),
        device="",
        settings=flat_settings(config),
        metrics={name: float(value) for name, value in metrics.items() if isinstance(value, int | float)},
        monitor=monitor,
        mode="min" if "min" in best.get(monitor, {}) else "max",
        train_seconds=float(summary["perf/train_seconds"]),
        samples_per_second=float(summary["perf/samples_per_second"]),
        curve_name=curve_name,
        curve=read_curve(run, curve_name) if curve_name else [],
        command="",
    )


def best_of(value: Any) -> Any:
    """Value in a summary; where W&B keeps the best instead of the last, it is a dict of one."""
    return next(iter(dict(value).values())) if hasattr(value, "keys") and value.keys() else value


def read_curve(run: Any, name: str) -> Curve:
    """Values of the metric `name` against the steps."""
    rows = run.history(keys=[name, STEP], samples=MAX_CURVE_POINTS, pandas=False)
    return sorted((float(row[STEP]), float(row[name])) for row in rows if row.get(name) is not None)
