"""The competition's hidden test stays hidden, and CPU seconds are limited."""

import gc
import time
from types import SimpleNamespace

import pytest
import torch

from foundations.comparing import Failure
from foundations.exercises.tricks import competition
from foundations.exercises.tricks import competition_data as data
from foundations.limits import OutOfTime, cpu_limit


class Spy:
    """An answer that looks for the test's labels in memory instead of training."""

    def __init__(self):
        self.found = False

    def search(self, count):
        labels = data.test_labels() if count == len(data.test_rows()) else data.test_image_labels()
        gc.collect()
        tensors = [value for value in gc.get_objects() if issubclass(type(value), torch.Tensor) and value is not labels]
        self.found |= any(value.shape == labels.shape and torch.equal(value.long(), labels) for value in tensors)
        return torch.zeros(count, dtype=torch.int64)

    def predict_table(self, rows, labels, groups, test_rows, leaderboard):
        leaderboard(torch.zeros(len(test_rows), dtype=torch.int64))
        return self.search(len(test_rows)), 0.5

    def predict_images(self, images, labels, test_images):
        return self.search(len(test_images))


@pytest.mark.parametrize("check", [competition.table, competition.letters])
def test_labels_of_the_test_are_nowhere_in_memory_while_an_answer_runs(check):
    spy = Spy()
    with pytest.raises(Failure, match="not above the baseline"):
        check(spy, None)
    assert not spy.found


@pytest.mark.parametrize(
    "line, reads",
    [
        ("from foundations.exercises.tricks import competition_data", True),
        ("import foundations.comparing as c", True),
        ("import sys; data = sys.modules['foundations.exercises.tricks.competition_data']", True),
        ('"""Lesson: foundations/lessons/tricks.md."""\nimport torch\nfrom networks.linear import Linear', False),
    ],
)
def test_a_file_that_imports_the_check_does_not_pass(tmp_path, line, reads):
    path = tmp_path / "competition.py"
    path.write_text(line)
    answer = SimpleNamespace(__file__=str(path))
    if reads:
        with pytest.raises(Failure):
            competition.imports(answer, None)
    else:
        competition.imports(answer, None)


def test_an_answer_is_stopped_when_its_cpu_seconds_are_used():
    start = time.process_time()
    with pytest.raises(OutOfTime, match=r"0\.1 CPU seconds"), cpu_limit(0.1):
        while time.process_time() < start + 20:
            pass
    assert time.process_time() < start + 10


def test_who_ignores_the_end_of_time_is_found_afterwards():
    with pytest.raises(OutOfTime), cpu_limit(0.05):
        try:
            while True:
                pass
        except OutOfTime:
            pass


def test_patients_of_the_test_are_others_and_the_id_follows_the_labels_in_training_alone():
    rows, labels, _ = data.train_table()
    test, hidden = data.test_rows(), data.test_labels()
    correlation = [torch.corrcoef(torch.stack([x[:, 0], y.float()]))[0, 1] for x, y in ((rows, labels), (test, hidden))]
    assert correlation[0] > 0.7 and abs(correlation[1]) < 0.05
    assert len(hidden) == len(test) and rows[:, 1:].isnan().any(1).float().mean() > 0.5


def test_labels_of_the_second_table_are_whole_patients_and_say_nothing():
    rows, labels, patients = data.dealt_table()
    x = competition.simple_features(rows, rows)
    assert all(len(labels[patients == patient].unique()) == 1 for patient in range(data.DEALT_PATIENTS))
    assert labels.unique().tolist() == [0, 1, 2]
    for fold in range(4):
        held = patients % 4 == fold
        guessed = competition.nearest_mean(x[~held], labels[~held], x[held])
        assert competition.balanced(guessed, labels[held]) < competition.GUESSING
    assert abs(torch.corrcoef(torch.stack([rows[:, 0], labels.float()]))[0, 1]) < 0.1


def test_a_split_by_rows_passes_the_first_table_and_not_the_second():
    answer = SimpleNamespace(predict_table=competition.random_folds)
    competition.table(answer, None)
    with pytest.raises(Failure, match="dealt out to the patients at random") as caught:
        competition.dealt(answer, None)
    assert caught.value.got > competition.GUESSING


def test_line_of_the_score_names_it_before_what_was_expected():
    assert competition.standing("Table", 0.8, 0.7, 0.8, " (you expected 0.790)").startswith(
        "Table: 0.800 (you expected 0.790). "
    )


@pytest.mark.parametrize(
    "fault, column", [("empty_column", "column 1 is missing"), ("constant_column", "column 2 is constant")]
)
def test_a_feature_that_is_not_finite_comes_with_the_column_that_makes_it(fault, column):
    with pytest.raises(Failure, match=column):
        competition.finite(SimpleNamespace(prepare=competition.prepare_with(fault)), None)
