"""Drawing of the lesson on tricks: what each buys, as a bar with its spread over seeds, measured here and now."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from foundations.exercises.tricks.competition_data import images

SEEDS, STEPS, BATCH, LR = 10, 100, 16, 0.3
LABELED, UNLABELED, TEST = 300, 600, 2000
MEMBERS, THRESHOLD = 5, 0.9
NAMES = (
    "the same model five times",
    "bfloat16 in forward passes",
    "pseudo-labels (p ≥ 0.9)",
    "gradient clipping (norm 1)",
    "views: moved by a pixel",
    "warm-up and cosine schedule",
    "ensemble of five",
    "schedule, pseudo-labels, views, ensemble",
)


def draw(path: Path) -> None:
    """Draws the gain in test accuracy of each trick, with the standard deviation and every seed's own gain."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    torch.set_num_threads(1)
    base, scores = zip(*[measure(seed) for seed in range(SEEDS)], strict=True)
    gains = 100 * (torch.tensor(scores) - torch.tensor(base)[:, None])  # (SEEDS, tricks)
    figure, axes = plt.subplots(figsize=(11, 5.5), layout="constrained")
    for i in range(len(NAMES)):
        mean, std = gains[:, i].mean().item(), gains[:, i].std().item()
        axes.barh(i, mean, color="#56b4e9", height=0.6)
        axes.errorbar(mean, i, xerr=std, color="black", capsize=4, linewidth=1.5)
        axes.scatter(gains[:, i], [i - 0.2 + 0.4 * k / (SEEDS - 1) for k in range(SEEDS)], s=14, color="#d55e00", zorder=3)
        axes.text(1.02, i, f"{mean:+.1f} ± {std:.1f}", transform=axes.get_yaxis_transform(), va="center")
    axes.set_yticks(range(len(NAMES)), NAMES)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel("gain in test accuracy, percentage points")
    mean = 100 * sum(base) / len(base)
    axes.set_title(
        f"Letters of the competition, {LABELED} labels, a network of one hidden layer: {mean:.1f} % without any trick.\n"
        f"Bars: mean gain of {SEEDS} seeds, each against itself; lines: standard deviation; dots: seeds",
        loc="left",
        fontsize=11,
    )
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def measure(seed: int) -> tuple[float, list[float]]:
    """Test accuracy of a seed without tricks, and with each of `NAMES`."""
    x, y = images(LABELED, 3 * seed + 100)
    unlabeled, _ = images(UNLABELED, 3 * seed + 101)
    test, labels = images(TEST, 3 * seed + 102)

    def accuracy(models: list[nn.Module], moves: tuple[int, ...] = (0,)) -> float:
        views = [test.roll((dy, dx), (2, 3)) for dy in moves for dx in moves]
        with torch.no_grad():
            probabilities = torch.stack([model(view).softmax(1) for model in models for view in views]).mean(0)
        return (probabilities.argmax(1) == labels).float().mean().item()

    def pseudo_labeled(teachers: list[nn.Module]) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            confidence, guesses = torch.stack([model(unlabeled).softmax(1) for model in teachers]).mean(0).max(1)
        kept = confidence >= THRESHOLD
        return torch.cat([x, unlabeled[kept]]), torch.cat([y, guesses[kept]])

    many = [train(x, y, 100 * seed + member) for member in range(MEMBERS)]
    first = many[0]
    scheduled = [train(x, y, 100 * seed + member, schedule=True) for member in range(MEMBERS)]
    more = pseudo_labeled(scheduled)
    students = [train(*more, 100 * seed + member, schedule=True) for member in range(MEMBERS)]
    return accuracy([first]), [
        accuracy([first] * MEMBERS),
        accuracy([train(x, y, 100 * seed, half=True)]),
        accuracy([train(*pseudo_labeled([first]), 100 * seed)]),
        accuracy([train(x, y, 100 * seed, clip=True)]),
        accuracy([first], (-1, 0, 1)),
        accuracy(scheduled[:1]),
        accuracy(many),
        accuracy(students, (-1, 0, 1)),
    ]


def train(x: Tensor, y: Tensor, seed: int, schedule: bool = False, clip: bool = False, half: bool = False) -> nn.Module:
    """Trains a network from the seed's initial weights, with some of the tricks."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(x.shape[-1] ** 2, 64), nn.ReLU(), nn.Linear(64, int(y.max()) + 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
    for step in range(STEPS):
        if schedule:
            rise = min(1.0, (step + 1) / (0.1 * STEPS))
            optimizer.param_groups[0]["lr"] = LR * rise * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        index = torch.randint(len(x), (BATCH,))
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = model(x[index])
        loss = nn.functional.cross_entropy(logits.float(), y[index])
        optimizer.zero_grad()
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()
