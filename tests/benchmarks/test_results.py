"""What READMEs quote is what the result files say, and result files say what the runs measured."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest

from benchmarks import results, tables
from benchmarks.tables import BLOCK, READMES, TABLES, with_tables
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
}


def run_folder(root: Path, seed: int, accuracy: float, **changes: object) -> Path:
    folder = root / f"run-{seed}"
    folder.mkdir()
    summary = {
        **SUMMARY,
        "name": folder.name,
        "command": f"train --seed {seed}",
        "seed": seed,
        "test": {"test/accuracy": accuracy},
        "best_validation": {"val/loss": 1.0 - accuracy},
        **changes,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_gathered_runs_have_their_mean_and_deviation(tmp_path):
    accuracies = [0.90, 0.92, 0.91]
    gathered = results.gather([run_folder(tmp_path, seed, accuracy) for seed, accuracy in enumerate(accuracies)])
    assert gathered["mean"]["test/accuracy"] == pytest.approx(statistics.mean(accuracies))
    assert gathered["deviation"]["test/accuracy"] == pytest.approx(0.01)
    assert gathered["each"]["test/accuracy"] == accuracies
    assert (gathered["seeds"], gathered["commands"][2]) == ([0, 1, 2], "train --seed 2")
    assert gathered["deviation"]["train_seconds"] == 0


def test_results_do_not_say_where_things_are_on_this_machine(tmp_path):
    command = "train --data.source /home/me/data/multi30k --config ../a.yaml --resume=/b/c.ckpt --seed 0"
    folder = run_folder(tmp_path, 0, 0.9, command=command, git_commit="abc")
    shown = "train --data.source .../multi30k --config ../a.yaml --resume=.../c.ckpt --seed 0"
    assert results.gather([folder])["commands"] == [shown]
    assert results.list_each([folder])["runs"]["run-0"]["command"] == shown


@pytest.mark.parametrize("change", [{"data_source": "sample"}, {"steps": 21}, {"recipe": "other"}])
def test_runs_that_differ_in_more_than_their_seed_are_not_averaged(tmp_path, change):
    folders = [run_folder(tmp_path, 0, 0.9), run_folder(tmp_path, 1, 0.9, **change)]
    with pytest.raises(UserError, match=f"differ in {next(iter(change))}"):
        results.gather(folders)


def test_an_unfinished_run_is_named(tmp_path):
    with pytest.raises(UserError, match=r"run-9: no summary\.json"):
        results.gather([tmp_path / "run-9"])


def test_a_result_comes_back_with_five_digits_and_what_made_it(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    monkeypatch.setattr("sys.argv", [str(tmp_path / "benchmarks" / "x.py"), "--steps", "3"])
    results.write_result("thing", {"a": [1.23456789, 2], "b": {"c": 123456.789}})
    read = results.read_result("thing")
    assert (read["a"], read["b"]) == ([1.2346, 2], {"c": 123460.0})
    assert read["command"] == "python -m benchmarks.x --steps 3"
    assert set(read["versions"]) == {"python", "torch", "lightning"}
    with pytest.raises(UserError, match="not measured yet"):
        results.read_result("other")


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.parent.name)
def test_the_tables_of_a_readme_are_those_of_the_results(readme):
    text = readme.read_text()
    assert with_tables(text) == text, "run `python -m benchmarks.tables`"


def altered(result: Any) -> Any:
    """A result with every number another."""
    if isinstance(result, dict):
        return {key: value if key in ("seeds", "commands") else altered(value) for key, value in result.items()}
    if isinstance(result, list):
        return [altered(value) for value in result]
    return result * 1.5 + 1 if isinstance(result, int | float) and not isinstance(result, bool) else result


@pytest.mark.parametrize("name", sorted(set(TABLES) - {"seq2seq-signatures"}))
def test_a_table_follows_its_results(name, monkeypatch):
    """No figure is written out in `tables.py`: with other results every table is another."""
    before = TABLES[name]()
    text = f"<!-- table: {name} -->\n{before}<!-- end of table -->"
    assert with_tables(text) == text
    monkeypatch.setattr(tables, "read_result", lambda name: altered(results.read_result(name)))
    assert with_tables(text) != text


def test_the_front_page_has_every_capstone_that_was_measured():
    measured = {path.name.partition("-")[0] for path in results.RESULTS.glob("*.json")}
    lines = [[cell.strip() for cell in line[1:-1].split("|")] for line in TABLES["front"]().splitlines()]
    header, body = lines[0], [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]
    assert header == ["capstone", "figure", "value", "data", "on", "training", "seeds", "command"]
    assert {re.findall(r"`(\w+)`", row["capstone"])[0] for row in body if row["capstone"]} == measured
    for row in body:
        assert row["on"] and re.fullmatch(r"`python -m (projects|benchmarks)\.[^`]+`( \([\d, ]+\))?", row["command"]), row
        trained = "projects." in row["command"]
        assert all(bool(row[name]) == trained for name in ("training", "seeds")) and (row["data"] or not trained), row


@pytest.mark.parametrize("path", sorted(results.RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_a_result_says_how_it_was_made(path):
    result = json.loads(path.read_text())
    assert result["command"].startswith("python -m benchmarks.") and result["git_commit"] and result["versions"]
    for run in result.get("runs", {"": result}).values():
        assert run["device"]
    if "commands" in result:
        assert result["data_source"] and result["mean"]["train_seconds"] > 0
        assert len(result["seeds"]) == len(result["commands"]) == len(result["each"]["train_seconds"])


def test_a_command_is_shown_as_others_would_type_it(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    recipe = tmp_path / "projects/x/recipes/y.yaml"
    recipe.parent.mkdir(parents=True)
    recipe.write_text("trainer: {max_epochs: 5}\nmodel: {lr: 0.001, width: 64}\n")
    run = "python -m projects.x.train --config projects/x/recipes/y.yaml --data.source ../a/b --seed 0 --name z"
    run += " --max_epochs 5 --model.lr 1.0e-3 --model.width 6"  # two that the recipe says too, and one that it does not
    shown = "python -m projects.x.train --config recipes/y.yaml --data.source FOLDER --seed 0 --model.width 6"
    assert tables.shown_command({"commands": [run, run, run], "seeds": [0, 4, 5]}) == f"`{shown}` (4, 5)"
    assert tables.shown_command({"commands": ["train --data.source sample"], "seeds": [0]}) == "`train --data.source sample`"
    benchmark = {"command": "python -m benchmarks.x --data /a/b --checkpoint runs/x/best.ckpt --rounds 2"}
    assert tables.shown_command(benchmark) == "`python -m benchmarks.x --data FOLDER --checkpoint PATH --rounds 2`"


def test_every_table_stands_in_some_readme():
    assert {name for path in READMES for _, name, _ in BLOCK.findall(path.read_text())} == set(TABLES)
