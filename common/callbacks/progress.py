"""Progress: a line for each epoch, and a bar of the whole run on a terminal and in a notebook."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar
from torch import Tensor

from common.trainer import should_log

MAX_LINE = 150  # letters of a line of an epoch


def progress_callbacks(others: Sequence[Callback] = ()) -> list[Callback]:
    """EpochPrinter; and RunProgressBar where someone looks on, unless there is a bar among the `others`."""
    has_bar = any(isinstance(callback, ProgressBar) for callback in others)
    return [EpochPrinter(), *([RunProgressBar()] if is_interactive() and not has_bar else [])]


def is_interactive() -> bool:
    """Whether stdout is a terminal, or the output of a notebook's cell."""
    if "IPython" in sys.modules and "IPKernelApp" in getattr(sys.modules["IPython"].get_ipython(), "config", ()):
        return True
    return sys.stdout.isatty()


class EpochMetrics(Callback):
    """Tells metrics of this epoch from those that the Trainer still has of earlier ones."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._before: dict[str, Tensor] = dict(trainer.callback_metrics)

    def is_new(self, trainer: Trainer, name: str) -> bool:
        """Whether `name` was measured in this epoch."""
        return trainer.callback_metrics.get(name) is not getattr(self, "_before", {}).get(name)


class EpochPrinter(EpochMetrics):
    """Prints a line at the end of every epoch: epoch, step, its metrics of training and validation, seconds of how many."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start, self._first_step = time.perf_counter(), trainer.global_step

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        names = sorted(name for name in trainer.callback_metrics if self.is_new(trainer, name))
        shown = [name for name in names if name.startswith(("train/", "val/"))]
        if not trainer.is_global_zero:
            return
        parts = [f"epoch {trainer.current_epoch + 1}", f"step {trainer.global_step}"]
        parts += [f"{name} {trainer.callback_metrics[name].item():.4g}" for name in shown]
        pl_module.print(in_lines([*parts, self._seconds(trainer)]))  # above the bar, if there is one

    def _seconds(self, trainer: Trainer) -> str:
        """Seconds since the start, and those that all steps take at this rate."""
        seconds, step, total = time.perf_counter() - self._start, trainer.global_step, trainer.estimated_stepping_batches
        done = step - self._first_step
        if done <= 0 or not step < total < math.inf:
            return f"{seconds:.0f} s"
        return f"{seconds:.0f} s of about {seconds * (total - self._first_step) / done:.0f} s"


def in_lines(parts: Sequence[str]) -> str:
    """`parts` between spaces, in lines of at most `MAX_LINE` letters; all but the first are indented."""
    lines = [parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + 2 + len(part) > MAX_LINE:
            lines.append(f"    {part}")
        else:
            lines[-1] += f"  {part}"
    return "\n".join(lines)


class RunProgressBar(TQDMProgressBar):
    """Progress bar of the whole run: the epoch, counted from 1, the steps, the time left, the last losses that were logged.

    (Lightning's begins anew with each epoch.) The time left is that to the limits of the Trainer: early stopping may end the
    run before. Validation and test have Lightning's bars.
    """

    def on_train_start(self, *args: Any) -> None:
        trainer: Trainer = args[0]
        super().on_train_start(*args)
        bar, total = self.train_progress_bar, trainer.estimated_stepping_batches
        bar.unit = " steps"
        bar.reset(None if math.isinf(total) else total)
        bar.initial = bar.n = trainer.global_step  # of a resumed run

    def on_train_epoch_start(self, trainer: Trainer, *args: Any) -> None:
        of = f"/{trainer.max_epochs}" if trainer.max_epochs is not None and trainer.max_epochs > 0 else ""
        self.train_progress_bar.set_description(f"epoch {trainer.current_epoch + 1}{of}")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        bar = self.train_progress_bar
        if bar.disable:
            return
        if should_log(trainer):  # in other steps a GPU is not waited for
            bar.set_postfix(self.get_metrics(trainer, pl_module), refresh=False)
        bar.update(trainer.global_step - bar.n)  # draws ten times a second at most

    def on_exception(self, *args: Any) -> None:
        for bar in (self._val_progress_bar, self._train_progress_bar, self._test_progress_bar):
            if bar is not None:
                bar.close()  # what is printed next is on a line of its own

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Losses of training, beside the bar."""
        losses = {name: value for name, value in trainer.callback_metrics.items() if name.startswith("train/")}
        return {name: f"{value.item():.4g}" for name, value in losses.items() if "loss" in name}
