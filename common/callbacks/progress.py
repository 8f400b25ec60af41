"""Progress: a progress bar on a terminal, one line per epoch in a log file."""

from __future__ import annotations

import sys
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from torch import Tensor


def progress_callback() -> Callback:
    """EpochProgressBar where stdout is a terminal, else EpochPrinter."""
    return EpochProgressBar(refresh_rate=5) if sys.stdout.isatty() else EpochPrinter()


class EpochMetrics(Callback):
    """Tells metrics of this epoch from those that the Trainer still has of earlier ones."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._before: dict[str, Tensor] = dict(trainer.callback_metrics)

    def is_new(self, trainer: Trainer, name: str) -> bool:
        """Whether `name` was measured in this epoch."""
        return trainer.callback_metrics.get(name) is not getattr(self, "_before", {}).get(name)


class EpochProgressBar(EpochMetrics, RichProgressBar):
    """RichProgressBar whose validation metrics are those of this epoch."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        EpochMetrics.on_train_epoch_start(self, trainer, pl_module)
        RichProgressBar.on_train_epoch_start(self, trainer, pl_module)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Metrics beside the bar."""
        metrics = super().get_metrics(trainer, pl_module)
        return {name: value for name, value in metrics.items() if name[:4] != "val/" or self.is_new(trainer, name)}


class EpochPrinter(EpochMetrics):
    """Prints a line at the end of every epoch: epoch, step, training and validation metrics of this epoch, seconds."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        names = sorted(name for name in trainer.callback_metrics if self.is_new(trainer, name))
        shown = [name for name in names if name.startswith(("train/", "val/"))]
        text = "  ".join(f"{name} {trainer.callback_metrics[name].item():.4g}" for name in shown)
        seconds = time.perf_counter() - self._start
        print(f"epoch {trainer.current_epoch + 1}  step {trainer.global_step}  {text}  {seconds:.0f} s", flush=True)
