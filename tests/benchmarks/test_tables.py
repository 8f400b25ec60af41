"""Tables of the READMEs: generated from the results, and up to date."""

from __future__ import annotations

import re
from typing import Any

import pytest

from benchmarks import results
from benchmarks.tables import BLOCK, READMES, TABLES, with_tables
from benchmarks.tables.front import HEADER
from benchmarks.tables.policy_gradient import environment_steps


@pytest.mark.parametrize("readme", READMES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_tables_of_a_readme_are_those_of_the_results(readme):
    text = readme.read_text()
    assert with_tables(text) == text, "run `python -m benchmarks.tables`"


def test_every_table_is_in_one_readme():
    names = [name for path in READMES for _, name, _ in BLOCK.findall(path.read_text())]
    assert sorted(names) == sorted(TABLES)


def altered(result: Any) -> Any:
    """A result with every number changed."""
    if isinstance(result, dict):
        return {key: value if key in ("seeds", "commands") else altered(value) for key, value in result.items()}
    if isinstance(result, list):
        return [altered(value) for value in result]
    return result * 1.5 + 1 if isinstance(result, int | float) and not isinstance(result, bool) else result


@pytest.mark.parametrize("name", sorted(set(TABLES) - {"seq2seq-signatures"}))
def test_a_table_follows_its_results(name, monkeypatch):
    """No result is written out in `benchmarks/tables`: with other results every table is another."""
    if name == "export" and not (results.RESULTS / "export.json").is_file():
        pytest.skip("not measured yet")
    before, read_result = TABLES[name](), results.read_result
    monkeypatch.setattr(results, "read_result", lambda name: altered(read_result(name)))
    assert TABLES[name]() != before


def test_the_front_page_has_every_measured_capstone_and_fits_a_screen():
    lines = [[cell.strip() for cell in line[1:-1].split("|")] for line in TABLES["front"]().splitlines()]
    assert lines[0] == HEADER
    rows = [dict(zip(HEADER, line, strict=True)) for line in lines[2:]]
    measured = {path.name.partition("-")[0] for path in results.RESULTS.glob("*-*.json")}  # `export.json` is of all
    assert {re.findall(r"`(\w+)`", row["capstone"])[0] for row in rows if row["capstone"]} == measured
    assert all(row[name] for row in rows for name in HEADER[1:])
    rendered = [[re.sub(r"\]\(.*\)|[`*\[]", "", cell) for cell in line] for line in (HEADER, *lines[2:])]
    lengths = [max(map(len, column)) for column in zip(*rendered, strict=True)]
    assert sum(lengths) + 3 * len(lengths) + 1 <= 110
    assert "0.0 min" not in TABLES["front"]()


def test_environment_steps_are_those_counted_or_else_those_of_the_rollouts():
    assert environment_steps({"steps": 20, "metadata": {"environment_steps": 19_000}}, 1024) == 19_000
    assert environment_steps({"steps": 20, "metadata": {}}, 1024) == environment_steps({"steps": 20}, 1024) == 20_480
