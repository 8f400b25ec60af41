"""Two sides measured in turn, so that whatever else the machine does falls on both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence


def interleave(sides: Sequence[Callable[[], float]], rounds: int) -> list[list[float]]:
    """What each of `sides` measures of itself, called in turn; a first round warms up and is left out."""
    measured: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds + 1):
        for side, found in zip(sides, measured, strict=True):
            found.append(side())
    return [found[1:] for found in measured]


def seconds(function: Callable[[], object]) -> Callable[[], float]:
    """`function` as one that measures its own time."""

    def measure() -> float:
        began = time.perf_counter()
        function()
        return time.perf_counter() - began

    return measure


def ratio(ours: list[float], theirs: list[float]) -> float:
    """How many times as fast ours is by the seconds of both: the median over the rounds."""
    return statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
