"""Graduation's plot: both trainings' curves, translations, and digits with predictions."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foundations.graduation import Result

BLUE, ORANGE = "#2a6fbb", "#e07b39"
SENTENCES = 5
IMAGES = 24
PER_ROW = 12
WIDTH = 74  # letters of a line of text


def draw_graduation(translation: Result, digits: Result, path: Path) -> Path:
    """Writes the plot to `path`, and returns it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 8.2), dpi=110, layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[1.25, 1])
    draw_translation(top, translation)
    draw_digits(bottom, digits)
    figure.savefig(path)
    return path


def draw_translation(figure: Any, result: Result) -> None:
    """Validation loss by epoch, and sentences with what the network made of them."""
    curve, text = figure.subplots(1, 2, width_ratios=[1, 1.6])
    draw_curve(curve, result.scores, "validation loss", BLUE)
    figure.suptitle(f"Translation, seq2seq's sample: BLEU {result.test_score:.1f} on {len(result.examples)} test sentences")
    lines = []
    for source, hypothesis, reference in sorted(result.examples[:40], key=lambda example: example[1] == example[2])[
        :SENTENCES
    ]:
        mark = "✓" if hypothesis == reference else "✗"
        lines += textwrap.wrap(source, WIDTH)
        lines += textwrap.wrap(f"{mark} {hypothesis}", WIDTH, subsequent_indent="   ")
        lines += [] if hypothesis == reference else textwrap.wrap(f"   ({reference})", WIDTH, subsequent_indent="   ")
        lines.append("")
    text.text(0, 1, "\n".join(lines), va="top", fontsize=9.5, linespacing=1.25)
    text.set_axis_off()


def draw_digits(figure: Any, result: Result) -> None:
    """Validation accuracy by epoch, and test images with their predictions, the wrong ones first."""
    curve_side, image_side = figure.subfigures(1, 2, width_ratios=[1, 1.6])
    draw_curve(curve_side.subplots(), [100 * score for score in result.scores], "validation accuracy (%)", ORANGE)
    figure.suptitle(f"Digits, scikit-learn: accuracy {result.test_score:.1f} % on {len(result.examples)} test images")
    shown = sorted(result.examples, key=lambda example: example[1] == example[2])[:IMAGES]
    for axes, (image, prediction, label) in zip(image_side.subplots(IMAGES // PER_ROW, PER_ROW).flat, shown, strict=True):
        axes.imshow(image, cmap="gray_r")
        right = prediction == label
        axes.set_title(
            str(prediction) if right else f"{prediction}, is {label}", color="black" if right else "#b3261e", fontsize=9
        )
        axes.set_axis_off()


def draw_curve(axes: Any, scores: list[float], name: str, color: str) -> None:
    """Scores by epoch."""
    axes.plot(range(1, len(scores) + 1), scores, marker="o", color=color)
    axes.set_xlabel("epoch")
    axes.set_ylabel(name)
    axes.grid(alpha=0.3)
    axes.xaxis.get_major_locator().set_params(integer=True)
