"""Progress: a bar on a terminal, one line an epoch in a log file."""

from __future__ import annotations

import sys
import time

from lightning.pytorch import Callback, LightningModule, Trainer


def progress_callback() -> Callback:
    """RichProgressBar where there is a terminal to draw on, else `EpochLines`."""
    if sys.stdout.isatty():
        from lightning.pytorch.callbacks import RichProgressBar

        return RichProgressBar(refresh_rate=5)
    return EpochLines()


class EpochLines(Callback):
    """Prints a line at the end of every epoch: its number, the steps so far, loss, validation figures, seconds."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._started = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the line."""
        if not trainer.is_global_zero:
            return
        figures = {k: v.item() for k, v in trainer.callback_metrics.items() if k.startswith(("train/", "val/"))}
        text = "  ".join(f"{name} {value:.4g}" for name, value in sorted(figures.items()))
        seconds = time.perf_counter() - self._started
        print(f"epoch {trainer.current_epoch + 1}  step {trainer.global_step}  {text}  {seconds:.0f} s", flush=True)
