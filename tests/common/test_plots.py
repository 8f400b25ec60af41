"""Plots: each shows the values that it was called with, and is written as a PNG."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import sklearn.metrics
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image
from torchmetrics.classification import MulticlassCalibrationError

from common.plots.bars import draw_bars
from common.plots.classification import MAX_CONFUSED_PAIRS, draw_calibration, draw_confusion, draw_confusion_matrix
from common.plots.curves import draw_curves
from common.plots.figures import COLORS, MAX_LINES, ORANGE, line_styles, report_plot_errors, save_figure
from common.plots.images import draw_filters, draw_image_rows, draw_images
from common.plots.video import add_caption


def is_png(path) -> bool:
    with Image.open(path) as image:
        image.load()
        return image.format == "PNG" and min(image.size) > 50


def lines(axes) -> dict[str, tuple[list[float], list[float]]]:
    return {line.get_label(): tuple(np.asarray(part).tolist() for part in line.get_data()) for line in axes.get_lines()}


# names from outside, and figures of any size


def test_names_with_dollars_are_shown_literally(tmp_path):
    names = ["$0_$50", "$\\frac{$", "100+", "_x^", "[/b]"]
    labels = torch.arange(5)
    assert is_png(draw_confusion(labels, labels, names, tmp_path / "a.png"))
    assert is_png(draw_images(torch.zeros(5, 3, 4, 4, dtype=torch.uint8), names, tmp_path / "b.png"))
    assert is_png(draw_filters(torch.zeros(1, 3, 2, 2), tmp_path / "c.png", "$_$"))
    assert is_png(draw_bars({"$_$": 1.0}, ["$^$"], "$_$", "$_$", "$_$", tmp_path / "d.png"))
    assert is_png(draw_curves([{"step": 0.0, "act/dead/$_$": 1.0, "act/dead/$^$": 0.0}], tmp_path / "e.png"))


def test_a_large_figure_has_fewer_dots_per_inch(tmp_path, drawn):
    for width, height in ((500.0, 400.0), (3000.0, 1.0), (5.0, 4.0)):
        save_figure(Figure((width, height), dpi=130), tmp_path / "x.png")
    sizes = [figure.get_size_inches() * figure.dpi for figure in drawn]
    assert all(size.prod() <= 1.01 * 2**25 and size.max() <= 2**15 + 1 for size in sizes)
    assert drawn[2].dpi == 130


def test_a_plot_that_fails_is_one_line(capsys):
    with report_plot_errors("x.png"):
        raise ValueError("two\nlines")
    with report_plot_errors("y.png"):
        raise MemoryError
    assert capsys.readouterr().out == "x.png: not drawn: two lines\ny.png: not drawn: MemoryError\n"
    with pytest.raises(KeyboardInterrupt), report_plot_errors("x.png"):
        raise KeyboardInterrupt


# curves


ROWS = [
    {"step": 0.0, "train/loss": 3.0, "grad/norm": 1.0, "act/dead/block.0": 0.5, "act/saturated/gate": 0.25},
    {"step": 0.0, "lr-SGD/filters": 0.2, "lr-SGD/head": 100.0, "lr-SGD/norms": 0.7},
    {"step": 9.0, "val/loss": 2.5, "val/accuracy": 0.4, "val/worst_class": 0.1, "epoch": 0.0},
    {"step": 10.0, "train/loss": 2.0, "act/dead/block.0": 0.25},
    {"step": 10.0, "lr-SGD/filters": 0.1, "lr-SGD/head": 0.0, "lr-SGD/norms": 0.35},
    {"step": 11.0, "test/accuracy": 0.5, "epoch": 1.0},
]


def test_curves_have_a_panel_for_each_group(tmp_path, drawn):
    assert draw_curves(ROWS, tmp_path / "curves.png") == tmp_path / "curves.png"
    panels = {axes.get_title(): lines(axes) for axes in drawn[0].axes if axes.get_visible()}
    assert panels == {
        "loss": {"train": ([0.0, 10.0], [3.0, 2.0]), "val": ([9.0], [2.5])},
        "accuracy": {"val": ([9.0], [0.4])},
        "worst class": {"val": ([9.0], [0.1])},
        "gradient norm": {"norm": ([0.0], [1.0])},
        "fraction of dead units": {"block.0": ([0.0, 10.0], [0.5, 0.25])},
        "fraction of saturated units": {"gate": ([0.0], [0.25])},
        "learning rate": {
            "filters and 1 more": ([0.0, 10.0], [1.0, 0.5]),  # the same schedule
            "head": ([0.0, 10.0], [1.0, 0.0]),
        },
    }
    assert list(panels)[:3] == ["loss", "accuracy", "worst class"], "metrics come first"
    assert {axes.get_xlabel() for axes in drawn[0].axes if axes.get_visible()} == {"step"}


def test_the_monitored_metric_comes_first_and_epochs_stand_beside_the_steps(tmp_path, drawn):
    rows = [*ROWS, {"step": 19.0, "val/worst_class": 0.2}]
    draw_curves(rows, tmp_path / "x.png", "val/worst_class", 4.75, "run toy/a")
    first, second, *_ = drawn[0].axes
    assert (first.get_title(), second.get_title()) == ("worst class", "loss")
    drawn[0].draw_without_rendering()
    for axes in drawn[0].axes:
        (epochs,) = axes.child_axes or [None]
        if axes.get_visible():
            assert epochs.get_xlabel() == "epoch" and axes.get_xlim() == pytest.approx((-0.38, 19.57))
            assert epochs.get_xlim() == pytest.approx((-0.08, 4.12))
    assert [text.get_text() for text in drawn[0].texts] == ["run toy/a"]
    draw_curves(rows, tmp_path / "x.png", "val/worst_class", 100.0)
    assert not any(axes.child_axes for axes in drawn[1].axes), "less than an epoch"


def test_constants_have_no_panel_but_their_values_in_the_caption(tmp_path, drawn):
    constants = {"act/dead/a": 0.0, "act/dead/b": 0.25, "lr-Adam": 0.004, "val/accuracy": 0.5}
    rows = [{"step": float(step), "train/loss": 1.0 / (1 + step), **constants} for step in range(3)]
    draw_curves(rows, tmp_path / "x.png", "val/accuracy", caption="run toy/a")
    assert [axes.get_title() for axes in drawn[0].axes if axes.get_visible()] == ["accuracy", "loss"]
    (caption,) = drawn[0].texts
    constant = "constant, without a panel: fraction of dead units 0 to 0.25, learning rate 0.004"
    assert caption.get_text() == f"run toy/a\n{constant}"


def test_a_single_value_has_a_marker_and_lines_differ_in_more_than_color(tmp_path, drawn):
    draw_curves(ROWS, tmp_path / "x.png")
    for axes in drawn[0].axes:
        for line in axes.get_lines():
            assert len(line.get_xdata()) > 1 or line.get_marker() == "o"
    train, val = drawn[0].axes[0].get_lines()
    assert train.get_marker() != val.get_marker()
    styles = [(style["color"], style["linestyle"]) for style in line_styles(MAX_LINES)]
    assert len(set(styles)) == MAX_LINES and all(a[1] != b[1] for a, b in itertools.pairwise(styles))
    assert len(line_styles(MAX_LINES + 9)) == MAX_LINES + 9 and set(COLORS) == {color for color, _ in styles}


def test_of_many_layers_the_highest_are_in_the_legend(tmp_path, drawn):
    rows = [{"step": float(step), **{f"act/dead/{i}": 0.01 * i * step for i in range(20)}} for step in (1, 2)]
    draw_curves(rows, tmp_path / "x.png")
    axes = drawn[0].axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["19", "18", "17", "16", "16 others"]
    assert len(axes.get_lines()) == 20


def test_curves_of_units_whose_name_begins_with_an_underscore_are_in_the_legend(tmp_path, drawn):
    draw_curves([{"step": 0.0, "act/dead/_a": 1.0, "act/dead/b": 0.0}], tmp_path / "x.png")
    assert [text.get_text() for text in drawn[0].axes[0].get_legend().get_texts()] == ["_a", "b"]


def test_without_curves_there_is_no_plot(tmp_path):
    assert draw_curves([{"step": 1.0, "epoch": 0.0, "test/accuracy": 0.5}], tmp_path / "x.png") is None
    assert draw_curves([], tmp_path / "x.png") is None
    assert not (tmp_path / "x.png").exists()


def test_curves_with_values_that_are_not_finite_are_written_as_a_png(tmp_path):
    rows = [{"step": 0.0, "train/loss": math.inf, "lr-SGD": 0.0}, {"step": 1.0, "train/loss": math.nan, "lr-SGD": 0.0}]
    assert is_png(draw_curves(rows, tmp_path / "new" / "x.png"))


# confusion


def test_confusion_matrix_shows_per_cent_of_each_true_class(tmp_path, drawn):
    counts = torch.tensor([[90, 10, 0], [1, 2, 3], [0, 0, 0]])  # nothing was of the last class
    draw_confusion_matrix(counts, ["cat", "dog", "eel"], tmp_path / "x.png")
    (axes,) = drawn[0].axes
    texts = {(int(text.get_position()[1]), int(text.get_position()[0])): text.get_text() for text in axes.texts}
    assert texts == {(0, 0): "90", (0, 1): "10", (1, 0): "17", (1, 1): "33", (1, 2): "50"}
    expected = [[90, 10, 0], [100 / 6, 200 / 6, 300 / 6]]
    np.testing.assert_allclose(axes.images[0].get_array(), expected, rtol=1e-6)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["cat", "dog", "eel"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    first, second = drawn[0].get_suptitle().split("\n")
    assert first == "Confusion, % of each true class; accuracy 86.8 %"  # 92 of 106
    assert second == "(1 of 3 classes have no sample)"


def test_a_class_that_does_not_occur_has_no_row_and_no_column(tmp_path, drawn):
    draw_confusion_matrix(torch.tensor([[5, 0, 0], [0, 0, 0], [2, 0, 1]]), ["cat", "dog", "eel"], tmp_path / "x.png")
    (axes,) = drawn[0].axes
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in labels] == ["cat", "eel"]
    np.testing.assert_allclose(axes.images[0].get_array(), [[100, 0], [200 / 3, 100 / 3]], rtol=1e-6)


def test_cells_below_half_a_per_cent_are_empty(tmp_path, drawn):
    draw_confusion_matrix(torch.tensor([[996, 4], [6, 994]]), ["a", "b"], tmp_path / "x.png")
    assert sorted(text.get_text() for text in drawn[0].axes[0].texts) == ["1", "100", "99"]


def test_the_confusion_matrix_counts_true_classes_in_its_rows(tmp_path, drawn):
    predicted, labels = torch.randint(0, 4, (2, 300))
    draw_confusion(predicted, labels, list("abcd"), tmp_path / "x.png")
    expected = sklearn.metrics.confusion_matrix(labels, predicted, normalize="true")
    np.testing.assert_allclose(drawn[0].axes[0].images[0].get_array(), 100 * expected, rtol=1e-5)


def test_of_many_classes_the_most_confused_pairs_are_plotted(tmp_path, drawn):
    classes = 960
    names = [f"class {i}" for i in range(classes)]
    labels = torch.arange(classes).repeat(4)
    predicted = labels.clone()
    predicted[[7, 7 + classes, 7 + 2 * classes]] = 5  # 3 of 4
    predicted[[8, 8 + classes]] = 9  # 2 of 4
    predicted[100:200] += 1
    draw_confusion(predicted, labels, names, tmp_path / "x.png")
    (axes,) = drawn[0].axes
    assert [bar.get_width() for bar in axes.patches] == [3, 2] + [1] * (MAX_CONFUSED_PAIRS - 2)
    bars = [label.get_text() for label in axes.get_yticklabels()]
    assert bars[:3] == ["class 7 as class 5", "class 8 as class 9", "class 100 as class 101"]
    assert [text.get_text() for text in axes.texts][:3] == ["75 %", "50 %", "25 %"]
    assert max(drawn[0].get_size_inches()) < 12 and axes.get_xlabel() == "misclassified samples"
    draw_confusion(labels, labels, names, tmp_path / "x.png")  # no mistakes
    assert len(drawn[1].axes[0].patches) == 0


# calibration


@pytest.mark.parametrize("samples, bins", [(2000, 15), (7, 15), (500, 4)])
def test_calibration_error_is_that_of_torchmetrics(tmp_path, drawn, samples, bins):
    logits, labels = torch.randn(samples, 5) * 2, torch.randint(0, 5, (samples,))
    probabilities = logits.softmax(1)
    confidence, predicted = probabilities.max(1)
    draw_calibration(confidence, predicted == labels, tmp_path / "x.png", bins)
    expected = MulticlassCalibrationError(5, n_bins=bins)(probabilities, labels).item()
    assert drawn[0].axes[0].get_title() == f"Accuracy by confidence; calibration error {100 * expected:.1f} points"


def test_reliability_diagram_shows_accuracy_and_fraction_of_each_bin(tmp_path, drawn):
    confidence = torch.tensor([0.05, 0.15, 0.55, 0.58, 0.95, 1.0, 1.0, 0.97])
    correct = torch.tensor([0, 0, 1, 0, 1, 1, 1, 0], dtype=torch.bool)
    draw_calibration(confidence, correct, tmp_path / "x.png", bins=10)
    upper, lower = drawn[0].axes
    assert (upper.get_ylabel(), lower.get_ylabel()) == ("accuracy", "fraction of samples")
    assert lower.get_xlabel() == "confidence: probability of the predicted class"
    x, y = lines(upper)["mean of a bin"]
    assert x == pytest.approx([0.05, 0.15, 0.565, 0.98])  # bins without a sample have no point
    assert y == [0, 0, 0.5, 0.75]
    heights = [bar.get_height() for bar in lower.patches]
    assert heights == pytest.approx([1 / 8, 1 / 8, 0, 0, 0, 2 / 8, 0, 0, 0, 4 / 8])
    assert [bar.get_x() + bar.get_width() / 2 for bar in lower.patches] == pytest.approx(np.arange(10) / 10 + 0.05)


# bars


def test_bars_have_their_values_names_and_captions(tmp_path, drawn):
    draw_bars({"1-8": 30.25, "9-12": 12.0}, ["5 texts", "2 texts"], "Title", "words", "accuracy, %", tmp_path / "x.png")
    (axes,) = drawn[0].axes
    assert [bar.get_height() for bar in axes.patches] == [30.25, 12.0]
    assert [bar.get_x() + bar.get_width() / 2 for bar in axes.patches] == pytest.approx([0, 1])
    assert [text.get_text() for text in axes.texts] == ["30.2", "12.0"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1-8\n5 texts", "9-12\n2 texts"]
    assert (axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) == ("Title", "words", "accuracy, %")


# images


def test_images_are_in_order_below_their_titles(tmp_path, drawn):
    images = torch.randint(0, 256, (5, 3, 6, 4), dtype=torch.uint8)
    titles = [f"number {i}" for i in range(5)]
    draw_images(images, titles, tmp_path / "x.png", columns=4, title="All", wrong=[False, True, False, False, True])
    shown = [axes for axes in drawn[0].axes if axes.images]
    assert [to_hex(axes.title.get_color()) == ORANGE for axes in shown] == [False, True, False, False, True]
    assert drawn[0].get_suptitle() == "All"
    assert [axes.get_title() for axes in shown] == titles
    for axes, image in zip(shown, images, strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), image.permute(1, 2, 0))
    assert len(drawn[0].axes) == 8 and not any(axes.axison for axes in drawn[0].axes)


def test_rows_of_images_are_labeled_and_each_pixel_is_doubled(tmp_path, drawn, monkeypatch):
    images = torch.randint(0, 256, (6, 3, 4, 4), dtype=torch.uint8)
    draw_image_rows(images, tmp_path / "x.png", 3, "Rows", ["one", "two"], "run toy/a")
    (axes,) = drawn[0].axes
    assert [text.get_text() for text in axes.texts] == ["one", "two"] and drawn[0].get_suptitle() == "Rows"
    assert [text.get_text() for text in drawn[0].texts] == ["Rows", "run toy/a"]
    monkeypatch.undo()
    pixels = np.asarray(Image.open(draw_image_rows(images, tmp_path / "x.png", 3, "", ["one", "two"], "run")).convert("RGB"))
    rows, columns = (np.arange(size) for size in (2 * 11, 2 * 16))
    expected = np.full((11, 16, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = 1 + 5 * (i // 3), 1 + 5 * (i % 3)
        expected[top : top + 4, left : left + 4] = image.permute(1, 2, 0)
    doubled = expected[rows // 2][:, columns // 2]
    windows = np.lib.stride_tricks.sliding_window_view(pixels, doubled.shape)[:, :, 0]
    assert (windows == doubled).all((2, 3, 4)).sum() == 1, "somewhere in the figure"


def test_a_single_image_is_written_as_a_png(tmp_path):
    assert is_png(draw_images(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), ["one"], tmp_path / "x.png"))


def test_filters_are_normalized_around_gray(tmp_path, drawn):
    weight = torch.randn(13, 3, 2, 2, dtype=torch.bfloat16, requires_grad=True)
    with torch.no_grad():
        weight[0] = 0
        weight[1] = torch.tensor([0.0, 1.0, -2.0, 4.0]).view(2, 2)
    draw_filters(weight, tmp_path / "x.png", "first layer")
    shown = [np.asarray(axes.images[0].get_array()) for axes in drawn[0].axes if axes.images]
    assert len(shown) == 13 and drawn[0].get_suptitle() == "first layer"
    np.testing.assert_array_equal(shown[0], np.full((2, 2, 3), 0.5))
    np.testing.assert_allclose(shown[1][:, :, 0], [[0.5, 0.625], [0.25, 1.0]])
    assert all(abs(image - 0.5).max() == pytest.approx(0.5) for image in shown[1:])


# films


def test_a_caption_is_above_its_frame_and_fits():
    frame = Image.new("RGB", (300, 20), (0, 0, 255))
    captioned = np.asarray(add_caption(frame, "untrained: return -1234 after 1000 steps"))
    height = captioned.shape[0] - 20
    assert (captioned[height:] == (0, 0, 255)).all(), "the frame, whole"
    ink = (captioned[:height] < 128).all(2)
    assert ink.any() and not ink[[0, -1]].any() and not ink[:, [0, -1]].any(), "letters that no edge cuts"
