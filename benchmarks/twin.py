"""A plain PyTorch loop beside the Trainer: a step of the one after every step of the other, both timed."""

from __future__ import annotations

import statistics
import time
from abc import abstractmethod
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class Twin(Callback):
    """Runs one step of a plain loop after every step of the Trainer, and times both.

    The twin has its own networks and optimizers, which a benchmark builds in `on_train_start`. What passes between two calls
    of this callback is the Trainer's step, with all that it does around it.

    Args:
        warmup: steps at the start that do not count.
    """

    def __init__(self, warmup: int) -> None:
        self.warmup = warmup
        self.trainer_seconds: list[float] = []
        self.plain_seconds: list[float] = []
        self._left = 0.0

    @abstractmethod
    def plain_step(self, device: torch.device) -> None:
        """What people write by hand."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Takes the Trainer's time, then makes the twin's step."""
        wait(pl_module.device)
        entered = time.perf_counter()
        self.plain_step(pl_module.device)
        wait(pl_module.device)
        finished = time.perf_counter()
        if trainer.global_step > self.warmup:
            self.trainer_seconds.append(entered - self._left)
            self.plain_seconds.append(finished - entered)
        self._left = time.perf_counter()

    def figures(self) -> dict[str, float]:
        """The median step of either side, and the median of the ratios step by step."""
        ratios = [a / b for a, b in zip(self.trainer_seconds, self.plain_seconds, strict=True)]
        return {
            "steps": len(ratios),
            "trainer_step_ms": 1000 * statistics.median(self.trainer_seconds),
            "plain_step_ms": 1000 * statistics.median(self.plain_seconds),
            "median_of_ratios": statistics.median(ratios),
        }


def wait(device: torch.device) -> None:
    """Waits for what the device still has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
