"""Graduation: the parts of the course train a translator and a classifier; the learner's own are used where they passed."""

import pytest

from foundations import cli
from foundations.catalog import all_exercises, is_prediction, solution_path
from foundations.graduation import DIGITS, TRANSLATION, TranslationSettings, split_numbers, train_translator
from foundations.imports import exercise_imports
from foundations.progress import digest, load_progress
from projects.seq2seq.synthetic import make_pairs


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["start"]) == 0
    return tmp_path / "my_foundations"


def solve(folder, names, change=lambda text: text):
    """Writes our solutions as the learner's, passed."""
    progress = load_progress(folder)
    for name in names:
        path = progress.path(name)
        path.write_text(change(solution_path(name).read_text()))
        progress.entry(name).passed = digest(path)
    progress.save()


def test_every_part_is_an_exercise_and_none_is_named_twice():
    assert set(TRANSLATION) | set(DIGITS) <= set(all_exercises())
    assert len(set(TRANSLATION)) == len(TRANSLATION) and len(set(DIGITS)) == len(DIGITS)


def test_long_numbers_stand_in_parts_and_other_words_stay():
    assert (
        split_numbers("siebenhundertsechsundvierzig Hunde und hundert")
        == "sieben hundert sechs und vierzig Hunde und hundert"
    )


def test_the_first_epochs_learn():
    settings = TranslationSettings(train=300, val=40, test=3, dim=16, heads=2, epochs=3, max_tokens=400)
    with exercise_imports({}):
        result = train_translator(make_pairs(343, 0), settings, 0, lambda line: None)
    assert result.scores[0] > result.scores[-1] + 0.3 and len(result.examples) == 3


def test_a_part_of_the_learners_that_fails_is_named_with_its_line(folder, capsys):
    solve(
        folder,
        ["vocabulary"],
        lambda text: text.replace("counts = Counter", "raise OSError('mine')\n        counts = Counter"),
    )
    assert cli.main(["graduate"]) == 1
    out = capsys.readouterr().out
    assert "OSError: mine" in out and "your vocabulary.py, line" in out and "show vocabulary" in out


@pytest.mark.slow
def test_graduate_with_every_part_of_ones_own(folder, capsys):
    solve(folder, [name for name in all_exercises() if not is_prediction(name)])
    assert cli.main(["graduate"]) == 0
    out = capsys.readouterr().out
    assert ": ours" not in out and "Every part is yours" in out
    scores = [float(line.split()[1]) for line in out.splitlines() if line.startswith(("  BLEU", "  accuracy"))]
    assert scores[0] > 90 and scores[1] > 96
    assert (folder / "graduation.png").stat().st_size > 20_000


@pytest.mark.slow
def test_a_fault_that_checks_would_find_shows_in_the_result(folder, capsys):
    solve(
        folder,
        ["attention"],
        lambda text: text.replace("softmax(-1)", "softmax(-2)").replace("softmax(dim=-1)", "softmax(dim=-2)"),
    )
    cli.main(["graduate"])
    out = capsys.readouterr().out
    assert float(out.split("BLEU ")[1].split()[0]) < 80
