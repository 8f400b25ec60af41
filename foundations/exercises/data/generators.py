"""Random generators: whether an answer leaves the global ones alone, and whether its keys collide."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from foundations.comparing import Note, check_that

RARE = 73_914_266
POOR = {  # kind of key -> pairs of (seed, epoch) for which such keys are equal, and no earlier kind's
    "sums": [((0, 2), (1, 1))],
    "exchanged": [((0, 1), (1, 0)), ((2, 5), (5, 2))],
    "texts without a space": [((1, 11), (11, 1)), ((2, 30), (23, 0))],
    "small factors": [((0, factor), (1, 0)) for factor in (10, 100, 128, 256, 1000, 1024, 4096, 10_000, 65_536, 100_000)],
}

POOR_KEYS = {  # the messages for them
    "sum": "seed + epoch is equal for many: epoch 2 of seed 0 has the order of epoch 1 of seed 1.",
    "text": "Without a space between them, 1 and 11 make the same text as 11 and 1.",
    "tight": "seed * F + epoch is equal for many: from epoch F on, seed 0 has the orders of seed 1.",
}


@contextmanager
def global_states_kept(what: str) -> Iterator[None]:
    """Context in which no global random state may change. Raises Failure with the name of the generator that did.

    The states are set to rare ones first: who gives a global generator the same seed twice would leave it as it was.

    Args:
        what: What is done in it, as the beginning of the reason.
    """
    torch.manual_seed(RARE)
    random.seed(RARE)
    before = torch.get_rng_state(), random.getstate(), _numpy_state()
    yield
    check_that(torch.equal(before[0], torch.get_rng_state()), f"{what} changes torch's global random state")
    check_that(before[1] == random.getstate(), f"{what} changes Python's global random state")
    check_that(before[2] == _numpy_state(), f"{what} changes NumPy's global random state")


def _numpy_state() -> Any:
    """NumPy's global random state; None if nobody has imported NumPy."""
    if "numpy" not in sys.modules:
        return None
    _, numbers, position, *_ = sys.modules["numpy"].random.get_state()
    return numbers.tobytes(), position


def check_keys(order_of: Callable[[int, int], Any]) -> None:
    """Checks that seeds and epochs have orders of their own, also those that a poor key mixes up.

    Args:
        order_of: (seed, epoch) -> order of so many samples that no two are equal by chance.
    """
    for kind, pairs in POOR.items():
        for one, other in pairs:
            note = Note(f"another for (seed, epoch) = {one} than for {other}")
            check_that(order_of(*one) != order_of(*other), f"two orders are equal, as if by {kind}", note)
    names = [(seed, epoch) for seed in range(4) for epoch in (0, 1, 2, 3, 12)]
    orders: dict[str, tuple[int, int]] = {}
    for name in names:
        first = orders.setdefault(repr(order_of(*name)), name)
        check_that(first == name, "two seeds and epochs have the same order", Note(f"not the same for {first} and {name}"))
