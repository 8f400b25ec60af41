"""Results that the READMEs quote: JSON files under `results/`, each with command, data and hardware.

`python -m benchmarks.results NAME RUN_DIR...` merges finished runs into `results/NAME.json`: runs that differ in their seed
alone as mean and standard deviation, or with `--each` runs of different settings one by one, after those listed before.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

from common.cli.command import OneLineParser, report_errors
from common.errors import UserError
from common.run.summary import git_commit, versions

RESULTS = Path(__file__).parents[1] / "results"
SCHEMA = 2  # version of the keys; see `benchmarks.migrate_results`


def write_result(name: str, result: dict[str, Any]) -> Path:
    """Writes a result with this process's command, git commit and versions; returns the path."""
    module = Path(sys.argv[0]).resolve().relative_to(RESULTS.parent).with_suffix("").as_posix().replace("/", ".")
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    provenance = {
        "schema": SCHEMA,
        "command": " ".join(["python -m", module, *sys.argv[1:]]),
        "git_commit": git_commit(),
        "versions": versions(),
    }
    path.write_text(json.dumps({**provenance, **rounded(result)}, indent=2) + "\n")
    return path


def read_result(name: str) -> dict[str, Any]:
    """Result that `write_result` wrote. Raises UserError if there is none."""
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        raise UserError(f"{path}: not measured yet")
    return dict(json.loads(path.read_text()))


def rounded(result: Any) -> Any:
    """Result with every float rounded to five significant digits; the rest would be noise."""
    if isinstance(result, dict):
        return {key: rounded(value) for key, value in result.items()}
    if isinstance(result, list):
        return [rounded(value) for value in result]
    return float(f"{result:.5g}") if isinstance(result, float) else result


def merge_seeds(run_dirs: list[Path]) -> dict[str, Any]:
    """Summaries of runs that differ in their seed alone, with mean and standard deviation of each metric.

    Raises:
        UserError: A run without a summary, or runs of different recipes, data or settings.
    """
    summaries = [read_summary(run_dir) for run_dir in run_dirs]
    first = summaries[0]
    common = ("project", "data_source", "recipe", "device", "devices", "precision", "parameters", "epochs", "steps")
    for key in common:
        if len({json.dumps(summary[key]) for summary in summaries}) > 1:
            raise UserError(f"the runs differ in {key}: {', '.join(str(summary[key]) for summary in summaries)}")
    costs = ("train_seconds", "wall_seconds", "samples_per_second")
    return {
        **{key: first[key] for key in common},
        "metadata": first["metadata"],
        "commands": [without_folders(summary["command"]) for summary in summaries],
        "run_commits": [summary["git_commit"] for summary in summaries],
        "seeds": [summary["seed"] for summary in summaries],
        **statistics_over_seeds(
            [{**run["test"], **run["best_validation"], **{key: run[key] for key in costs}} for run in summaries]
        ),
    }


def statistics_over_seeds(runs: list[dict[str, float]]) -> dict[str, dict[str, Any]]:
    """Mean, standard deviation (0 for one run) and values per seed of each metric of the runs."""
    per_seed: dict[str, list[float]] = {}
    for run in runs:
        for key, value in run.items():
            per_seed.setdefault(key, []).append(value)
    return {
        "mean": {key: statistics.mean(values) for key, values in per_seed.items()},
        "std": {key: statistics.stdev(values) if len(values) > 1 else 0.0 for key, values in per_seed.items()},
        "per_seed": per_seed,
    }


def list_each(run_dirs: list[Path], previous: dict[str, Any] | None = None) -> dict[str, Any]:
    """Best validation metrics, test metrics and training time of each run by its name, after the runs of `previous`."""
    keys = ["command", "git_commit", "data_source", "device", "precision", "epochs", "steps", "train_seconds"]
    keys += ["best_validation", "test", "metadata"]
    summaries = [read_summary(run_dir) for run_dir in run_dirs]
    runs = {summary["name"]: {key: summary[key] for key in keys} for summary in summaries}
    for run in runs.values():
        run["command"] = without_folders(run["command"])
    return {"runs": {**(previous or {"runs": {}})["runs"], **runs}}


def without_folders(command: str) -> str:
    """Command with absolute paths cut to their last part, as folders of this machine mean nothing elsewhere.

    >>> without_folders("train --data.source /home/me/data/multi30k --seed 0")
    'train --data.source .../multi30k --seed 0'
    """
    return re.sub(r"(?<=[\s=])/\S*/(?=\S)", ".../", command)


def read_summary(run_dir: Path) -> dict[str, Any]:
    """The `summary.json` of a run directory. Raises UserError if there is none."""
    if not (run_dir / "summary.json").is_file():
        raise UserError(f"{run_dir}: no summary.json; is the run finished?")
    return dict(json.loads((run_dir / "summary.json").read_text()))


def main() -> int:
    """Merges the runs on the command line."""
    parser = OneLineParser(description="Merge finished runs into results/NAME.json.")
    parser.add_argument("name", help="Name of the result, such as cifar10-default.")
    parser.add_argument("runs", nargs="+", type=Path, help="Run directories.")
    parser.add_argument("--each", action="store_true", help="List runs of different settings, after those listed before.")
    arguments = parser.parse_args()
    if arguments.each:
        exists = (RESULTS / f"{arguments.name}.json").is_file()
        result = list_each(arguments.runs, read_result(arguments.name) if exists else None)
    else:
        result = merge_seeds(arguments.runs)
    print(write_result(arguments.name, result))
    return 0


if __name__ == "__main__":
    sys.exit(report_errors(main))
