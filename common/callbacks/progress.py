"""Progress: a progress bar on a terminal, one line per epoch in a log file."""

from __future__ import annotations

import sys
import time

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor


def progress_callback() -> Callback:
    """RichProgressBar where stdout is a terminal, else `EpochPrinter`."""
    if sys.stdout.isatty():
        from lightning.pytorch.callbacks import RichProgressBar

        return RichProgressBar(refresh_rate=5)
    return EpochPrinter()


class EpochPrinter(Callback):
    """Prints a line at the end of every epoch: epoch, step, training and validation metrics of this epoch, seconds."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = time.perf_counter()
        self._before: dict[str, Tensor] = {}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._before = dict(trainer.callback_metrics)  # which keep what was last measured, in whichever epoch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        metrics = sorted(trainer.callback_metrics.items())
        new = [(name, value) for name, value in metrics if value is not self._before.get(name)]
        text = "  ".join(f"{name} {value.item():.4g}" for name, value in new if name.startswith(("train/", "val/")))
        seconds = time.perf_counter() - self._start
        print(f"epoch {trainer.current_epoch + 1}  step {trainer.global_step}  {text}  {seconds:.0f} s", flush=True)
