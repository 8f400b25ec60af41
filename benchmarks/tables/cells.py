"""Markdown tables and the cells that several of them have: percentages, durations, hardware."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any


def markdown_table(header: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """Markdown table."""
    lines = [header, ["---"] * len(header), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def comparison_table(result: dict[str, Any], body: Iterable[Sequence[str]]) -> str:
    """Table of a benchmark: rows of metric, baseline, value of ours, value of the baseline, ratio."""
    return markdown_table([f"on {hardware(result)}", "baseline", "ours", "baseline's", "ratio"], body)


def percent(result: dict[str, Any], metric: str) -> str:
    """Mean ± standard deviation of a metric over the seeds, in percent; without a deviation for a single seed.

    >>> percent({"seeds": [0, 1], "mean": {"test/accuracy": 0.9105}, "std": {"test/accuracy": 0.0026}}, "test/accuracy")
    '91.05 ± 0.26 %'
    """
    if len(result["seeds"]) == 1:
        return f"{100 * result['mean'][metric]:.2f} %"
    return f"{100 * result['mean'][metric]:.2f} ± {100 * result['std'][metric]:.2f} %"


def duration(seconds: float) -> str:
    """Duration in the unit that suits it: seconds below two minutes, else minutes.

    >>> [duration(seconds) for seconds in (1.96, 38.4, 119.6, 641)]
    ['2.0 s', '38 s', '2.0 min', '10.7 min']
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 119.5 else f"{seconds / 60:.1f} min"


def hardware(result: dict[str, Any]) -> str:
    """Device that a result was measured on, with the number of processes if there were several."""
    device = re.sub(r"\b1 threads", "1 thread", result["device"])
    return device if result.get("devices", 1) == 1 else f"{result['devices']} × {device}"
