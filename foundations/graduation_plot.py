"""Graduation's plot: both trainings' curves, translations, and digits with predictions."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foundations.graduation import Result

BLUE, ORANGE = "#2a6fbb", "#e07b39"
SENTENCES, WRONG_SENTENCES = 5, 3
IMAGES = 24
PER_ROW = 8
WIDTH = 74  # letters of a line of text


def draw_graduation(translation: Result, digits: Result, path: Path) -> Path:
    """Writes the plot to `path`, and returns it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 8.2), dpi=110, layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=[1.25, 1])
    top, bottom = halves
    draw_translation(top, translation)
    draw_digits(bottom, digits)
    figure.savefig(path)
    return path


def draw_translation(figure: Any, result: Result) -> None:
    """Validation loss by epoch, and sentences with what the network made of them: some wrong ones, then right ones."""
    curve, text = figure.subplots(1, 2, width_ratios=[1, 1.6])
    draw_curve(curve, result.scores, "validation loss", BLUE)
    figure.suptitle(f"Translation, seq2seq's sample: BLEU {result.test_score:.1f} on {len(result.examples)} test sentences")
    wrong = [example for example in result.examples if example[1] != example[2]][:WRONG_SENTENCES]
    right = [example for example in result.examples if example[1] == example[2]][: SENTENCES - len(wrong)]
    lines = []
    for source, hypothesis, reference in [*wrong, *right]:
        lines += [*textwrap.wrap(source, WIDTH), *indent(hypothesis, "✓ " if hypothesis == reference else "✗ ")]
        lines += [""] if hypothesis == reference else [*indent(f"({reference})", "   "), ""]
    text.text(0, 1, "\n".join(lines), va="top", fontsize=9.5, linespacing=1.2)
    text.set_title("Wrong ones first", loc="left", fontsize=10)
    text.set_axis_off()


def indent(sentence: str, mark: str) -> list[str]:
    """Lines of a sentence, behind a mark."""
    return textwrap.wrap(mark + sentence, WIDTH, subsequent_indent="   ", drop_whitespace=False)


def draw_digits(figure: Any, result: Result) -> None:
    """Validation accuracy by epoch, and test images with their predictions, the wrong ones first."""
    curve_side, image_side = figure.subfigures(1, 2, width_ratios=[1, 1.6])
    draw_curve(curve_side.subplots(), [100 * score for score in result.scores], "validation accuracy (%)", ORANGE)
    figure.suptitle(f"Digits, scikit-learn: accuracy {result.test_score:.1f} % on {len(result.examples)} test images")
    shown = sorted(result.examples, key=lambda example: example[1] == example[2])[:IMAGES]
    grid = image_side.subplots(IMAGES // PER_ROW, PER_ROW)
    for axes, (image, prediction, label) in zip(grid.flat, shown, strict=True):
        axes.imshow(image, cmap="gray_r")
        title, color = (str(label), "black") if prediction == label else (f"{prediction}, is {label}", "#b3261e")
        axes.set_title(title, color=color, fontsize=9)
        axes.set_axis_off()


def draw_curve(axes: Any, scores: list[float], name: str, color: str) -> None:
    """Scores by epoch."""
    axes.plot(range(1, len(scores) + 1), scores, marker="o", color=color)
    axes.set_xlabel("epoch")
    axes.set_ylabel(name)
    axes.grid(alpha=0.3)
    axes.xaxis.get_major_locator().set_params(integer=True)
