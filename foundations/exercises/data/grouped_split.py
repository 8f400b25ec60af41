"""Exercise grouped_split: no leak between training and validation."""

import random
from collections import Counter
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from foundations.comparing import Note, call, check_equal, check_that, describe, difference
from foundations.exercise import Exercise
from foundations.exercises.data.generators import global_states_kept

exercise = Exercise(
    title="Grouped split: validation data that training has not seen",
    level="core",
    minutes=25,
    link="common.data.held_out:hold_out_indices",
    why="images and texts that occur twice stand on one side of the split",
    hints=(
        "First join the groups that share a row, until nothing changes. Then move whole groups, class by class.",
        "While validation has fewer than fraction * a class's rows, its next group goes there; one always stays.",
        "(x == x[row]).all(1) | (groups == groups[row]) belong together: give all the smallest number; repeat.",
    ),
    source="torch.utils.data:random_split",
    look_at="It permutes rows. Which of the demands of this exercise does it know of?",
)


def reference_links(x: Tensor, groups: Tensor) -> Tensor:
    """Joined groups, by walking from each row to all that it is linked with."""
    rows, names = [tuple(row) for row in x.tolist()], groups.tolist()
    result = []
    for start in range(len(rows)):
        reached, todo = {start}, [start]
        while todo:
            here = todo.pop()
            for other in range(len(rows)):
                if other not in reached and (rows[other] == rows[here] or names[other] == names[here]):
                    reached.add(other)
                    todo.append(other)
        result.append(min(names[i] for i in reached))
    return torch.tensor(result, dtype=torch.int64)


def patients(sizes: list[list[int]], seed: int = 0, copies: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, labels and groups of classes with groups of given sizes; `copies` pairs of groups of a class share a row."""
    rng = random.Random(seed)
    labels = [label for label, groups in enumerate(sizes) for size in groups for _ in range(size)]
    numbers = iter(rng.sample(range(100), sum(map(len, sizes))))
    groups = [number for of_class in sizes for size in of_class for number in [next(numbers)] * size]
    x = torch.arange(2.0 * len(labels)).view(-1, 2)
    for _ in range(copies):
        first = rng.randrange(len(labels))
        others = [i for i, label in enumerate(labels) if label == labels[first] and groups[i] != groups[first]]
        x[rng.choice(others)] = x[first]
    order = torch.tensor(rng.sample(range(len(labels)), len(labels)))
    return x[order], torch.tensor(labels)[order], torch.tensor(groups)[order]


def split(
    answer: ModuleType, data: tuple[Tensor, Tensor, Tensor], fraction: float, seed: int
) -> tuple[list[int], list[int], dict[str, Any]]:
    """Training and validation rows, sorted, and the inputs for a failure. Raises Failure if a row is missing or twice."""
    x, labels, groups = data
    got = call(answer.grouped_split, x, labels, groups, fraction, seed)
    good = isinstance(got, tuple | list) and len(got) == 2 and all(isinstance(part, Tensor) for part in got)
    good = good and all(part.dtype == torch.int64 and part.ndim == 1 for part in got)
    shown = {"labels": labels, "groups": groups, "fraction": fraction, "seed": seed}
    check_that(good, "two int64 tensors of indices are expected", got=got, **shown)
    train, validation = (sorted(part.tolist()) for part in got)
    rows = sorted(train + validation)
    check_that(rows == list(range(len(x))), "the rows of both sides together", list(range(len(x))), rows, **shown)
    return train, validation, shown


@exercise.property("standardized by training alone")
def statistics(answer: ModuleType, rng: random.Random) -> None:
    for n, m, d in [(2, 1, 1), (3, 2, 2), (4, 4, 4), (5, 0, 3), (6, 1, 2)]:
        train, validation = torch.randn(n, d) * 3 + 2, torch.randn(m, d) - 5
        mean, std = train.mean(0), train.std(0, correction=0)
        expected = (train - mean) / std, (validation - mean) / std
        check_equal(answer.standardize, train, validation, expected=expected, rtol=1e-4, atol=1e-5)
    train, validation = torch.tensor([[1.0, 4.0], [3.0, 4.0]]), torch.tensor([[2.0, 6.0]])
    expected = torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    check_equal(answer.standardize, train, validation, expected=expected)
    for value in (0.1, 0.7, 5.3):
        for n in (7, 11):  # the mean of n equal numbers may be another number
            train, validation = torch.full((n, 1), value), torch.tensor([[value + 1]])
            shown = {"train": f"{n} rows of {value}", "validation": validation}
            got = call(answer.standardize, train, validation)
            reason = difference(got, (torch.zeros(n, 1), torch.ones(1, 1)), 1e-4, 1e-5)
            note = Note(f"zeros and {describe(torch.ones(1, 1))}, not {describe(got[-1])}")
            check_that(not reason, "a feature that is constant in training is not divided by 1", note, **shown)


@exercise.property("linked groups")
def links(answer: ModuleType, rng: random.Random) -> None:
    for rows, groups in [
        ([[1, 1], [2, 2]], [0, 1]),
        ([[1, 2], [1, 3], [4, 2]], [0, 1, 2]),
        ([[1], [2], [2], [3]], [7, 7, 4, 5]),
        ([[1], [1], [2], [2]], [3, 2, 2, 1]),
        ([[1], [2], [2], [3], [3], [4], [4], [5]], [5, 5, 4, 4, 3, 3, 2, 2]),
        ([[1], [2], [3], [4], [4], [3], [2], [1]], [1, 2, 3, 4, 5, 6, 7, 8]),
        ([[1], [1], [5], [5], [2]], [6, 1, 1, 9, 9]),
    ]:
        x, numbers = torch.tensor(rows).float(), torch.tensor(groups)
        check_equal(answer.linked_groups, x, numbers, expected=reference_links(x, numbers))
    x, numbers = torch.randint(5, (12, 2)).float(), torch.randint(9, (12,))
    check_equal(answer.linked_groups, x, numbers, expected=reference_links(x, numbers))


@exercise.property("no group, and no row, on both sides")
def leaks(answer: ModuleType, rng: random.Random) -> None:
    for sizes, copies in [
        ([[6, 6]], 0),
        ([[1, 1]], 1),
        ([[2, 2, 2], [2, 2]], 0),
        ([[3, 1, 2], [2, 2, 4]], 0),
        ([[2, 2, 2, 2]] * 2, 2),
    ]:
        for seed in range(3):
            data = patients(sizes, seed, copies)
            train, validation, shown = split(answer, data, 0.4, seed)
            for name, numbers in (("groups", data[2].tolist()), ("rows of x", list(map(tuple, data[0].tolist())))):
                both = sorted({numbers[i] for i in train} & {numbers[i] for i in validation})
                check_that(not both, f"{name} on both sides", [], both, **shown)


@exercise.property("classes in proportion")
def proportions(answer: ModuleType, rng: random.Random) -> None:
    cases = [
        [[1] * 2] * 12,
        [[1] * 4, [1] * 4],
        [[2] * 5, [1] * 5],
        [[1] * 40, [1] * 4],
        [[3, 1, 2, 2], [1, 1]],
        [[4, 4, 4], [2] * 6, [5]],
    ]
    for fraction in (0.5, 0.25, 0.2):
        for seed, sizes in enumerate(cases):
            data = patients(sizes, seed)
            _, validation, shown = split(answer, data, fraction, seed)
            labels = data[1].tolist()
            held = Counter(labels[i] for i in validation)
            for label, of_class in enumerate(sizes):
                if len(of_class) == 1:
                    check_that(not held[label], "a class of a single group is in validation", Note(f"no {label}"), **shown)
                    continue
                rows = sum(of_class)
                check_that(0 < held[label] < rows, "a class is on one side alone", Note(f"{label} on both"), **shown)
                reason = "rows of a class in validation are off by a whole group or more"
                note = Note(f"of class {label} about {fraction * rows:.1f}, not {held[label]}")
                check_that(abs(held[label] - fraction * rows) < max(of_class), reason, note, **shown)


@exercise.property("random by seed")
def seeds(answer: ModuleType, rng: random.Random) -> None:
    data = patients([[1, 2, 1, 2, 1, 2], [2] * 6])
    splits = [split(answer, data, 0.34, seed)[1] for seed in range(12)]
    torch.rand(1)
    random.random()
    again = split(answer, data, 0.34, 0)[1]
    check_that(again == splits[0], "the same seed gives another split the second time", Note(f"{splits[0]}, not {again}"))
    with global_states_kept("the split"):
        split(answer, data, 0.34, 1)
    check_that(len({tuple(rows) for rows in splits}) > 3, "twelve seeds give next to the same split")
    used = sorted({i for rows in splits for i in rows})
    check_that(len(used) > 15, "of 21 rows, those that are ever in validation, in 12 seeds", "nearly all", len(used))


def own_links(x: Tensor, groups: Tensor) -> Tensor:
    """Joined groups."""
    return reference_links(x, groups)


def split_with(fault: str) -> Callable[..., tuple[Tensor, Tensor]]:
    """The split with one of the known faults."""

    def grouped_split(x: Tensor, labels: Tensor, groups: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
        rng: Any = random if fault == "unseeded" else random.Random(seed)
        if fault == "python":
            random.seed(seed)
            rng = random
        if fault == "torch":
            torch.manual_seed(seed)
            rng.seed(int(torch.randint(10**9, ())))
        linked = groups if fault == "duplicates" else own_links(x, groups)
        names = list(range(len(x))) if fault == "rows" else linked.tolist()
        chosen: set[int] = set()
        classes = labels.tolist() if fault != "unstratified" else [0] * len(x)
        for label in sorted(set(classes)):
            members = [i for i, own in enumerate(classes) if own == label]
            order = sorted({names[i] for i in members})
            if fault != "first":
                rng.shuffle(order)
            held = 0
            for name in order if fault == "all" else order[1:]:
                rows = [i for i in members if names[i] == name]
                if held < fraction * len(members):
                    held += len(rows)
                    chosen.update(rows)
        train = [i for i in range(len(x)) if i not in chosen]
        return torch.tensor(train, dtype=torch.int64), torch.tensor(sorted(chosen), dtype=torch.int64)

    return grouped_split


MESSAGES = {
    "rows": "Rows are drawn, not groups: the same patient is on both sides, and validation measures what was memorized.",
    "duplicates": "Equal rows in different groups are on both sides: join groups that share a row.",
    "unstratified": "Groups are drawn without a look at their class: a rare class may be missing from validation.",
    "all": "A class with a single group is in validation alone: nothing of it can be learned. One group stays in training.",
    "python": "random.seed sets Python's global generator, which others use too: random.Random(seed) is one of your own.",
    "torch": "torch.manual_seed sets the global generator, which initialization and dropout use: make a torch.Generator().",
    "unseeded": "The split comes from a global generator, not from the seed.",
    "first": "Always the same groups are in validation, whatever the seed: shuffle them.",
}
for _fault, _message in MESSAGES.items():
    exercise.wrong("grouped_split", _message)(split_with(_fault))


@exercise.wrong(
    "linked_groups", "Groups are joined in pairs alone: if a shares a row with b, and b with c, all three belong together."
)
def joined_once(x: Tensor, groups: Tensor) -> Tensor:
    linked = groups.clone()
    for row in range(len(x)):
        equal = (x == x[row]).all(1)
        linked[equal] = torch.minimum(linked[equal], groups[equal].min())
    for group in groups.unique():
        linked[groups == group] = linked[groups == group].min()
    return linked


@exercise.wrong("linked_groups", "Rows count as equal if any feature is equal: all of them must be, all(1).")
def any_feature(x: Tensor, groups: Tensor) -> Tensor:
    shared = (x[:, None] == x[None]).any(2) | (groups[:, None] == groups[None])
    for _ in range(len(x)):
        shared = (shared.float() @ shared.float()) > 0
    return torch.stack([groups[row].min() for row in shared])


@exercise.wrong(
    "standardize", "Mean and standard deviation of all rows: validation has entered what the network is trained on."
)
def of_all_rows(train: Tensor, validation: Tensor) -> tuple[Tensor, Tensor]:
    both = torch.cat([train, validation])
    mean, std = both.mean(0), both.std(0, correction=0)
    std[std == 0] = 1
    return (train - mean) / std, (validation - mean) / std


@exercise.wrong(
    "standardize", "Validation has its own mean and deviation: the network would see the same value as another number there."
)
def each_its_own(train: Tensor, validation: Tensor) -> tuple[Tensor, Tensor]:
    parts = []
    for part in (train, validation):
        std = part.std(0, correction=0)
        parts.append((part - part.mean(0)) / torch.where(std == 0, 1.0, std))
    return parts[0], parts[1]


@exercise.wrong("standardize", "A feature that is constant in training has deviation 0: dividing by it gives nan or inf.")
def divided_by_zero(train: Tensor, validation: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = train.mean(0), train.std(0, correction=0)
    return (train - mean) / std, (validation - mean) / std


@exercise.wrong(
    "standardize",
    "A constant feature may have a deviation above 0: the mean of seven times 0.1 is rounded. Ask if all rows are equal.",
)
def exactly_zero(train: Tensor, validation: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = train.mean(0), train.std(0, correction=0)
    std = torch.where(std == 0, 1.0, std)
    return (train - mean) / std, (validation - mean) / std


@exercise.wrong("standardize", "The deviation is the unbiased one, torch's default; correction=0 is asked for.")
def unbiased(train: Tensor, validation: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = train.mean(0), train.std(0)
    std = std + (std == 0)
    return (train - mean) / std, (validation - mean) / std


exercise.also_right("grouped_split")(split_with(""))
exercise.also_right("linked_groups")(own_links)


@exercise.also_right("standardize")
def column_by_column(train: Tensor, validation: Tensor) -> list[Tensor]:
    sides = train.clone(), validation.clone()
    for j, column in enumerate(train.unbind(1)):
        center, spread = column.mean(), (column - column.mean()).square().mean().sqrt()
        for side in sides:
            side[:, j] -= center
            side[:, j] /= 1.0 if column.min() == column.max() else spread
    return list(sides)


@exercise.also_right("linked_groups")
def by_matrix(x: Tensor, groups: Tensor) -> Tensor:
    together = (x[:, None] == x[None]).all(2) | (groups[:, None] == groups[None])
    for _ in range(len(x)):
        together = (together.float() @ together.float()) > 0
    return torch.stack([groups[row].min() for row in together])


@exercise.also_right("grouped_split")
def nearest_to_the_target(x: Tensor, labels: Tensor, groups: Tensor, fraction: float, seed: int) -> list[Tensor]:
    """The largest groups first, each where it is missing most."""
    rng, linked = random.Random(f"seed {seed}"), own_links(x, groups)
    sides: list[list[Tensor]] = [[], []]
    for label in labels.unique():
        parts = [(linked == group).nonzero()[:, 0] for group in linked[labels == label].unique()]
        rng.shuffle(parts)
        parts.sort(key=len, reverse=True)
        total, counts = sum(map(len, parts)), [0, 0]
        for number, part in enumerate(parts):
            left = len(parts) - number
            needs = [1 - fraction, fraction]
            side = max((0, 1), key=lambda i: needs[i] * total - counts[i])
            if left == 1 and 0 in counts and len(parts) > 1:
                side = counts.index(0)
            side = 0 if len(parts) == 1 else side
            counts[side] += len(part)
            sides[side].append(part)
    return [torch.cat(part) if part else torch.zeros(0, dtype=torch.int64) for part in sides]
