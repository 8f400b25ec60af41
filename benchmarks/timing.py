"""Interleaved timing: both sides of a comparison run alternately, so that other load on the machine slows both alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence


def interleave(sides: Sequence[Callable[[], float]], repeats: int) -> list[list[float]]:
    """Measurements that each of `sides` returns, called alternately; a first, uncounted repeat warms up."""
    measured: list[list[float]] = [[] for _ in sides]
    for _ in range(repeats + 1):
        for side, values in zip(sides, measured, strict=True):
            values.append(side())
    return [values[1:] for values in measured]


def timed(function: Callable[[], object]) -> Callable[[], float]:
    """`function` as one that returns its duration in seconds."""

    def measure() -> float:
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    return measure


def speedup(ours: list[float], theirs: list[float]) -> float:
    """Speedup of ours over theirs from the seconds of both: the median over the repeats."""
    return statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
