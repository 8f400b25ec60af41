"""Names of every kind in every plot that takes names: none lies over another or is cut, and no character is a box."""

from __future__ import annotations

import warnings
from itertools import combinations
from types import SimpleNamespace

import matplotlib.font_manager
import numpy as np
import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.figure import Figure
from matplotlib.text import Text

from common.compare.curves import draw_panel
from common.plots import text as plot_text
from common.plots.bars import draw_bars
from common.plots.classification import draw_calibration, draw_confusion
from common.plots.curves import draw_curves
from common.plots.figures import new_figure, save_figure
from common.plots.images import draw_filters, draw_image_rows, draw_images, prediction_title
from projects.bert_sentiment.plots import draw_attributions
from projects.gan.plots import plot_points
from projects.gan.synthetic import ring8
from projects.policy_gradient.plots import LearningCurve, plot_learning_curves
from projects.seq2seq.plots import draw_attention

KINDS = [
    "$0_$50",
    "$\\frac{$",
    "_x^{",
    "猫は可愛い動物です",
    "🐱 emoji 👩‍🚀",
    "हिन्दी",
    "العربية",
    "a" * 80,
    "W" * 80,
    "two\nlines",
]
NAMES = [f"{KINDS[i % len(KINDS)]} {i}" for i in range(200)]
CAPTION = f"run {NAMES[3]}/{NAMES[8]}, data {NAMES[7]}\nconstant: {', '.join(NAMES[:9])}"


def confusion(count, path):
    labels = torch.arange(count).repeat(20)
    predicted = torch.where(torch.rand(len(labels)) < 0.9, labels, (labels * 7 + 1) % count)
    draw_confusion(predicted, labels, NAMES[:count], path, CAPTION)


def images(path):
    titles = [prediction_title(NAMES[i], 0.995, NAMES[i + 3]) for i in range(20)]
    draw_images(torch.zeros(20, 3, 8, 8, dtype=torch.uint8), titles, path, title=NAMES[7] + NAMES[8], caption=CAPTION)


def rows(path):
    draw_image_rows(torch.zeros(40, 3, 32, 32, dtype=torch.uint8), path, 4, " ".join(NAMES[:9]), NAMES[:10], CAPTION)


def curves(path):
    metrics = [f"{group}/{name}" for group in ("act/dead", "lr-SGD") for name in NAMES[:9]]
    metrics += [f"val/{NAMES[i]}" for i in (1, 3, 8)]
    table = [{"step": step, **{name: step * i for i, name in enumerate(metrics)}} for step in (1.0, 2.0, 3.0)]
    draw_curves(table, path, f"val/{NAMES[8]}", 1.0, CAPTION)


def compared(path):
    figure, (axes,) = new_figure(1, 1, 9.5, 3.8)
    groups = [
        SimpleNamespace(name=name, curve_name="val/x", first=SimpleNamespace(source=name, data_path=""))
        for name in (NAMES[i] for i in range(10))
    ]
    for i, group in enumerate(groups):
        group.runs = [SimpleNamespace(curve=[(0, 1.0), (1, float(i))], curve_name="val/x", source=group.name, data_path="")]
    draw_panel(axes, f"{NAMES[8]}: val/x", groups)
    save_figure(figure, path)


def attention(path):
    names = [NAMES[i : i + 9] for i in (0, 5, 7)]
    draw_attention([(torch.rand(9, 9), part, part) for part in names], path, caption=CAPTION)


def attributions(path):
    draw_attributions([(f"{name} 90 %", NAMES[:20], torch.randn(20)) for name in NAMES[:9]], path, caption=CAPTION)


def learning_curves(path):
    steps = np.array([1000.0, 2000.0])
    plot_learning_curves([LearningCurve(NAMES[8], name, steps, steps * i) for i, name in enumerate(NAMES[:6])], path)


PLOTS = {
    "two classes": lambda path: confusion(2, path),
    "ten classes": lambda path: confusion(10, path),
    "many classes": lambda path: confusion(24, path),
    "200 classes": lambda path: confusion(200, path),
    "bars": lambda path: draw_bars(dict.fromkeys(NAMES[:10], 1.0), NAMES[:10], NAMES[8], NAMES[8], NAMES[8], path, CAPTION),
    "one bar": lambda path: draw_bars({NAMES[8]: 1.0}, [NAMES[8]], NAMES[8], "x", "y", path, CAPTION),
    "calibration": lambda path: draw_calibration(torch.rand(99), torch.rand(99) < 0.5, path, caption=CAPTION),
    "points": lambda path: plot_points(torch.randn(99, 2), ring8(), "step 1,000: 8 modes", path, CAPTION),
    "filters": lambda path: draw_filters(torch.rand(1, 3, 2, 2), path, NAMES[7], CAPTION),
    **{f.__name__: f for f in (images, rows, curves, compared, attention, attributions, learning_curves)},
}


@pytest.fixture
def clear_fonts(monkeypatch):
    """Fonts of this test alone: none is installed but matplotlib's own."""
    installed: list[str] = []
    manager = matplotlib.font_manager.fontManager
    own = [font for font in manager.ttflist if "mpl-data" in font.fname]
    monkeypatch.setattr(manager, "ttflist", own)
    monkeypatch.setattr(matplotlib.font_manager, "findSystemFonts", lambda: installed)
    caches = [plot_text.family_with, plot_text.add_installed_fonts, plot_text.report_missing]
    for cache in caches:
        cache.cache_clear()
    yield installed
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def installed_font(clear_fonts, tmp_path):
    """A font of squares for every character of the names, which matplotlib has not seen yet."""
    codes = sorted({ord(c) for c in "".join(NAMES) if not c.isspace()})
    pen = TTGlyphPen(None)
    for point in [(100, 0), (100, 800), (900, 800), (900, 0)]:
        pen.lineTo(point) if pen.points else pen.moveTo(point)
    pen.closePath()
    glyph, names = pen.glyph(), [".notdef", *(f"u{code:x}" for code in codes)]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({code: f"u{code:x}" for code in codes})
    builder.setupGlyf(dict.fromkeys(names, glyph))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 100)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Every Script", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "every.ttf")
    clear_fonts.append(str(tmp_path / "every.ttf"))


@pytest.fixture
def figures(monkeypatch):
    """Figures as they are saved; a character without a glyph is an error."""
    saved: list[Figure] = []

    def draw(figure, path):
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            figure.draw_without_rendering()
        saved.append(figure)

    monkeypatch.setattr(Figure, "savefig", draw)
    return saved


def corners(text: Text) -> np.ndarray:
    """Corners of a text's rectangle, (4, 2) in pixels, also of a rotated one."""
    box = text.get_window_extent()
    angle = np.deg2rad(text.get_rotation())
    text.set_rotation(0)
    width, height = text.get_window_extent().size
    text.set_rotation(np.rad2deg(angle))
    center = np.array([box.x0 + box.x1, box.y0 + box.y1]) / 2
    half = np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]]) * [width / 2 - 1, height / 2 - 2]  # line spacing is no overlap
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return half @ rotation + center


def separated(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two rectangles (4, 2) are apart: along a side of one of them their projections are."""
    for side in (a[1] - a[0], a[2] - a[1], b[1] - b[0], b[2] - b[1]):
        p, q = a @ side, b @ side
        if p.max() <= q.min() or q.max() <= p.min():
            return True
    return False


def shown_texts(figure: Figure) -> list[Text]:
    """Texts of a figure that are in view: not of hidden axes, not of ticks outside of their axis."""
    texts = []
    for text in figure.findobj(Text):
        axes = text.axes
        hidden = axes is not None and not (axes.get_visible() and (axes.axison or text in [axes.title, *axes.texts]))
        if text.get_visible() and text.get_text().strip() and not hidden:
            texts.append(text)
    outside: set[Text] = set()
    for axes in [each for parent in figure.axes for each in (parent, *parent.child_axes)]:
        for axis, (low, high) in ((axes.xaxis, sorted(axes.get_xlim())), (axes.yaxis, sorted(axes.get_ylim()))):
            for tick in axis.get_major_ticks():
                outside |= set() if low <= tick.get_loc() <= high else {tick.label1, tick.label2}
    return [text for text in texts if text not in outside]


@pytest.mark.parametrize("plot", PLOTS)
def test_no_name_lies_over_another_or_is_cut(plot, tmp_path, figures, installed_font):
    PLOTS[plot](tmp_path / "x.png")
    (figure,) = figures
    texts = shown_texts(figure)
    assert len(texts) > 1
    boxes = [corners(text) for text in texts]
    for text, box in zip(texts, boxes, strict=True):
        inside = (box >= -1).all() and (box <= figure.bbox.size + 1).all()
        assert inside, f"{text.get_text()!r} is cut: {box.round()} in {figure.bbox.size}"
    for (a, b), (first, second) in zip(combinations(boxes, 2), combinations(texts, 2), strict=True):
        assert separated(a, b), f"{first.get_text()!r} lies over {second.get_text()!r}"
    for axes in figure.axes:
        for image in axes.images:
            x0, y0, x1, y1 = image.get_window_extent().extents
            frame = np.array([[x0, y0], [x0, y1], [x1, y1], [x1, y0]])
            around = [pair for pair in zip(texts, boxes, strict=True) if pair[0] not in axes.texts]
            over = [text.get_text() for text, box in around if not separated(box, frame)]
            assert not over, f"over an image: {over}"


def test_where_no_font_has_a_character_a_line_says_so_once(tmp_path, clear_fonts, capsys):
    for name in ("猫", "犬", "日本"):
        assert draw_bars({name: 1.0}, [""], "", "", "", tmp_path / "x.png").is_file()
    assert capsys.readouterr().out.splitlines() == [
        "NOTE: plots show boxes for characters that no installed font has; install one, e.g. fonts-noto-cjk"
    ]


def test_a_font_that_is_installed_after_matplotlibs_list_was_made_is_found(installed_font, capsys):
    assert plot_text.font_families("猫 and हिन्दी")[-1] == "Every Script"
    assert plot_text.font_families("plain, é") == plot_text.font_families("plain")
    assert capsys.readouterr().out == ""


def test_text_is_cut_and_wrapped_to_a_width():
    width = plot_text.text_width("a" * 20, 8)
    assert plot_text.fit_text("a" * 20, width, 8) == "a" * 20
    cut = plot_text.fit_text("a" * 80, width, 8)
    assert cut.endswith("…") and plot_text.text_width(cut, 8) <= width < plot_text.text_width(f"a{cut}", 8)
    lines = plot_text.wrap_text(f"{'a b ' * 40}{'c' * 80}", width, 8).splitlines()
    assert all(plot_text.text_width(line, 8) <= width for line in lines)
    assert " ".join(lines[:-1]) == ("a b " * 40).strip() and lines[-1].startswith("ccc")
