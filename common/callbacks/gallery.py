"""A look at ordinary predictions: the same few validation pictures in every run, with what the network makes of them."""

from __future__ import annotations

from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from common.io.loggers import log_plot
from common.plots.images import draw_images


class PredictionGallery(Callback):
    """Draws `gallery.png` when training ends: the first validation pictures, each with its most likely class.

    The validation batches are (images (batch, 3, height, width) uint8, labels (batch,)); the module maps images to logits.

    Args:
        folder: where the picture goes.
        count: how many pictures, at most a validation batch.
    """

    def __init__(self, folder: Path, count: int = 24) -> None:
        self.folder = folder
        self.count = count

    @torch.no_grad()
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Predicts and draws, if there is a validation set."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        batch = next(iter(data.val_dataloader()), None)
        if batch is None or not trainer.is_global_zero:
            return
        images, labels = batch[0][: self.count], batch[1][: self.count].tolist()
        was_training = pl_module.training
        pl_module.eval()
        probabilities, predicted = pl_module(images.to(pl_module.device)).float().softmax(1).max(1)
        pl_module.train(was_training)
        names = data.class_names
        titles = [
            f"{names[p]} {100 * q:.0f} %" + ("" if p == t else f"\nis {names[t]}")
            for p, q, t in zip(predicted.tolist(), probabilities.tolist(), labels, strict=True)
        ]
        log_plot(trainer, "gallery", draw_images(images.cpu(), titles, self.folder / "gallery.png"))
