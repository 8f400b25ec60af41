"""Map of the course: a row for each chapter, a box for each exercise."""

from __future__ import annotations

from pathlib import Path

from foundations.catalog import CHAPTERS, is_prediction, load_exercise

COLORS = {"prediction": "#d6ecf8", "warm-up": "#bfe3d5", "core": "#f3f3f3", "challenge": "#f6d27a"}
BOX = 2.35
PER_ROW = 6


def draw(path: Path) -> None:
    """Draws the map."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.patches import FancyBboxPatch, Patch

    rows = sum(-(-len(chapter.exercises) // PER_ROW) for chapter in CHAPTERS)
    figure, axes = plt.subplots(figsize=(13, 1.0 + 0.62 * rows + 0.45 * len(CHAPTERS)), layout="constrained")
    top = 0.0
    for number, chapter in enumerate(CHAPTERS, 1):
        axes.text(0, top, f"{number}  {chapter.title}", fontsize=13, weight="bold", va="center")
        axes.text(
            PER_ROW * BOX - 0.2, top, f"about {chapter.hours} h", fontsize=10, va="center", ha="right", color="#555555"
        )
        for i, name in enumerate(chapter.exercises):
            left, height = i % PER_ROW * BOX, top - 0.95 - i // PER_ROW * 0.9
            level = "prediction" if is_prediction(name) else load_exercise(name).level
            box = FancyBboxPatch(
                (left, height - 0.3), BOX - 0.3, 0.6, "round,pad=0.04", facecolor=COLORS[level], edgecolor="#888888"
            )
            axes.add_patch(box)
            axes.text(left + (BOX - 0.3) / 2, height, name.replace("_", " "), fontsize=8.5, ha="center", va="center")
        top -= 1.05 + -(-len(chapter.exercises) // PER_ROW) * 0.9
    legend = [Patch(facecolor=color, edgecolor="#888888", label=level) for level, color in COLORS.items()]
    axes.legend(handles=legend, loc="lower center", bbox_to_anchor=(0.5, -0.06), ncols=4, frameon=False)
    axes.set_xlim(-0.2, PER_ROW * BOX)
    axes.set_ylim(top, 0.6)
    axes.axis("off")
    figure.savefig(path, dpi=100)
    plt.close(figure)
