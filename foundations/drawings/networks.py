"""Drawing of the lesson on networks: the size of the activations in thirty layers, for four initializations."""

from __future__ import annotations

from pathlib import Path

import torch

DEPTH, WIDTH = 30, 256
SCALES = {
    "std 0.01: the signal dies": (0.01, "#56b4e9", "o"),
    "std 1 / √in: half is lost in each ReLU": (WIDTH**-0.5, "#e69f00", "s"),
    "std √(2 / in), He et al.: it stays": ((2 / WIDTH) ** 0.5, "#009e73", "^"),
    "std 2 / √in: it explodes": (2 * WIDTH**-0.5, "#d55e00", "D"),
}


def draw(path: Path) -> None:
    """Draws the standard deviation after each ReLU layer of a deep network, computed by torch."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(11, 5.5), layout="constrained")
    for label, (std, color, marker) in SCALES.items():
        axes.semilogy(range(1, DEPTH + 1), activation_stds(std), label=label, color=color, marker=marker, markersize=4)
    axes.set_xlabel("layer")
    axes.set_ylabel("standard deviation of the activations")
    axes.set_ylim(1e-12, 1e10)
    axes.set_title(f"{DEPTH} layers of {WIDTH} units with ReLU, inputs of standard deviation 1", loc="left")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", frameon=False, title="weights of")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def activation_stds(std: float) -> list[float]:
    """Standard deviation after each layer."""
    rng = torch.Generator().manual_seed(0)
    x, stds = torch.randn(512, WIDTH, generator=rng), []
    for _ in range(DEPTH):
        x = torch.relu(x @ (std * torch.randn(WIDTH, WIDTH, generator=rng)))
        stds.append(x.std().item())
    return stds
