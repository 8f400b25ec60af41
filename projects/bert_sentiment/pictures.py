"""What a classifier of texts does, to look at: its surest mistakes, what each word spoke for, accuracy against length."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from common.io.loggers import log_plot, log_table
from common.plots.bars import draw_bars
from common.plots.text import draw_texts
from projects.bert_sentiment.evaluation import accuracy_by_length
from projects.bert_sentiment.inference import TextClassifier, attributions
from projects.bert_sentiment.module import BertSentimentModule


class TextPictures(Callback):
    """After the test `mistakes.md`, `attributions.png` and `length.png`.

    Args:
        folder: where the pictures go.
        mistakes: how many of the most confidently wrong texts are listed.
        drawn: how many texts are drawn with their words coloured: half of them right, half the surest mistakes.
    """

    def __init__(self, folder: Path, mistakes: int = 24, drawn: int = 8) -> None:
        self.folder = folder
        self.mistakes = mistakes
        self.drawn = drawn

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes and draws, in the first process."""
        module = cast(BertSentimentModule, pl_module)
        if not trainer.is_global_zero or not module.outputs:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        names = data.class_names
        logits, labels, order = module.gathered()
        texts = [data.splits["test"].texts[i] for i in order]
        predicted = logits.argmax(1)
        confidence = (logits / module.temperature.item()).softmax(1).amax(1)
        wrong = (predicted != labels).nonzero().squeeze(1)
        wrong = wrong[confidence[wrong].argsort(descending=True)]
        header = ["text", "is", "taken for", "confidence"]
        rows = [
            [texts[i], names[labels[i]], names[predicted[i]], round(confidence[i].item(), 3)]
            for i in wrong[: self.mistakes].tolist()
        ]
        lines = [header, ["---"] * len(header), *rows]
        self.folder.mkdir(parents=True, exist_ok=True)
        cells = [[" ".join(str(cell).replace("|", "/").split()) for cell in line] for line in lines]
        table = "\n".join(f"| {' | '.join(line)} |" for line in cells)
        (self.folder / "mistakes.md").write_text(f"The surest of {len(wrong)} mistakes in {len(texts)} texts:\n\n{table}\n")
        log_table(trainer, "test/mistakes", header, rows)

        right = (predicted == labels).nonzero().squeeze(1)[: self.drawn - self.drawn // 2]
        chosen = [*right.tolist(), *wrong[: self.drawn // 2].tolist()]
        classifier = TextClassifier(module.net, data.tokenizer, names, module.temperature.item(), data.max_length)
        drawn = []
        with torch.inference_mode(False), torch.enable_grad(), trainer.precision_plugin.forward_context():
            for i in chosen:
                words, values = attributions(classifier, texts[i], module.device)
                verdict = "" if predicted[i] == labels[i] else f", is {names[labels[i]]}"
                drawn.append((f"{names[predicted[i]]} {100 * confidence[i].item():.0f} %{verdict}", words, values))
        by_length = accuracy_by_length(texts, predicted == labels)
        bars = {name: score for name, (score, _) in by_length.items()}
        notes = [f"{count} texts" for _, count in by_length.values()]
        for path in (
            draw_texts(drawn, self.folder / "attributions.png"),
            draw_bars(bars, notes, "Accuracy by length", "words", "accuracy, %", self.folder / "length.png"),
        ):
            log_plot(trainer, path.stem, path)
