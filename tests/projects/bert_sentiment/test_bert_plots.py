"""Plots and tables show the texts, the predictions and the attributions that they were called with."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from matplotlib.colors import to_hex

from common.plots.figures import BLUE, ORANGE
from projects.bert_sentiment import plots
from projects.bert_sentiment.module import BertSentimentModule


def test_words_have_the_colors_of_their_attributions(tmp_path, drawn):
    rows = [("yes 90 %", ["so", "good"], torch.tensor([0.0, 2.0])), ("no 60 %", ["not", "bad"], torch.tensor([-0.5, 0.25]))]
    plots.draw_attributions(rows, tmp_path / "x.png", wrong=[False, True], caption="run toy/a")
    heading, *texts, caption = drawn[0].texts
    assert heading.get_text().startswith("Attributions") and caption.get_text() == "run toy/a"
    assert [to_hex(texts[i].get_color()) == ORANGE for i in (0, 3)] == [False, True]
    dashed = [t.get_text() for t in texts if t.get_bbox_patch() and t.get_bbox_patch().get_linestyle() == "--"]
    assert dashed == ["not"]
    assert [text.get_text() for text in texts[:-1]] == ["yes 90 %", "so", "good", "no 60 %", "not", "bad"]
    colors = {t.get_text(): to_hex(t.get_bbox_patch().get_facecolor()) for t in texts if t.get_bbox_patch() is not None}
    assert (colors["so"], colors["good"], colors["not"]) == ("#fefeff", BLUE, ORANGE)  # nearly white
    assert len(set(colors.values())) == 4
    x, y = zip(*(text.get_position() for text in texts), strict=True)
    assert x[1] < x[2] and y[1] == y[2] and list(y) == sorted(y, reverse=True), "in lines, from left to right"


def test_the_plots_after_a_test_are_of_its_texts(tmp_path, drawn, monkeypatch):
    texts = ["good", "one two three four five six", "bad", "dull"]
    logits, labels = torch.tensor([[0.0, 3.0], [2.0, 0.0], [0.0, 1.0], [0.0, 4.0]]), [1, 0, 0, 0]
    module = SimpleNamespace(eval_outputs=dict(enumerate(zip(logits.tolist(), labels, strict=True))))
    module.temperature, module.net, module.hparams = torch.tensor(2.0), None, {"class_names": ["no", "yes"]}
    module.stack_outputs = lambda: BertSentimentModule.stack_outputs(module)
    split = SimpleNamespace(texts=texts)
    data = SimpleNamespace(splits={"test": split}, class_names=["no", "yes"], tokenizer=None, max_length=9)
    data.source_description, data.evaluated_checkpoint = "reviews", ""
    precision = SimpleNamespace(forward_context=torch.enable_grad)
    trainer = SimpleNamespace(is_global_zero=True, datamodule=data, loggers=[], precision_plugin=precision)
    monkeypatch.setattr(plots, "word_attributions", lambda classifier, text: ([text], torch.ones(1)))
    plots.TextPlots(tmp_path).on_test_end(trainer, module)

    confidence = (logits / 2).softmax(1).amax(1).tolist()
    assert (tmp_path / "mistakes.md").read_text().splitlines() == [
        "The most confident of 2 mistakes in 4 texts:",
        "",
        "| text | label | predicted | confidence |",
        "| --- | --- | --- | --- |",
        f"| dull | no | yes | {confidence[3]:.3f} |",
        f"| bad | no | yes | {confidence[2]:.3f} |",
    ]
    attributions, bars = drawn
    titles = [f"yes {100 * confidence[0]:.0f} %", f"no {100 * confidence[1]:.0f} %"]
    titles += [f"yes {100 * confidence[i]:.0f} %, is no" for i in (3, 2)]
    order = [texts[i] for i in (0, 1, 3, 2)]
    _, *shown, _, caption = (text.get_text() for text in attributions.texts)
    assert "data reviews, test texts" in caption
    assert shown == [part for pair in zip(titles, order, strict=True) for part in pair]
    (axes,) = bars.axes
    assert [bar.get_height() for bar in axes.patches] == pytest.approx([100 / 3, 100])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1-5\n3 texts", "6-10\n1 texts"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("length in words", "accuracy, %")
