"""Drawing of the lesson on training loops: one epoch as a time line of mode, graph, gradient and weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

TRAINING, EVALUATION, GRAPH, GRADIENT, WEIGHTS = "#56b4e9", "#e69f00", "#999999", "#d55e00", "#009e73"


@dataclass
class Moment:
    """State after one line of the loop."""

    line: str
    training: bool
    graph: bool
    gradient: float
    moved: float


def epoch_moments() -> tuple[list[Moment], int]:
    """Moments of an epoch of three steps and of the first step after it, and the position of the epoch's last moment."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(24, 8, generator=rng)
    labels = (images[:, 0] > 0).long() + (images[:, 1] > 0.5).long()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    start = torch.cat([parameter.detach().flatten().clone() for parameter in model.parameters()])
    moments: list[Moment] = []

    def note(line: str, graph: bool = False) -> None:
        grads = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
        weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
        norm = torch.cat(grads).norm().item() if grads else 0.0
        moments.append(Moment(line, model.training, graph, norm, (weights - start).norm().item()))

    def train(batches: range) -> None:
        model.train()
        note("train()")
        for k in batches:
            rows = slice(6 * k, 6 * k + 6)
            loss = F.cross_entropy(model(images[rows]), labels[rows])
            note("loss = …", loss.requires_grad)
            optimizer.zero_grad()
            note("zero_grad()", loss.requires_grad)
            loss.backward()
            note("backward()")
            optimizer.step()
            note("step()")

    train(range(3))
    model.eval()
    note("eval()")
    with torch.no_grad():
        for rows in (slice(18, 21), slice(21, 24)):
            note("model(val)", model(images[rows]).requires_grad)
    note("copy the best")
    last = len(moments) - 1
    train(range(1))
    return moments, last


def draw(path: Path) -> None:
    """Draws what each line of the loop changes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    moments, last = epoch_moments()
    figure, axes = plt.subplots(
        4, 1, figsize=(12, 6.4), sharex=True, layout="constrained", gridspec_kw={"height_ratios": [0.7, 0.7, 1.5, 1.5]}
    )
    _draw_band(axes[0], [moment.training for moment in moments], ("training", TRAINING), ("evaluation", EVALUATION))
    _draw_band(axes[1], [moment.graph for moment in moments], ("graph", GRAPH), ("", "white"))
    x = [i - 0.5 for i in range(len(moments) + 1)]
    for axis, values, color in (
        (axes[2], [moment.gradient for moment in moments], GRADIENT),
        (axes[3], [moment.moved for moment in moments], WEIGHTS),
    ):
        axis.stairs(values, x, color=color, fill=True, alpha=0.35)
        axis.stairs(values, x, color=color, linewidth=2)
        axis.set_ylim(0, 1.2 * max(values))
        axis.grid(axis="y", alpha=0.3)
    axes[3].plot([last], [moments[last].moved], marker="*", markersize=16, color="black")
    names = ("mode", "a graph\nis alive", "norm of\n.grad", "how far the\nweights are\nfrom the start")
    for axis, name in zip(axes, names, strict=True):
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=11, labelpad=12)
        axis.axvline(last + 0.5, color="black", linestyle="--", linewidth=1)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    axes[3].set_xticks(range(len(moments)), [moment.line for moment in moments], rotation=60, ha="right", fontsize=10)
    axes[3].set_xlim(-0.5, len(moments) - 0.5)
    figure.suptitle(
        "One epoch: three steps, the validation, and the first step of the next epoch (each column: after that line)"
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_band(axis: Any, states: list[bool], on: tuple[str, str], off: tuple[str, str]) -> None:
    """Draws runs of equal states as colored bars with their names."""
    begin = 0
    for i in range(1, len(states) + 1):
        if i == len(states) or states[i] != states[begin]:
            name, color = on if states[begin] else off
            axis.barh(0, i - begin, left=begin - 0.5, height=1, color=color, edgecolor="white")
            axis.text((begin + i) / 2 - 0.5, 0, name, ha="center", va="center", fontsize=11)
            begin = i
    axis.set_yticks([])
    axis.set_ylim(-0.5, 0.5)
