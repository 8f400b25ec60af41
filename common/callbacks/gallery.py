"""Prediction gallery: the same few validation images in every run, each with its predicted class."""

from __future__ import annotations

from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from common.io.loggers import log_plot
from common.plots.captions import run_caption
from common.plots.figures import report_plot_errors
from common.plots.images import draw_images, prediction_title


class PredictionGallery(Callback):
    """Draws `gallery.png` when training ends: the first validation images, each with its predicted class.

    The validation batches are (images (batch, 3, height, width) uint8, labels (batch,)); the module maps images to logits.

    Args:
        folder: Folder of the plot.
        count: Number of images, at most a validation batch.
    """

    def __init__(self, folder: Path, count: int = 24) -> None:
        self.folder = folder
        self.count = count

    @report_plot_errors("gallery.png")
    @torch.no_grad()
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        batch = next(iter(data.val_dataloader()), None)
        if batch is None or not trainer.is_global_zero:
            return
        images, labels = batch[0][: self.count], batch[1][: self.count].tolist()
        was_training = pl_module.training
        pl_module.eval()
        try:
            probabilities, predicted = pl_module(images.to(pl_module.device)).float().softmax(1).max(1)
        finally:
            pl_module.train(was_training)
        rows = list(zip(predicted.tolist(), probabilities.tolist(), labels, strict=True))
        titles = [prediction_title(data.class_names[p], q, data.class_names[label]) for p, q, label in rows]
        wrong = [p != label for p, _, label in rows]
        title = f"Predictions for validation images: {wrong.count(False)} of these {len(wrong)} are right"
        if (accuracy := trainer.callback_metrics.get("val/accuracy")) is not None:
            title += f"; accuracy of the whole validation split {100 * float(accuracy):.1f} %"
        path = self.folder / "gallery.png"
        caption = run_caption(self.folder, data, "first validation images, end of training")
        log_plot(trainer, "gallery", draw_images(images.cpu(), titles, path, title=title, caption=caption, wrong=wrong))
