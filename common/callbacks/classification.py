"""What a classifier gets right and wrong at test: confusion matrix, calibration, its most confident mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from common.io.loggers import log_plot
from common.plots.classification import draw_calibration, draw_confusion
from common.plots.images import draw_images


class ClassificationPlots(Callback):
    """Draws `confusion.png`, `calibration.png` and, for pictures, `mistakes.png` after the test.

    The module's `test_step` returns a dict with `logits` (batch, classes), `labels` (batch,) and, if there are any,
    `images` (batch, 3, height, width) uint8; the DataModule has `class_names`.

    Args:
        folder: where the pictures go.
        mistakes: how many of the most confidently wrong pictures are shown.
    """

    def __init__(self, folder: Path, mistakes: int = 24) -> None:
        self.folder = folder
        self.mistakes = mistakes

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forgets an earlier test."""
        self.probabilities: list[Tensor] = []
        self.labels: list[Tensor] = []
        self.worst: list[tuple[float, int, int, Tensor]] = []  # confidence, predicted, true, picture

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps the probabilities, and the pictures of the worst mistakes so far."""
        probabilities, labels = outputs["logits"].float().softmax(1).cpu(), outputs["labels"].cpu()
        self.probabilities.append(probabilities)
        self.labels.append(labels)
        if "images" in outputs:
            confidence, predicted = probabilities.max(1)
            wrong = (predicted != labels).nonzero().squeeze(1)
            top = wrong[confidence[wrong].argsort(descending=True)[: self.mistakes]]
            self.worst += [
                (confidence[i].item(), int(predicted[i]), int(labels[i]), outputs["images"][i].cpu()) for i in top
            ]
            self.worst = sorted(self.worst, key=lambda mistake: -mistake[0])[: self.mistakes]

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Brings the processes' shares together and draws."""
        probabilities, labels, worst = torch.cat(self.probabilities), torch.cat(self.labels), self.worst
        if trainer.world_size > 1:
            shares: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(shares, (probabilities, labels, worst))
            probabilities, labels = torch.cat([s[0] for s in shares]), torch.cat([s[1] for s in shares])
            worst = sorted((m for s in shares for m in s[2]), key=lambda mistake: -mistake[0])[: self.mistakes]
        if not trainer.is_global_zero:
            return
        names = trainer.datamodule.class_names  # type: ignore[attr-defined]
        confidence, predicted = probabilities.max(1)
        counts = torch.bincount(labels * len(names) + predicted, minlength=len(names) ** 2).view(len(names), -1)
        paths = [
            draw_confusion(counts, names, self.folder / "confusion.png"),
            draw_calibration(confidence, predicted == labels, self.folder / "calibration.png"),
        ]
        if worst:
            titles = [f"{names[p]} {100 * c:.0f} %\nis {names[t]}" for c, p, t, _ in worst]
            paths.append(draw_images(torch.stack([m[3] for m in worst]), titles, self.folder / "mistakes.png"))
        for path in paths:
            log_plot(trainer, path.stem, path)
