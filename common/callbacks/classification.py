"""Plots of a classifier's test: confusion matrix, reliability diagram, most confident mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from common.io.loggers import log_plot, log_table
from common.nn.distributed import all_gather_objects
from common.plots.captions import run_caption
from common.plots.classification import draw_calibration, draw_confusion
from common.plots.figures import report_plot_errors
from common.plots.images import draw_images, prediction_title


class Mistake(NamedTuple):
    """Wrongly classified image, (3, height, width) uint8."""

    confidence: float
    predicted: int
    label: int
    image: Tensor


class ClassificationPlots(Callback):
    """Draws `confusion.png`, `calibration.png` and, for images, `mistakes.png` after the test.

    W&B has the mistakes as a table too. The module's `test_step` returns a dict with `logits` (batch, classes), `labels`
    (batch,) and, if there are any, `images` (batch, 3, height, width) uint8; the datamodule has `class_names`.

    Args:
        folder: Folder of the plots.
        max_mistakes: Number of most confident mistakes that are shown.
    """

    def __init__(self, folder: Path, max_mistakes: int = 24) -> None:
        self.folder = folder
        self.max_mistakes = max_mistakes

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.confidence: list[Tensor] = []
        self.predicted: list[Tensor] = []
        self.labels: list[Tensor] = []
        self.mistakes: list[Mistake] = []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        confidence, predicted = outputs["logits"].float().softmax(1).cpu().max(1)
        labels = outputs["labels"].cpu()
        self.confidence.append(confidence)
        self.predicted.append(predicted)
        self.labels.append(labels)
        if "images" in outputs:
            wrong = (predicted != labels).nonzero().squeeze(1)
            top = wrong[confidence[wrong].argsort(descending=True)[: self.max_mistakes]]
            images = outputs["images"][top].cpu()
            rows = zip(confidence[top].tolist(), predicted[top].tolist(), labels[top].tolist(), images, strict=True)
            self.mistakes = self.most_confident([*self.mistakes, *(Mistake(*row) for row in rows)])

    def most_confident(self, mistakes: list[Mistake]) -> list[Mistake]:
        """The `max_mistakes` most confident ones of `mistakes`, in order."""
        return sorted(mistakes, key=lambda mistake: -mistake.confidence)[: self.max_mistakes]

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        shard = torch.cat(self.confidence), torch.cat(self.predicted), torch.cat(self.labels), self.mistakes
        confidence, predicted, labels, mistakes = zip(*all_gather_objects(shard, trainer.world_size), strict=True)
        if trainer.is_global_zero:
            worst = self.most_confident([mistake for shard in mistakes for mistake in shard])
            self.draw(trainer, torch.cat(confidence), torch.cat(predicted), torch.cat(labels), worst)

    def draw(
        self,
        trainer: Trainer,
        confidence: Tensor,
        predicted: Tensor,
        labels: Tensor,
        mistakes: list[Mistake],
    ) -> None:
        """Draws the plots of all test samples: confidence, predicted class and label, each (n,)."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        names, caption = data.class_names, run_caption(self.folder, data, f"{len(labels):,} test samples")
        path = self.folder / "confusion.png"
        with report_plot_errors(path.name):
            log_plot(trainer, path.stem, draw_confusion(predicted, labels, names, path, caption))
        path = self.folder / "calibration.png"
        with report_plot_errors(path.name):
            log_plot(trainer, path.stem, draw_calibration(confidence, predicted == labels, path, caption=caption))
        path = self.folder / "mistakes.png"
        with report_plot_errors(path.name):
            if mistakes:
                titles = [prediction_title(names[m.predicted], m.confidence, names[m.label]) for m in mistakes]
                images, wrong = torch.stack([m.image for m in mistakes]), [True] * len(mistakes)
                title = f"Most confident of {int((predicted != labels).sum()):,} mistakes: prediction, and what it is"
                plot = draw_images(images, titles, path, title=title, caption=caption, wrong=wrong)
                log_plot(trainer, path.stem, plot)
                rows = [[m.image, names[m.label], names[m.predicted], round(m.confidence, 3)] for m in mistakes]
                log_table(trainer, "test/mistakes", ["image", "label", "predicted", "confidence"], rows)
