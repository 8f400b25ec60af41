"""Runs of the broken trainings: the data of each case, and an observed run on it."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

from foundations.faults import Case

TELLING_SEEDS = (103, 107, 103, 108, 101, 108, 102, 107, 107)  # of the nine cases of `too_good`


def data_seed(exercise: str, case: Case) -> int:
    """Seed of a case's data. Those of `too_good` are such that the fault shows in the numbers, and no accident hides it."""
    return TELLING_SEEDS[case.number - 1] if exercise == "too_good" else 100 + case.number


def data_of(exercise: str, seed: int) -> tuple[Any, ...]:
    """Arguments of an exercise's training, without its seed."""
    from foundations.trainings import days, patients, sorted_clusters, spirals

    if exercise == "unstable_loss":
        return (*sorted_clusters(400, seed, 1), *sorted_clusters(100, seed, 2))
    if exercise == "too_good":
        return patients(52, seed, 1)
    if exercise == "wont_generalize":
        return days(150, seed, 1)
    return (*spirals(480, seed, 1), *spirals(100, seed, 2))


def run_case(exercise: str, case: Case) -> tuple[Any, list[str]]:
    """An observed run of a broken training, and lines about what its curves do not show."""
    import torch

    from foundations.trainings import load_training, observe, patients

    seed = data_seed(exercise, case)
    data = data_of(exercise, seed)
    with quiet():
        run = observe(load_training(exercise, case.changes), *data, seed, rows_of=data[0])
    lines: list[str] = []
    if exercise == "too_good":
        x, y, _ = patients(60, seed, 3)
        with torch.no_grad():
            right = [run.model(row).argmax(1).item() == label for row, label in zip(x.split(1), y.tolist(), strict=True)]
        lines.append(
            f"last val/accuracy {run.history['val/accuracy'][-1]:.2f}; "
            f"accuracy for new patients, one measurement at a time: {sum(right) / len(right):.2f}"
        )
    return run, lines


@contextlib.contextmanager
def quiet() -> Iterator[io.StringIO]:
    """Context in which what is printed is kept, and neither warnings nor Lightning's log appear."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()) as printed:
            warnings.simplefilter("ignore")
            yield printed
    finally:
        logger.setLevel(level)
