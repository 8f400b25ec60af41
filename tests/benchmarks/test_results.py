"""Results: JSON files that hold what the runs measured, and how."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from benchmarks import results
from common.errors import UserError

SUMMARY = {
    "project": "cifar10",
    "data_source": "somewhere",
    "recipe": "default",
    "device": "a processor",
    "devices": 1,
    "precision": "32-true",
    "parameters": 7,
    "epochs": 2,
    "steps": 20,
    "train_seconds": 60.0,
    "wall_seconds": 70.0,
    "samples_per_second": 500.0,
    "metadata": {},
    "git_commit": "abc",
}


def make_run(root: Path, seed: int, accuracy: float, **changes: object) -> Path:
    run_dir = root / f"run-{seed}"
    run_dir.mkdir()
    summary = {
        **SUMMARY,
        "name": run_dir.name,
        "command": f"train --seed {seed}",
        "seed": seed,
        "test": {"test/accuracy": accuracy},
        "best_validation": {"val/loss": 1.0 - accuracy},
        **changes,
    }
    (run_dir / "summary.json").write_text(json.dumps(summary))
    return run_dir


def test_merged_runs_have_mean_and_standard_deviation(tmp_path):
    accuracies = [0.90, 0.92, 0.91]
    merged = results.merge_seeds([make_run(tmp_path, seed, accuracy) for seed, accuracy in enumerate(accuracies)])
    assert merged["mean"]["test/accuracy"] == pytest.approx(statistics.mean(accuracies))
    assert merged["std"]["test/accuracy"] == pytest.approx(0.01)
    assert merged["per_seed"]["test/accuracy"] == accuracies
    assert (merged["seeds"], merged["commands"][2]) == ([0, 1, 2], "train --seed 2")
    assert merged["std"]["train_seconds"] == 0


def test_results_have_no_folders_of_this_machine(tmp_path):
    command = "train --data.source /home/me/data/multi30k --config ../a.yaml --resume=/b/c.ckpt --seed 0"
    run_dir = make_run(tmp_path, 0, 0.9, command=command)
    shown = "train --data.source .../multi30k --config ../a.yaml --resume=.../c.ckpt --seed 0"
    assert results.merge_seeds([run_dir])["commands"] == [shown]
    assert results.list_each([run_dir])["runs"]["run-0"]["command"] == shown


@pytest.mark.parametrize("change", [{"data_source": "sample"}, {"steps": 21}, {"recipe": "other"}])
def test_runs_that_differ_in_more_than_their_seed_are_not_averaged(tmp_path, change):
    run_dirs = [make_run(tmp_path, 0, 0.9), make_run(tmp_path, 1, 0.9, **change)]
    with pytest.raises(UserError, match=f"differ in {next(iter(change))}"):
        results.merge_seeds(run_dirs)


def test_an_unfinished_run_is_named(tmp_path):
    with pytest.raises(UserError, match=r"run-9: no summary\.json"):
        results.merge_seeds([tmp_path / "run-9"])


def test_a_result_is_read_back_with_five_digits_and_its_provenance(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    monkeypatch.setattr("sys.argv", [str(tmp_path / "benchmarks" / "x.py"), "--steps", "3"])
    results.write_result("thing", {"a": [1.23456789, 2], "b": {"c": 123456.789}})
    read = results.read_result("thing")
    assert (read["a"], read["b"]) == ([1.2346, 2], {"c": 123460.0})
    assert read["command"] == "python -m benchmarks.x --steps 3"
    assert set(read["versions"]) == {"python", "torch", "lightning"}
    with pytest.raises(UserError, match="not measured yet"):
        results.read_result("other")


@pytest.mark.parametrize("path", sorted(results.RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_a_result_has_its_provenance(path):
    result = json.loads(path.read_text())
    assert result["schema"] == results.SCHEMA, "run `python -m benchmarks.migrate_results`"
    assert result["command"].startswith("python -m benchmarks.") and result["git_commit"] and result["versions"]
    for run in result.get("runs", {"": result}).values():
        assert run["device"]
    if "commands" in result:
        assert result["data_source"] and result["mean"]["train_seconds"] > 0
        assert len(result["seeds"]) == len(result["commands"]) == len(result["per_seed"]["train_seconds"])
