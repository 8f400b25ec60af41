"""Pictures of runs. Each function draws one picture into a PNG file and returns its path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from common.figures import BLUE, GRAY, ORANGE, bare, new_figure, new_tiles, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curve = tuple[tuple[float, ...], tuple[float, ...]]  # steps and values


def draw_curves(rows: list[dict[str, float]], path: Path) -> Path | None:
    """Every curve of a run against the optimizer's steps: losses together, then one panel for each further group.

    Args:
        rows: the rows of `metrics.csv` (see `common.metrics.read_metrics`).
        path: the PNG to write. None is returned, and nothing written, if there is nothing to draw.
    """
    panels: dict[str, list[str]] = {}
    for name in sorted({key for row in rows for key in row} - {"step", "epoch"}):
        group, _, rest = name.partition("/")
        if group == "test":
            continue
        if group in ("train", "val"):
            panels.setdefault(rest.replace("_", " "), []).append(name)
        elif group == "act":
            panels.setdefault(f"share of {rest.partition('/')[0]} units", []).append(name)
        elif name.startswith("lr-"):
            panels.setdefault("learning rate / its maximum", []).append(name)
        else:
            panels.setdefault(name.replace("_", " "), []).append(name)
    if not panels:
        return None
    columns = min(3, len(panels))
    figure, all_axes = new_figure(-(-len(panels) // columns), columns, 4.2, 2.9)
    order = sorted(panels, key=lambda title: (not any(n.startswith(("train/", "val/")) for n in panels[title]), title))
    for axes, title in zip(all_axes, order, strict=False):
        _draw_panel(axes, title, panels[title], rows)
    for axes in all_axes[len(order) :]:
        axes.set_visible(False)
    return save(figure, path)


def _draw_panel(axes: Axes, title: str, names: list[str], rows: list[dict[str, float]]) -> None:
    """The curves `names` of `rows` in one panel; those that hide one another are one, as rates of one schedule do."""
    drawn: dict[Curve, list[str]] = {}
    for name in names:
        drawn.setdefault(_curve(rows, name), []).append(name)
    for (steps, values), (name, *others) in drawn.items():
        style: dict[str, Any] = {"linewidth": 1.3}
        if name.startswith("train/"):
            style.update(color=BLUE, alpha=0.8)
        elif name.startswith("val/"):
            style.update(color=ORANGE, marker="o", markersize=3)
        more = f" and {len(others)} more" if others else ""
        axes.plot(steps, values, label=_curve_label(name) + more, **style)
    if title.startswith("share of"):
        axes.set_ylim(-0.02, max(0.2, axes.get_ylim()[1]))  # so that a line at 0 is seen to be at the bottom
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("step", fontsize=8)
    axes.tick_params(labelsize=8)
    bare(axes)
    if len(drawn) > 1 or title == "loss":
        axes.legend(fontsize=6 if len(drawn) > 4 else 8, frameon=False)


def _curve(rows: list[dict[str, float]], name: str) -> Curve:
    """Steps and values of a metric; a learning rate as a share of its maximum."""
    steps, values = zip(*[(row["step"], row[name]) for row in rows if name in row], strict=True)
    if name.startswith("lr-"):
        highest = max(values) or 1.0
        values = tuple(round(value / highest, 9) for value in values)
    return steps, values


def _curve_label(name: str) -> str:
    if name.startswith("act/"):
        return name.split("/", 2)[2]
    return name.rpartition("/")[2] if name.startswith("lr-") else name.partition("/")[0]


def draw_confusion(counts: Tensor, class_names: Sequence[str], path: Path) -> Path:
    """A confusion matrix: row, the true class; column, the predicted one; cells, per cent of the row.

    Args:
        counts: (classes, classes) int, how many of row's class were taken for column's.
        class_names: in the order of the rows.
        path: the PNG to write.
    """
    share = 100 * counts.float() / counts.sum(1, keepdim=True).clamp(min=1)
    classes = len(class_names)
    figure, (axes,) = new_figure(1, 1, 1.8 + 0.52 * classes, 1.4 + 0.46 * classes)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    for row in range(classes):
        for column in range(classes):
            value = share[row, column].item()
            if round(value) > 0:
                color = "white" if value > 50 else "#303030"
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color=color)
    axes.set_xticks(range(classes), class_names, rotation=40, ha="right", fontsize=8)
    axes.set_yticks(range(classes), class_names, fontsize=8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title("Confusion, % of each true class", fontsize=10)
    return save(figure, path)


def draw_calibration(confidence: Tensor, correct: Tensor, path: Path, bins: int = 15) -> Path:
    """A reliability diagram (Guo et al., arXiv 1706.04599): accuracy against confidence, and how often each occurs.

    Args:
        confidence: (n,) the probability of the predicted class.
        correct: (n,) bool, whether it was the right one.
        path: the PNG to write.
        bins: equal parts of [0, 1].
    """
    which = (confidence * bins).long().clamp(max=bins - 1)
    count = torch.bincount(which, minlength=bins).float()
    accuracy = torch.bincount(which, correct.float(), minlength=bins) / count.clamp(min=1)
    mean_confidence = torch.bincount(which, confidence.float(), minlength=bins) / count.clamp(min=1)
    error = ((accuracy - mean_confidence).abs() * count).sum() / count.sum()
    full = count > 0
    centers = (torch.arange(bins) + 0.5) / bins
    figure, (upper, lower) = new_figure(2, 1, 4.6, 2.4)
    upper.plot([0, 1], [0, 1], color=GRAY, linewidth=1, linestyle="--", label="perfectly calibrated")
    upper.plot(mean_confidence[full], accuracy[full], color=BLUE, marker="o", markersize=4, label="this model")
    upper.set_ylabel("accuracy")
    upper.set_title(f"Calibration: expected error {100 * error.item():.1f} points", fontsize=10)
    upper.legend(fontsize=8, frameon=False)
    lower.bar(centers, count / count.sum(), width=0.9 / bins, color=ORANGE)
    lower.set_xlabel("confidence")
    lower.set_ylabel("share of samples")
    for axes in (upper, lower):
        axes.set_xlim(0, 1)
        bare(axes)
    return save(figure, path)


def draw_images(images: Tensor, titles: Sequence[str], path: Path, columns: int = 8) -> Path:
    """A grid of pictures, each with a title.

    Args:
        images: (n, 3, height, width) uint8.
        titles: n of them.
        path: the PNG to write.
        columns: pictures in a row.
    """
    columns = min(columns, len(images))
    figure, all_axes = new_tiles(-(-len(images) // columns), columns, 1.35, 1.6, above=0.32)
    for axes, image, title in zip(all_axes, images, titles, strict=False):
        axes.imshow(image.permute(1, 2, 0))
        axes.set_title(title, fontsize=7, y=1.0)  # left to itself it would measure every tick that is not there
    return save(figure, path)


def draw_filters(weight: Tensor, path: Path, title: str) -> Path:
    """The filters of a convolution on colour pictures, each stretched to its own range around mid-grey.

    Args:
        weight: (filters, 3, height, width).
        path: the PNG to write.
        title: what is said above them.
    """
    weight = weight.detach().float().cpu()
    columns = min(12, len(weight))
    rows = -(-len(weight) // columns)
    figure, all_axes = new_tiles(rows, columns, 0.75, 0.75 + 0.3 / rows, above=0.3 / rows)
    for axes, filters in zip(all_axes, weight, strict=False):
        axes.imshow((0.5 + 0.5 * filters / filters.abs().max().clamp(min=1e-8)).permute(1, 2, 0))
    figure.suptitle(title, fontsize=9)
    return save(figure, path)


def draw_attention(maps: Sequence[tuple[Tensor, Sequence[str], Sequence[str]]], path: Path, columns: int = 2) -> Path:
    """Attention maps: row, the token that was written; column, the token that it looked at; dark, how much.

    Args:
        maps: for each map the weights (rows, columns) from 0 to 1, the rows' names and the columns'.
        path: the PNG to write.
        columns: maps in a row.
    """
    columns = min(columns, len(maps))
    widest = max(len(names) for _, _, names in maps)
    tallest = max(len(names) for _, names, _ in maps)
    figure, all_axes = new_figure(-(-len(maps) // columns), columns, 1.6 + 0.23 * widest, 1.3 + 0.23 * tallest)
    for axes, (weights, rows, names) in zip(all_axes, maps, strict=False):
        axes.imshow(weights.float().cpu(), cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
        axes.set_yticks(range(len(rows)), rows, fontsize=8)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        for side in axes.spines.values():
            side.set_color(GRAY)
    for axes in all_axes[len(maps) :]:
        axes.set_visible(False)
    return save(figure, path)


def draw_bars(values: dict[str, float], notes: Sequence[str], title: str, x_label: str, y_label: str, path: Path) -> Path:
    """A bar for each entry of `values`, with its value above it and a note below its name."""
    figure, (axes,) = new_figure(1, 1, 1.4 + 0.9 * len(values), 3.2)
    bars = axes.bar(range(len(values)), list(values.values()), width=0.7, color=BLUE)
    axes.bar_label(bars, fmt="%.1f", fontsize=8, padding=2)
    axes.set_xticks(range(len(values)), [f"{name}\n{note}" for name, note in zip(values, notes, strict=True)], fontsize=8)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(x_label, fontsize=9)
    axes.set_ylabel(y_label, fontsize=9)
    axes.tick_params(labelsize=8)
    bare(axes)
    axes.grid(axis="x", visible=False)
    return save(figure, path)


def draw_points(points: Tensor, modes: Tensor, radius: float, title: str, path: Path) -> Path:
    """Points in the plane over the circles that they should be in; those inside one are blue, all others orange.

    Args:
        points: (n, 2).
        modes: (modes, 2), the circles' centres.
        radius: of the circles.
        title: what is said above them.
        path: the PNG to write.
    """
    points, modes = points.float().cpu(), modes.float().cpu()
    figure, (axes,) = new_figure(1, 1, 4.4, 4.6)
    _draw_points(axes, points, modes, radius)
    axes.set_title(title, fontsize=9)
    return save(figure, path)


def _draw_points(axes: Axes, points: Tensor, modes: Tensor, radius: float) -> None:
    from matplotlib.patches import Circle

    shown = max(radius, 0.02 * float(modes.abs().max()))  # a smaller circle would not be seen
    for x, y in modes.tolist():
        axes.add_patch(Circle((x, y), shown, fill=False, edgecolor=GRAY, linewidth=0.8))
    inside = torch.cdist(points, modes).amin(1) <= radius
    for chosen, color in [(inside, BLUE), (~inside, ORANGE)]:
        axes.scatter(points[chosen, 0], points[chosen, 1], s=3, color=color, alpha=0.5, linewidths=0)
    limit = 1.3 * float(modes.abs().max())
    axes.set_xlim(-limit, limit)
    axes.set_ylim(-limit, limit)
    axes.set_aspect("equal")
    axes.tick_params(labelsize=7)


def draw_texts(rows: Sequence[tuple[str, Sequence[str], Tensor]], path: Path, width: float = 8.0) -> Path:
    """Texts whose words are coloured: blue speaks for what stands above the text, orange against it.

    Args:
        rows: for each text what stands above it, its words, and the words' values (words,); the largest value of a text,
            whatever its sign, has the full colour.
        path: the PNG to write.
        width: of the picture, in inches; longer texts go on in the next line.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

    dpi, font, margin, gap, line = 130, FontProperties(size=10), 16.0, 9.0, 27.0  # pixels but for dpi and the font
    figure = Figure(dpi=dpi)
    renderer = FigureCanvasAgg(figure).get_renderer()
    colors = LinearSegmentedColormap.from_list("signed", [ORANGE, "#ffffff", BLUE])
    words: list[tuple[float, float, str, dict[str, Any]]] = []  # pixels from the left and from the top, what, and how
    y = margin
    for title, row_words, values in rows:
        words.append((margin, y, title, {"fontsize": 9, "color": "#505560", "fontweight": "bold"}))
        x, y = margin, y + 0.9 * line
        largest = float(values.abs().max()) if len(values) else 0.0
        for word, value in zip(row_words, values.tolist(), strict=True):
            shown = word.replace("$", r"\$")  # else matplotlib would read formulas
            extent, _, _ = renderer.get_text_width_height_descent(shown, font, False)
            if x > margin and x + extent > width * dpi - margin:
                x, y = margin, y + line
            color = colors(0.5 + 0.5 * value / largest if largest else 0.5)
            dark = sum(color[:3]) < 1.6
            box = {"facecolor": color, "edgecolor": "none", "pad": 2.5}
            words.append((x, y, shown, {"fontproperties": font, "bbox": box, "color": "white" if dark else "#202020"}))
            x += extent + gap
        y += 1.5 * line
    legend = "colour: how much a word speaks for (blue) or against (orange) what stands above the text"
    words.append((margin, y, legend, {"fontsize": 8, "color": GRAY}))
    height = y + line
    figure.set_size_inches(width, height / dpi)
    for x, y, text, how in words:
        figure.text(x / (width * dpi), 1 - y / height, text, va="top", **how)
    return save(figure, path)
