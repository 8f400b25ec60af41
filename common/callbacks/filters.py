"""Filters of the first convolution on RGB images."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from common.io.loggers import log_plot
from common.plots.captions import run_caption
from common.plots.figures import report_plot_errors
from common.plots.images import draw_filters


class FirstFilters(Callback):
    """Draws `filters.png`, the first convolution with three input channels, when training ends.

    Args:
        folder: Folder of the plot.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @report_plot_errors("filters.png")
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        for name, module in pl_module.named_modules():
            if isinstance(module, nn.Conv2d) and module.in_channels == 3:
                height, width = module.kernel_size
                title = f"First convolution, {name}: {module.out_channels} filters of {height} x {width} pixels"
                caption = run_caption(self.folder, trainer.datamodule, "end of training")  # type: ignore[attr-defined]
                log_plot(trainer, "filters", draw_filters(module.weight, self.folder / "filters.png", title, caption))
                return
