"""Migration of results: keys and commands change their names once, and nothing else changes."""

from __future__ import annotations

import copy
import json
from collections import Counter
from typing import Any

import pytest

from benchmarks import migrate_results
from benchmarks.migrate_results import Renames, migrate, renamed, renames_of
from benchmarks.results import RESULTS

TABLE = {
    "*": Renames(keys={"notes": "metadata", "deviation": "std"}, flags={"rounds": "repeats"}),
    "cnn-*": Renames(
        keys={"test/accuracy": "test/accuracy_tta", "test/accuracy_plain": "test/accuracy"},  # two names swap
        flags={
            "model.widths": "model.cnn.channels",
            "data.test_on validation": "data.test_split val",
            "model.lr": "model.rate",
        },
        words={"projects.cnn.sample": "projects.cnn.generate", "benchmarks.old": "benchmarks.new"},
    ),
    "gan-*": Renames(keys={"distance": "frechet_distance", "frechet": "frechet_distance"}),
}
RESULT = {
    "command": "python -m benchmarks.old cnn-default runs/cnn/a --rounds 2",
    "notes": {"samples": 7, "notes": "notes"},
    "commands": [
        "python -m projects.cnn.train --model.widths '[1,2]' --model.lr=0.1 --model.lr_min 0 --data.test_on validation",
        "python -m projects.cnn.sample --features projects.cnn.sample:load --data.test_on test",
    ],
    "mean": {"test/accuracy": 0.9, "test/accuracy_plain": 0.8, "test/loss": 0.5, "val/accuracy": 0.7},
    "deviation": {"test/accuracy": 0.0, "test/accuracy_plain": 0.1},
    "runs": {"first": {"command": "python -m projects.cnn.train", "test": {"test/accuracy_plain": [1, True, None]}}},
}
MIGRATED = {
    "schema": 2,
    "command": "python -m benchmarks.new cnn-default runs/cnn/a --repeats 2",
    "metadata": {"samples": 7, "metadata": "notes"},
    "commands": [
        "python -m projects.cnn.train --model.cnn.channels '[1,2]' --model.rate=0.1 --model.lr_min 0 --data.test_split val",
        "python -m projects.cnn.generate --features projects.cnn.generate:load --data.test_on test",
    ],
    "mean": {"test/accuracy_tta": 0.9, "test/accuracy": 0.8, "test/loss": 0.5, "val/accuracy": 0.7},
    "std": {"test/accuracy_tta": 0.0, "test/accuracy": 0.1},
    "runs": {"first": {"command": "python -m projects.cnn.train", "test": {"test/accuracy": [1, True, None]}}},
}


@pytest.fixture
def table(monkeypatch):
    monkeypatch.setattr(migrate_results, "RENAMES", TABLE)


def test_keys_flags_values_and_modules_are_renamed_in_order(table):
    migrated = migrate("cnn-default", copy.deepcopy(RESULT))
    assert json.dumps(migrated) == json.dumps(MIGRATED)


def test_a_second_migration_changes_nothing(table):
    once = migrate("cnn-default", RESULT)
    assert migrate("cnn-default", once) is once


def test_a_result_of_another_capstone_keeps_its_names(table):
    assert migrate("other-default", RESULT)["mean"] == RESULT["mean"]


def test_a_value_under_two_names_is_kept_once_and_two_values_are_refused(table):
    assert migrate("gan-x", {"distance": 1.5, "frechet": 1.5})["frechet_distance"] == 1.5
    with pytest.raises(ValueError, match="two values of frechet_distance"):
        migrate("gan-x", {"distance": 1.5, "frechet": 2.5})


def leaves(value: Any) -> Counter[str]:
    """Values of a result by how often they occur, without its commands."""
    if isinstance(value, dict):
        return sum((leaves(item) for key, item in value.items() if key != "schema"), Counter())
    if isinstance(value, list):
        return sum(map(leaves, value), Counter())
    return Counter() if isinstance(value, str) and value.startswith("python -m ") else Counter([repr(value)])


FILES = pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)


@FILES
def test_a_migration_keeps_every_value_of_a_real_result(path):
    """With the old keys again, a result has the same values, and the migration gives the same file."""
    text = path.read_text()
    result = json.loads(text)
    assert migrate(path.stem, result) is result
    old_keys = Renames(keys={new: old for old, new in renames_of(path.stem).keys.items()})
    unmigrated = renamed({key: value for key, value in result.items() if key != "schema"}, old_keys)
    assert leaves(unmigrated) == leaves(result)
    assert json.dumps(migrate(path.stem, unmigrated), indent=2) + "\n" == text


@FILES
def test_no_old_name_is_left(path):
    """A key that the table renames is gone, unless it is another key's new name."""
    renames = renames_of(path.stem).keys
    text = path.read_text()
    assert not [name for name in renames.keys() - renames.values() if f'"{name}": ' in text]
