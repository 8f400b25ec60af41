"""Predictions: every family makes variants that the installed torch answers, and knows the wrong answers people give."""

import random

import pytest

from foundations.catalog import all_exercises, is_prediction, load_questions
from foundations.predictions import Question, is_right, make_question, parse_answer
from foundations.progress import Progress, load_progress
from foundations.quiz import ask_prediction, place, review

FAMILIES = [(name, family) for name in all_exercises() if is_prediction(name) for family in load_questions(name)]


@pytest.mark.parametrize("name, family", FAMILIES)
def test_variants_have_answers_and_wrong_answers_are_wrong(name, family):
    families = load_questions(name)
    texts = set()
    for seed in range(12):
        question = make_question(families, family, seed)
        assert question.answer is not None and question.reason and question.ask
        for wrong, message in question.wrong.items():
            assert message and not is_right(question, wrong), (question, wrong)
        assert is_right(question, parse_answer(str(question.answer))), (question, question.answer)
        texts.add(question.text)
    assert len(texts) >= 2, "a wrong answer comes back as another variant"
    assert any(make_question(families, family, seed).wrong for seed in range(12))


@pytest.mark.parametrize(
    "typed, meant",
    [
        ("(2, 3)", (2, 3)),
        ("2 3", (2, 3)),
        ("[2,3]", (2, 3)),
        ("torch.Size([2, 3])", (2, 3)),
        ("(5,)", (5,)),
        ("5", 5),
        ("0.25", 0.25),
        ("Error", "error"),
        ("true", "yes"),
        ("torch.float64", "float64"),
        ("()", ()),
        ("None", "none"),
        ("nan", "nan"),
    ],
)
def test_answers_are_read_as_people_type_them(typed, meant):
    assert parse_answer(typed) == meant


@pytest.mark.parametrize(
    "code, answer",
    [
        ("torch.zeros(2, 3).shape", (2, 3)),
        ("torch.zeros(()).shape", ()),
        ("x = torch.zeros(2)\nx.requires_grad", "no"),
        ("torch.zeros(2) + torch.zeros(3)", "error"),
        ("torch.tensor(0.5)", 0.5),
        ("torch.zeros(1).grad", "none"),
        ("torch.arange(3).dtype", "int64"),
        ("torch.tensor(0.0) / 0", "nan"),
    ],
)
def test_torch_answers(code, answer):
    assert Question(code, "?", "").answer == answer


def answers_of(name, seed, right=True):
    """Answers in the order in which the questions of a prediction are asked."""
    families = load_questions(name)
    asked = sorted(families, key=lambda family: random.Random(f"{seed}-{family}").random())[:6]
    return [str(make_question(families, family, seed).answer) if right else "12345" for family in asked]


def test_a_wrong_answer_comes_back_in_a_new_variant(tmp_path, capsys):
    name = next(name for name in all_exercises() if is_prediction(name))
    progress = Progress(tmp_path, seed=3)
    right = answers_of(name, 3)
    assert ask_prediction(progress, name, ["12345", *right[1:]]) == 1
    assert len(progress.review) == 1 and not progress.has_passed(name)
    _, family, seed = progress.review[0]
    first = make_question(load_questions(name), family, 3)
    again = make_question(load_questions(name), family, seed)
    assert first.reason in capsys.readouterr().out
    assert review(progress, [str(again.answer)]) == 0
    assert progress.has_passed(name) and load_progress(tmp_path).has_passed(name)


def test_all_right_passes_at_once(tmp_path):
    name = next(name for name in all_exercises() if is_prediction(name))
    progress = Progress(tmp_path, seed=4)
    assert ask_prediction(progress, name, answers_of(name, 4)) == 0 and progress.has_passed(name)


def test_place_begins_at_the_chapter_of_the_first_wrong_answer(capsys):
    place(["12345"] * 10)
    assert "Begin with chapter 1" in capsys.readouterr().out
