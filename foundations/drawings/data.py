"""Drawing of the lesson on data: three orders of batches over two epochs, with the padding that each costs."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from foundations.imports import exercise_imports, import_answer

COUNT, BATCH_SIZE, MAX_TOKENS = 18, 4, 36
PADDING, EDGE = "#d9d9d9", "#555555"


def orders(epoch: int) -> dict[str, list[list[int]]]:
    """The batches of an epoch in three orders, by the solutions of this chapter."""
    with exercise_imports({}):
        loader, buckets = import_answer("dataloader").dataloader, import_answer("bucket_batches").bucket_batches
        indices = [([float(i)], i) for i in range(COUNT)]
        options: dict[str, Any] = {"epoch": epoch, "collate": lambda samples: [i for _, i in samples]}
        return {
            "in order": list(loader(indices, BATCH_SIZE, shuffle=False, **options)),
            "shuffled": list(loader(indices, BATCH_SIZE, **options)),
            f"buckets of at most {MAX_TOKENS} tokens": buckets(sequence_lengths(), MAX_TOKENS, epoch),
        }


def sequence_lengths() -> list[int]:
    """Lengths of the sequences that are drawn."""
    rng = random.Random(2)
    return [rng.randint(1, 12) for _ in range(COUNT)]


def draw(path: Path) -> None:
    """Draws each batch as bars as high as its sequences are long, and above them their padding."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(3, 2, figsize=(12, 7.6), layout="constrained", sharey=True)
    for epoch in (0, 1):
        for axis, (title, batches) in zip(axes[:, epoch], orders(epoch).items(), strict=True):
            _draw_batches(axis, batches)
            axis.set_title(f"epoch {epoch}, {title}: {_padding(batches):.0%} padding", fontsize=11, loc="left")
    for axis in axes[:, 0]:
        axis.set_ylabel("tokens")
    figure.suptitle(
        f"{COUNT} sequences. A bar is a sequence, its number below it; gray is padding up to the longest of the batch",
        fontsize=12,
    )
    figure.savefig(path, dpi=105)
    plt.close(figure)


def _padding(batches: list[list[int]]) -> float:
    """Fraction of padding in all batches."""
    lengths = sequence_lengths()
    return 1 - sum(lengths) / sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)


def _draw_batches(axis: Any, batches: list[list[int]]) -> None:
    from matplotlib import colormaps

    lengths, left = sequence_lengths(), 0.0
    centers = []
    for batch in batches:
        longest = max(lengths[i] for i in batch)
        for i in batch:
            color = colormaps["viridis"](0.15 + 0.8 * i / (COUNT - 1))
            axis.bar(left, lengths[i], 1.0, color=color, edgecolor="white", linewidth=0.8)
            axis.bar(left, longest - lengths[i], 1.0, bottom=lengths[i], color=PADDING, edgecolor="white", linewidth=0.8)
            centers.append((left, i))
            left += 1
        axis.plot(
            [left - len(batch) - 0.5, left - 0.5, left - 0.5, left - len(batch) - 0.5, left - len(batch) - 0.5],
            [0, 0, longest, longest, 0],
            color=EDGE,
            linewidth=1.4,
        )
        left += 0.8
    axis.set_xticks([center for center, _ in centers], [str(i) for _, i in centers], fontsize=9)
    axis.tick_params(length=0)
    axis.set_xlim(-0.8, 22.8)
    axis.set_ylim(0, 13)
    for side in ("top", "right", "bottom"):
        axis.spines[side].set_visible(False)
