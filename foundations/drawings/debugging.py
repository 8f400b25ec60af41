"""Drawing of the lesson on debugging: the curves of the twelve broken trainings, without a legend."""

from __future__ import annotations

import math
from pathlib import Path

from foundations.faults import PLANTS, Case, all_cases
from foundations.running import run_case

ORDER = (  # fault of each panel, from a to l
    "lr",
    "eval_mode",
    "softmax",
    "axis",
    "no_shuffle",
    "shift",
    "flow",
    "leak",
    "zero_grad",
    "broadcast",
    "frozen",
    "metric",
)
BLUE, ORANGE = "#0072b2", "#d55e00"


def draw(path: Path) -> None:
    """Draws the curves of one case of each fault, computed by running it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(3, 4, figsize=(12.5, 7.6), layout="constrained")
    for letter, fault, axes in zip("abcdefghijkl", ORDER, panels.flat, strict=True):
        exercise, case = case_of(fault)
        run, lines = run_case(exercise, case)
        draw_curves(axes, run.history, float(lines[0].rpartition(" ")[2]) if lines else None)
        axes.set_title(letter, loc="left", fontweight="bold")
        axes.grid(alpha=0.3)
        axes.tick_params(labelsize=8)
        axes.xaxis.get_major_locator().set_params(integer=True)
    for axes in panels[-1]:
        axes.set_xlabel("epoch")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def case_of(fault: str) -> tuple[str, Case]:
    """A case with this fault alone."""
    for exercise, plants in PLANTS.items():
        if fault in plants and exercise != "two_faults":
            return exercise, next(case for case in all_cases(exercise) if case.faults == (fault,))
    raise KeyError(fault)


def draw_curves(axes: object, history: dict[str, list[float]], new_data: float | None) -> None:
    """The training's loss of each step, what the validation says of each epoch, and where known the accuracy on new data."""
    from matplotlib.axes import Axes

    assert isinstance(axes, Axes)
    (_, train), (_, val) = history.items()
    epochs = len(val)
    axes.plot([(i + 1) * epochs / len(train) for i in range(len(train))], train, color=BLUE, linewidth=0.9)
    axes.plot(range(1, epochs + 1), val, color=ORANGE, linewidth=2, marker="o", markersize=4)
    values = [value for value in [*train, *val] if math.isfinite(value) and value > 0]
    if max(values) > 100 * max(min(values), 0.05):
        axes.set_yscale("log")
        axes.set_ylim(bottom=max(min(values), 1e-2) * 0.7)
    else:
        axes.set_ylim(0, 1.08 * max(values))
    if new_data is not None:
        axes.plot(epochs, new_data, color="black", marker="D", markersize=7, clip_on=False, zorder=5)
