"""Plots of a text classifier: most confident mistakes, texts colored by attribution, accuracy by length."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from common.io.files import write_text_atomically
from common.io.loggers import log_plot, log_table
from common.plots.bars import draw_bars
from common.plots.captions import run_caption
from common.plots.figures import BLUE, GRAY, ORANGE, TITLE_SIZE, caption_height, report_plot_errors, save_figure
from common.plots.text import DPI, fit_text, text_width
from projects.bert_sentiment.attribution import word_attributions
from projects.bert_sentiment.inference import TextClassifier
from projects.bert_sentiment.metrics import accuracy_by_length
from projects.bert_sentiment.module import BertSentimentModule

MAX_MISTAKES = 24  # in the table
MAX_TEXTS = 8  # with attributions: half of them classified correctly, half the most confident mistakes
Row = tuple[str, Sequence[str], Tensor]  # title, words and their attributions (words,)
MARGIN, GAP, LINE = 0.12, 0.07, 0.21  # inches: around the texts, between words, from line to line
WORD_SIZE = 10  # points


class TextPlots(Callback):
    """Writes `mistakes.md`, `attributions.png` and `length.png` to `folder` after the test, on the first rank."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module = cast(BertSentimentModule, pl_module)
        if not trainer.is_global_zero or not module.eval_outputs:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        logits, labels, indices = module.stack_outputs()
        texts = [data.splits["test"].texts[i] for i in indices]
        confidence, predicted = (logits / module.temperature.item()).softmax(1).max(1)
        correct = predicted == labels
        mistakes = (~correct).nonzero().squeeze(1)
        mistakes = mistakes[confidence[mistakes].argsort(descending=True)]
        with report_plot_errors("mistakes.md"):
            rows = [
                [texts[i], data.class_names[labels[i]], data.class_names[predicted[i]], round(confidence[i].item(), 3)]
                for i in mistakes[:MAX_MISTAKES].tolist()
            ]
            self.write_mistakes(trainer, rows, f"The most confident of {len(mistakes)} mistakes in {len(texts)} texts:")

        with report_plot_errors("attributions.png"):
            half = MAX_TEXTS // 2
            shown = [*correct.nonzero().squeeze(1)[: MAX_TEXTS - half].tolist(), *mistakes[:half].tolist()]
            temperature = module.temperature.item()
            classifier = TextClassifier(module.net, data.tokenizer, data.class_names, temperature, data.max_length)
            attributed: list[Row] = []
            with torch.inference_mode(False), torch.enable_grad(), trainer.precision_plugin.forward_context():
                for i in shown:
                    title = f"{data.class_names[predicted[i]]} {100 * confidence[i].item():.0f} %"
                    title += "" if correct[i] else f", is {data.class_names[labels[i]]}"
                    attributed.append((title, *word_attributions(classifier, texts[i])))
            caption = run_caption(self.folder, data, "test texts: right ones, then the most confident mistakes")
            wrong = [not correct[i] for i in shown]
            path = self.folder / "attributions.png"
            log_plot(trainer, "attributions", draw_attributions(attributed, path, wrong=wrong, caption=caption))

        with report_plot_errors("length.png"):
            by_length = accuracy_by_length(texts, correct)
            percent = {name: 100 * accuracy for name, (accuracy, _) in by_length.items()}
            notes = [f"{count} texts" for _, count in by_length.values()]
            path, caption = self.folder / "length.png", run_caption(self.folder, data, f"{len(texts):,} test texts")
            title = "Accuracy by length of the text"
            log_plot(trainer, "length", draw_bars(percent, notes, title, "length in words", "accuracy, %", path, caption))

    def write_mistakes(self, trainer: Trainer, rows: list[list[Any]], title: str) -> None:
        """Writes the table as Markdown, and sends it to the loggers."""
        header = ["text", "label", "predicted", "confidence"]
        cells = [[" ".join(str(cell).replace("|", "/").split()) for cell in line] for line in rows]
        table = "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *cells])
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text_atomically(self.folder / "mistakes.md", f"{title}\n\n{table}\n")
        log_table(trainer, "test/mistakes", header, rows)


def draw_attributions(
    rows: Sequence[Row], path: Path, width: float = 8.0, wrong: Sequence[bool] = (), caption: str = ""
) -> Path:
    """Texts with words colored by attribution, `width` inches wide: blue for the predicted class, orange against it.

    A text's largest absolute attribution has the full color; words against the class have a dashed edge. The titles of
    `wrong` predictions have a color.
    """
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    colors = LinearSegmentedColormap.from_list("signed", [ORANGE, "#ffffff", BLUE])
    items: list[tuple[float, float, str, dict[str, Any]]] = []  # inches from the left and from the top, text, properties
    items.append((MARGIN, 0.08, "Attributions: words for and against the predicted class", {"fontsize": TITLE_SIZE}))
    y = 0.36
    for (title, words, values), is_wrong in zip(rows, wrong or [False] * len(rows), strict=True):
        color = ORANGE if is_wrong else "#505560"
        title = fit_text(title, 0.85 * (width - 2 * MARGIN), 9)  # bold letters are wider
        items.append((MARGIN, y, title, {"fontsize": 9, "color": color, "fontweight": "bold"}))
        x, y = MARGIN, y + 0.9 * LINE
        scale = float(values.abs().max()) if len(values) else 0.0
        for word, value in zip(words, values.tolist(), strict=True):
            word = fit_text(word, width - 2 * MARGIN, WORD_SIZE)
            extent = text_width(word, WORD_SIZE)
            if x > MARGIN and x + extent > width - MARGIN:
                x, y = MARGIN, y + LINE
            strength = value / scale if scale else 0.0
            background = colors(0.5 + 0.5 * strength)
            edge = {"edgecolor": ORANGE, "linestyle": "--", "linewidth": 0.8} if strength < -0.2 else {"edgecolor": "none"}
            text_color = "white" if sum(background[:3]) < 1.6 else "#202020"
            box = {"facecolor": background, "pad": 2.5, **edge}
            items.append((x, y, word, {"fontsize": WORD_SIZE, "bbox": box, "color": text_color}))
            x += extent + GAP
        y += 1.5 * LINE
    legend = "blue: the word speaks for the predicted class; orange, with a dashed edge: against it"
    items.append((MARGIN, y, legend, {"fontsize": 8, "color": GRAY}))
    height = y + LINE + caption_height(caption, width)
    figure = Figure(figsize=(width, height), dpi=DPI)
    for x, y, text, properties in items:
        figure.text(x / width, 1 - y / height, text, va="top", **properties)
    return save_figure(figure, path, caption)
