"""Figures that the READMEs quote: JSON files under `results/`, each with the command, data and hardware behind it.

`python -m benchmarks.results NAME RUN_FOLDER...` gathers finished runs into `results/NAME.json`: runs of one recipe with
several seeds as mean and deviation, or with `--each` runs of different settings one by one, beside those gathered before.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

from common.cli.command import report_errors
from common.errors import UserError
from common.run.summary import git_commit, versions

RESULTS = Path(__file__).parents[1] / "results"


def write_result(name: str, figures: dict[str, Any], command: str | None = None) -> Path:
    """Writes `figures` with their command (default: this process's), git commit and versions; returns the path."""
    module = Path(sys.argv[0]).resolve().relative_to(RESULTS.parent).with_suffix("").as_posix().replace("/", ".")
    command = command or " ".join(["python -m", module, *sys.argv[1:]])
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    record = {"command": command, "git_commit": git_commit(), "versions": versions(), **rounded(figures)}
    path.write_text(json.dumps(record, indent=2) + "\n")
    return path


def read_result(name: str) -> dict[str, Any]:
    """What `write_result` wrote. Raises UserError if nobody has."""
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        raise UserError(f"{path}: not measured yet")
    return dict(json.loads(path.read_text()))


def rounded(figures: Any) -> Any:
    """`figures` with every float to five significant digits: more would be noise."""
    if isinstance(figures, dict):
        return {key: rounded(value) for key, value in figures.items()}
    if isinstance(figures, list):
        return [rounded(value) for value in figures]
    return float(f"{figures:.5g}") if isinstance(figures, float) else figures


def gather(folders: list[Path]) -> dict[str, Any]:
    """The summaries of runs that differ in nothing but their seed, with mean and deviation over them.

    Raises:
        UserError: a folder without a summary, or runs of different recipes, data or settings.
    """
    summaries = [read_summary(folder) for folder in folders]
    first = summaries[0]
    shared = ("project", "data_source", "recipe", "device", "devices", "precision", "parameters", "epochs", "steps")
    for key in shared:
        if len({json.dumps(summary[key]) for summary in summaries}) > 1:
            raise UserError(f"the runs differ in {key}: {', '.join(str(summary[key]) for summary in summaries)}")
    figures: dict[str, list[float]] = {}
    for summary in summaries:
        for key, value in {**summary["test"], **summary["best_validation"]}.items():
            figures.setdefault(key, []).append(value)
        for key in ("train_seconds", "wall_seconds", "samples_per_second"):
            figures.setdefault(key, []).append(summary[key])
    return {
        **{key: first[key] for key in shared},
        "notes": first.get("notes", {}),
        "commands": [without_folders(summary["command"]) for summary in summaries],
        "run_commits": [summary.get("git_commit") for summary in summaries],
        "seeds": [summary["seed"] for summary in summaries],
        "mean": {key: statistics.mean(values) for key, values in figures.items()},
        "deviation": {key: statistics.stdev(values) if len(values) > 1 else 0.0 for key, values in figures.items()},
        "each": figures,
    }


def list_each(folders: list[Path], earlier: dict[str, Any] | None = None) -> dict[str, Any]:
    """The best validation figures and the time of each run by the run's name, behind the `earlier` result's runs."""
    keys = ("command", "git_commit", "data_source", "device", "precision", "epochs", "steps", "train_seconds")
    keys += ("best_validation", "test")
    summaries = [read_summary(folder) for folder in folders]
    runs = {summary["name"]: {key: summary[key] for key in keys} for summary in summaries}
    for run in runs.values():
        run["command"] = without_folders(run["command"])
    return {"runs": {**(earlier or {"runs": {}})["runs"], **runs}}


def without_folders(command: str) -> str:
    """`command` with absolute paths cut to their last part: where things are on this machine says nothing to others.

    >>> without_folders("train --data.source /home/me/data/multi30k --seed 0")
    'train --data.source .../multi30k --seed 0'
    """
    return re.sub(r"(?<=[\s=])/\S*/(?=\S)", ".../", command)


def read_summary(folder: Path) -> dict[str, Any]:
    """The `summary.json` of a run folder. Raises UserError if there is none."""
    if not (folder / "summary.json").is_file():
        raise UserError(f"{folder}: no summary.json; is the run finished?")
    return dict(json.loads((folder / "summary.json").read_text()))


def main() -> int:
    """Gathers the runs named on the command line."""
    parser = argparse.ArgumentParser(description="Gather finished runs into results/NAME.json.")
    parser.add_argument("name", help="of the result, such as cifar10-default")
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--each", action="store_true", help="list runs of different settings, beside those listed before")
    arguments = parser.parse_args()
    if arguments.each:
        known = (RESULTS / f"{arguments.name}.json").is_file()
        figures = list_each(arguments.runs, read_result(arguments.name) if known else None)
    else:
        figures = gather(arguments.runs)
    print(write_result(arguments.name, figures))
    return 0


if __name__ == "__main__":
    sys.exit(report_errors(main))
