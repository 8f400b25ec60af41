"""Mutants: what is made, what survives, and that the explained survivors are mutants of today's solutions."""

import ast
import json

import pytest

from foundations.catalog import all_exercises
from tests.foundations import mutants

EXPLAINED = json.loads(mutants.SURVIVORS.read_text())


def test_mutants_change_one_thing_each():
    tree = ast.parse(
        '"""Text 1."""\nimport torch\nSIZE = 3\n\ndef f(x, y=2):\n    return zip(x - 1, g(x, y, k=True), strict=True)\n'
    )
    found = {ast.unparse(changed).rpartition("return ")[2]: text for text, changed in mutants.mutants(tree)}
    assert found == {
        "zip(x + 1, g(x, y, k=True), strict=True)": "line 6: operator in x + 1",
        "zip(x - 2, g(x, y, k=True), strict=True)": "line 6: constant 2",
        "zip(x - -1, g(x, y, k=True), strict=True)": "line 6: constant -1",
        "zip(x - 1, g(y, x, k=True), strict=True)": "line 6: order of arguments in g(y, x, k=True)",
        "zip(x - 1, g(x, y), strict=True)": "line 6: without k= in g(x, y)",
        "zip(x - 1, g(x, y, k=False), strict=True)": "line 6: constant False",
    }
    assert mutants.without_line("line 6: without k= in g(x: y)") == "without k= in g(x: y)"


def test_checks_are_forked_from_a_server_with_dynamo():
    assert mutants.run_sandboxed("tests.foundations.mutants:is_preloaded", seconds=60).value


def test_survivors_are_explained_or_not(capsys, monkeypatch, tmp_path):
    alive = ["line 39: comparison in torch.rand_like(x) > self.p"]
    assert mutants.survivors("dropout") == (16, alive)
    monkeypatch.setattr(mutants, "survivors", lambda exercise: (16, alive))
    assert mutants.of_chapter("networks", ["dropout"], EXPLAINED) == 0
    assert "15 of 16 mutants fail (93.8 %), 1 survivors are explained, 0 are not" in capsys.readouterr().out
    assert mutants.of_chapter("networks", ["dropout"], {}) == 1
    assert "rand_like(x) > self.p  NOT EXPLAINED" in capsys.readouterr().out
    monkeypatch.setattr(mutants.sys, "argv", ["mutants", "dropout"])
    assert mutants.main() == 0
    nothing = tmp_path / "survivors.json"
    nothing.write_text("{}")
    monkeypatch.setattr(mutants, "SURVIVORS", nothing)
    assert mutants.main() == 1
    monkeypatch.setattr(mutants.sys, "argv", ["mutants", "drop_out"])
    assert mutants.main() == 2


def test_mutants_of_a_solution_that_fails_say_nothing(monkeypatch, tmp_path):
    broken = tmp_path / "channel_normalize.py"
    broken.write_text("def channel_normalize(x, mean, std):\n    return x - 1\n")
    monkeypatch.setattr(mutants, "solution_path", lambda exercise: broken)
    with pytest.raises(RuntimeError, match="fails its solution"):
        mutants.survivors("channel_normalize")


@pytest.mark.parametrize("exercise", EXPLAINED)
def test_explained_survivors_are_mutants_of_today(exercise):
    assert exercise in all_exercises()
    today = {mutants.without_line(text) for text in mutants.mutants_of(exercise).values()}
    assert not EXPLAINED[exercise].keys() - today
    assert all(len(reason.split()) >= 3 for reason in EXPLAINED[exercise].values())
