"""Exercise competition: a table and images, scored on a test that the answer cannot read."""

import ast
import contextlib
import io
import random
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from foundations.comparing import Note, call, check_equal, check_that, difference
from foundations.exercise import Exercise
from foundations.exercises.tricks import competition_data as data
from foundations.exercises.tricks.competition_scores import (
    SEED,
    Leaderboard,
    balanced,
    image_score,
    nearest_mean,
    our_scores,
    simple_features,
    standing,
    table_score,
)
from foundations.limits import limited

exercise = Exercise(
    title="A competition: a messy table and small images, scored on data that you have not seen",
    level="challenge",
    minutes=90,
    link="projects.cifar10.module:CIFAR10Module",
    why="the same game with 50,000 images, where seconds count",
    hints=(
        "First a validation that you can trust: whole patients held out, and everything measured on the others. Then a "
        "small network with class weights. For images: convolutions, moved copies, the mean of two networks.",
        "weight of class k = N / count of k; expected score = balanced accuracy of each row by the model that did not see "
        "its patient; test classes = argmax of the mean probabilities of these models.",
        "folds = groups.unique(return_inverse=True)[1] % 5; for each fold: train on prepare(known, known) with "
        "known = rows[folds != fold], predict prepare(rows[folds == fold], known) and prepare(test_rows, known).",
    ),
    source="torch.utils.data:random_split",
    look_at="It deals out rows at random. What would keep the visits of one patient together?",
)

SECONDS = 20.0  # CPU seconds for each data set
ABOVE, BELOW = 0.05, 0.1  # by which the expected score may differ from the score
GUESSING = 0.45  # the most to expect where nothing can be learned: guessing has 0.33, by 150 patients up to 0.4


def check_classes(classes: Any, count: int, most: int) -> None:
    """Checks shape, dtype and range of predicted classes."""
    fits = isinstance(classes, Tensor) and classes.shape == (count,) and classes.dtype == torch.int64
    check_that(fits, "classes (M,) int64 are expected", f"({count},) int64", classes)
    check_that(classes.min() >= 0 and classes.max() < most, f"classes from 0 to {most - 1}", got=classes.unique())


def ask_table(
    answer: ModuleType, rows: Tensor, labels: Tensor, groups: Tensor, test: Tensor, board: Callable[[Tensor], float]
) -> tuple[Tensor, float]:
    """Classes of the test rows and the expected score, both of the right kind."""
    torch.manual_seed(SEED)
    result = call(limited(answer.predict_table, SECONDS), rows, labels, groups, test, board)
    is_pair = isinstance(result, tuple | list) and len(result) == 2
    check_that(is_pair, "classes and the expected score are to be returned", got=result)
    classes, expected = result
    check_classes(classes, len(test), 3)
    reason = difference(expected, 0.5, 10.0, 10.0)  # of any value, but a number
    check_that(not reason, f"the expected score: {reason}", got=expected)
    return classes, float(expected)


@exercise.property("the file reads nothing of the check")
def imports(answer: ModuleType, rng: random.Random) -> None:
    tree = ast.parse(Path(answer.__file__).read_text(encoding="utf-8"))
    modules = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    modules += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    modules += [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    reads = [name for name in modules if name.partition(".")[0] == "foundations" or "foundations.exercises" in name]
    check_that(not reads, "the file may use torch, the standard library and your earlier exercises", got=reads)


@exercise.property("balanced accuracy")
def metric(answer: ModuleType, rng: random.Random) -> None:
    pairs = [([0, 0, 0, 0], [0, 0, 0, 1]), ([1, 2], [1, 1]), ([2, 0, 2, 2], [2, 0, 0, 2]), ([1], [1])]
    for predicted, labels in pairs:
        a, b = torch.tensor(predicted), torch.tensor(labels)
        check_equal(answer.balanced_accuracy, a, b, expected=balanced(a, b))
    a, b = torch.randint(4, (50,)), torch.randint(4, (50,)) * torch.randint(2, (50,))
    check_equal(answer.balanced_accuracy, a, b, expected=balanced(a, b))


NAN = float("nan")


def check_features(features: Any, rows: Tensor, known: Tensor, width: int | None = None, case: str = "") -> int:
    """Checks shape, dtype and finiteness; returns the number of features."""
    fits = isinstance(features, Tensor) and features.ndim == 2 and len(features) == len(rows)
    check_that(fits, f"features ({len(rows)}, F) are expected", got=features, rows=rows, known=known)
    check_that(features.is_floating_point(), "features are floating-point", got=features, rows=rows, known=known)
    check_that(features.isfinite().all(), f"a feature is not finite{case}", got=features, rows=rows, known=known)
    fits = width in (None, features.shape[1])
    check_that(fits, "the number of features changes", width, features.shape[1], rows=rows, known=known)
    return features.shape[1]


@exercise.property("features are finite")
def finite(answer: ModuleType, rng: random.Random) -> None:
    known = torch.tensor([[7.0, 1.0, 5.0], [8.0, 3.0, 9.0], [9.0, NAN, 7.0]])
    rows = torch.tensor([[5.0, 2.0, 6.0], [6.0, NAN, NAN]])
    width = check_features(call(answer.prepare, rows, known), rows, known)
    gone, same = known.clone(), known.clone()
    gone[:, 1], same[:, 2] = NAN, 5.0
    for measured, case in (
        (same, ": in `known`, column 2 is constant, so that its standard deviation is 0"),
        (gone, ": in `known`, column 1 is missing wholly, so that it has neither mean nor median"),
    ):
        check_features(call(answer.prepare, rows, measured), rows, measured, width, case)
    check_features(call(answer.prepare, known, known), known, known, width)


@exercise.property("ids do not count")
def ids(answer: ModuleType, rng: random.Random) -> None:
    known, rows = torch.randn(5, 3), torch.randn(2, 3)
    others, more = rows.clone(), known.clone()
    others[:, 0] += torch.tensor([3.0, -8.0])
    more[:, 0] *= 5
    for a, b in ((others, known), (rows, more)):
        want, got = call(answer.prepare, rows, known), call(answer.prepare, a, b)
        reason = difference(got, want, 1e-5, 1e-5)
        check_that(
            not reason,
            f"the id, column 0, is among the features: other ids give other features: {reason}",
            want,
            got,
            rows=a,
            known=b,
        )


@exercise.property("features are measured on the known rows")
def measured(answer: ModuleType, rng: random.Random) -> None:
    known, rows = torch.randn(6, 4), torch.randn(3, 4)
    rows[0, 1] = rows[2, 2] = known[1, 1] = NAN
    want = call(answer.prepare, rows, known)
    changed = rows.clone()
    changed[1:, 1:] = changed[1:, 1:] * 100 + 50
    for name, others in (("alone", rows[:1]), ("beside other rows", changed)):
        got = call(answer.prepare, others, known)[:1]
        reason = difference(got, want[:1], 1e-4, 1e-5)
        check_that(not reason, f"a row {name} has other features: {reason}", want[:1], got, rows=others, known=known)
    check_features(call(answer.prepare, rows[:0], known), rows[:0], known, want.shape[1])
    got = call(answer.prepare, rows, known + 5)
    check_that(bool(difference(got, want, 1e-4, 1e-5)), "other known rows give the same features", rows=rows, known=known)
    got = call(answer.prepare, torch.cat([rows[:1], rows[:1] + 1]), known)
    check_that(bool(difference(got[0], got[1], 1e-4, 1e-5)), "rows with other values have the same features", got=got)


@exercise.property("no column's unit counts")
def sizes(answer: ModuleType, rng: random.Random) -> None:
    known = torch.cat([torch.arange(6.0)[:, None], torch.randn(6, 2) * torch.tensor([1e3, 1e-3])], 1)
    features = call(answer.prepare, known, known)
    stds = features.std(0)
    check_that(stds.max() <= 10, "a feature's standard deviation is above 10", got=stds, known=known)
    check_that((stds >= 0.1).sum() >= 2, "a column that varies has no feature of its size", got=stds, known=known)


@exercise.property("table: above the baseline, and as good as expected")
def table(answer: ModuleType, rng: random.Random) -> str:
    (rows, labels, groups), test, board = data.train_table(), data.test_rows(), Leaderboard()
    classes, expected = ask_table(answer, rows, labels, groups, test, board)
    check_that(board.asked <= 1, "the leaderboard was asked again and again", Note("at most once"), Note("more than once"))
    base = table_score(nearest_mean(simple_features(rows, rows), labels, simple_features(test, rows)))
    score = table_score(classes)
    more = Note(f"more than {base:.3f}")
    check_that(score > base, "the balanced accuracy is not above the baseline's", more, round(score, 3))
    limits = Note(f"{score - BELOW:.3f} to {score + ABOVE:.3f}, as the score is {score:.3f}")
    check_that(expected <= score + ABOVE, "you expected too much", limits, round(expected, 3))
    check_that(expected >= score - BELOW, "you expected too little", limits, round(expected, 3))
    return standing("Table", score, base, our_scores()[0], f" (you expected {expected:.3f})")


@exercise.property("table where nothing can be learned: nothing expected")
def dealt(answer: ModuleType, rng: random.Random) -> None:
    rows, labels, groups = data.dealt_table()
    few = data.test_rows()[: 4 * data.PUBLIC]
    with contextlib.redirect_stdout(io.StringIO()):  # what was printed about the first table stays the last
        _, expected = ask_table(answer, rows, labels, groups, few, lambda classes: 1 / 3)
    reason = (
        "the labels were dealt out to the patients at random, and you expected more than guessing gets: your validation "
    )
    most = Note(f"about 0.333, and at most {GUESSING}")
    check_that(expected <= GUESSING, reason + "knows the patients that it is measured on", most, round(expected, 3))


@exercise.property("images: above the baseline")
def letters(answer: ModuleType, rng: random.Random) -> str:
    (images, labels), test = data.train_images(), data.test_images()
    torch.manual_seed(SEED)
    classes = call(limited(answer.predict_images, SECONDS), images, labels, test)
    check_classes(classes, len(test), 6)
    base, score = image_score(nearest_mean(images, labels, test)), image_score(classes)
    check_that(score > base, "the accuracy is not above the baseline's", Note(f"more than {base:.3f}"), round(score, 3))
    return standing("Images", score, base, our_scores()[1])


def fit(x: Tensor, y: Tensor, test: Tensor, weight: Tensor | None, steps: int, hidden: int = 64) -> Tensor:
    """Probabilities of the test by a network with one hidden layer."""
    model = nn.Sequential(nn.Linear(x.shape[1], hidden), nn.ReLU(), nn.Linear(hidden, int(y.max()) + 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(x), y, weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model(test).softmax(1).detach()


def table_with(fault: str) -> Any:
    """predict_table with one of the known faults."""

    def predict_table(rows, labels, groups, test_rows, leaderboard):
        weight = len(labels) / labels.bincount().float()
        x, test = simple_features(rows, rows), simple_features(test_rows, rows)
        if fault == "constant":
            classes = torch.full((len(test),), int(labels.bincount().argmax()))
            return classes, (labels == classes[0]).float().mean().item()
        if fault == "leaderboard":
            tried = [fit(x, labels, test, weight, steps).argmax(1) for steps in (5, 10, 20)]
            best = max(tried, key=leaderboard)
            return best, leaderboard(best)
        if fault == "id":
            rows, test_rows = (torch.cat([part[:, :1] / 500, part], 1) for part in (rows, test_rows))
            x, test = simple_features(rows, rows), simple_features(test_rows, rows)
        if fault == "training_rows":
            p = fit(x, labels, torch.cat([x, test]), weight, 100)
            return p[len(x) :].argmax(1), balanced(p[: len(x)].argmax(1), labels)
        held = torch.randperm(len(rows)) % 5 == 0
        p = fit(x[~held], labels[~held], torch.cat([x[held], test]), weight, 200)
        return p[int(held.sum()) :].argmax(1), balanced(p[: int(held.sum())].argmax(1), labels[held])

    return predict_table


def prepare_with(fault: str) -> Any:
    """prepare with one of the known faults."""

    def prepare(rows, known):
        seen = {"own": rows, "all": torch.cat([known, rows])}.get(fault, known)
        keep = slice(0 if fault == "id" else 1, None)
        values, seen = rows[:, keep], seen[:, keep]
        center, kept = seen.nanmedian(0).values, torch.where(seen.isnan(), NAN, seen)
        center = center if fault == "empty_column" else center.nan_to_num()
        kept = torch.where(kept.isnan(), center, kept)
        scale = kept.std(0, correction=0)
        scale = scale if fault == "constant_column" else scale.clamp(min=1e-6)
        scale = torch.ones_like(scale) if fault == "units" else scale
        filled = values if fault == "left" else torch.where(values.isnan(), center, values)
        limit = torch.inf if fault == "units" else 4
        return torch.cat([((filled - center) / scale).clamp(-limit, limit), values.isnan().float()], 1)

    return prepare


exercise.wrong("prepare", "NaN is left in the features: one of them makes every loss and every weight NaN.")(
    prepare_with("left")
)
exercise.wrong("prepare", "A column that is missing wholly has no median: fill it with something, such as 0.")(
    prepare_with("empty_column")
)
exercise.wrong("prepare", "A column that is constant has a scale of 0: divide by something larger.")(
    prepare_with("constant_column")
)
exercise.wrong(
    "prepare", "The id is among the features. In the training rows it follows the labels; in the test it says nothing."
)(prepare_with("id"))
exercise.wrong(
    "prepare", "Missing values are filled from all rows, those of the test too: measure on the known rows alone."
)(prepare_with("all"))
exercise.wrong("prepare", "The rows are measured by themselves: a feature would mean something else in training and test.")(
    prepare_with("own")
)
exercise.wrong("prepare", "The columns keep their units: one in thousands drowns one in thousandths. Divide by a scale.")(
    prepare_with("units")
)
exercise.wrong("predict_table", "The leaderboard chooses: then the test has been trained on. Choose by rows held out.")(
    table_with("leaderboard")
)
exercise.wrong(
    "predict_table", "Always the most frequent class: its accuracy looks fine, its balanced accuracy is that of guessing."
)(table_with("constant"))
exercise.wrong("predict_table", "The id is among the inputs: it follows the labels here, and says nothing in the test.")(
    table_with("id")
)
exercise.wrong("predict_table", "The expected score is that of rows that the model was trained on.")(
    table_with("training_rows")
)
RANDOM_ROWS = "Rows held out at random: the same patient is on both sides, and is recognized. Hold out whole patients."
exercise.wrong("predict_table", RANDOM_ROWS)(table_with("random_rows"))


@exercise.wrong("predict_table", RANDOM_ROWS)
def random_folds(rows, labels, groups, test_rows, leaderboard):
    """So careful a training that the score is nearly as expected: nothing of it shows where there is much to learn."""
    folds, weight = torch.randperm(len(rows)) % 5, len(labels) / labels.bincount().float()
    held_out, votes = torch.zeros(len(rows), 3), torch.zeros(len(test_rows), 3)
    for fold in range(5):
        known = rows[folds != fold]
        x, test = simple_features(known, known), simple_features(torch.cat([rows, test_rows]), known)
        p = fit(x, labels[folds != fold], test, weight, 40, 32)
        held_out[folds == fold] = p[: len(rows)][folds == fold]
        votes += p[len(rows) :]
    return votes.argmax(1), balanced(held_out.argmax(1), labels)


@exercise.wrong("balanced_accuracy", "This is the plain accuracy: always the most frequent class would look good.")
def plain_accuracy(predicted, labels):
    return (predicted == labels).float().mean().item()


@exercise.wrong("balanced_accuracy", "Classes that do not occur in the labels do not count: no 0, and no 0 / 0 for them.")
def absent_classes(predicted, labels):
    classes = range(int(max(predicted.max(), labels.max())) + 1)
    return sum((predicted[labels == k] == k).sum().item() / max((labels == k).sum().item(), 1) for k in classes) / len(
        classes
    )


def nan_for_absent_classes(most):
    """Mean over the classes up to `most`, or up to the largest that occurs."""

    def balanced_accuracy(predicted, labels):
        classes = range(most or int(max(predicted.max(), labels.max())) + 1)
        return torch.stack([(predicted[labels == k] == k).float().mean() for k in classes]).mean().item()

    return balanced_accuracy


for most in (3, None):
    exercise.wrong(
        "balanced_accuracy", "A class that does not occur in the labels gives 0 / 0, NaN: the mean is over those that do."
    )(nan_for_absent_classes(most))


@exercise.wrong("predict_images", "Flipped images as training data: an L in the mirror is a J, and a Z is nearly an S.")
def mirrored(images, labels, test_images):
    x = torch.cat([images, images.flip(3)]).flatten(1)
    return fit(x, torch.cat([labels, labels]), test_images.flatten(1), None, 30).argmax(1)


@exercise.also_right("balanced_accuracy")
def by_counts(predicted, labels):
    count = labels.bincount().double()
    right = labels[predicted == labels].bincount(minlength=len(count)).double()
    return float((right[count > 0] / count[count > 0]).mean())


@exercise.also_right("prepare")
def column_by_column(rows, known):
    features = []
    for j in range(1, rows.shape[1]):
        seen = [value for value in known[:, j].tolist() if value == value] or [0.0]
        mean = sum(seen) / len(seen)
        spread = max(seen) - min(seen) or 1.0
        column = rows[:, j].clone()
        column[column != column] = mean
        features.append((column - mean) / spread)
    return torch.stack(features, 1)


@exercise.also_right("predict_table")
def one_network(rows, labels, groups, test_rows, leaderboard):
    held = groups % 4 == 0
    x, test = simple_features(rows, rows[~held]), simple_features(test_rows, rows[~held])
    p = fit(x[~held], labels[~held], torch.cat([x[held], test]), len(labels) / labels.bincount().float(), 40)
    return p[int(held.sum()) :].argmax(1), balanced(p[: int(held.sum())].argmax(1), labels[held])


@exercise.also_right("predict_images")
def without_convolutions(images, labels, test_images):
    moved = [images.roll(shift, dim) for dim in (2, 3) for shift in (-1, 1)]
    x = torch.cat([images, *moved]).flatten(1)
    return fit(x, labels.repeat(5), test_images.flatten(1), None, 40).argmax(1)
