"""Overhead of the Trainer: one step of a plain PyTorch loop after every step of a run, both timed."""

from __future__ import annotations

import contextlib
import io
import statistics
import tempfile
import time
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer

from common.cli.main import start
from common.project import Project


class PlainLoopCallback(Callback):
    """Plain PyTorch loop with networks and optimizers of its own, built in `on_train_start` of a subclass.

    The time between two calls of this callback is that of a Trainer step with all that is around it: loading, callbacks,
    logging.

    Args:
        warmup_steps: First steps, which are not timed.
    """

    def __init__(self, warmup_steps: int) -> None:
        self.warmup_steps = warmup_steps
        self.trainer_seconds: list[float] = []
        self.plain_seconds: list[float] = []
        self._step_start = 0.0

    @abstractmethod
    def plain_step(self, device: torch.device) -> None:
        """One training step of the plain loop."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        synchronize(pl_module.device)
        trainer_end = time.perf_counter()
        self.plain_step(pl_module.device)
        synchronize(pl_module.device)
        plain_end = time.perf_counter()
        if trainer.global_step > self.warmup_steps:
            self.trainer_seconds.append(trainer_end - self._step_start)
            self.plain_seconds.append(plain_end - trainer_end)
        self._step_start = time.perf_counter()

    def result(self) -> dict[str, float]:
        """Median step of the Trainer and of the plain loop in ms, and the median of the ratios step by step."""
        ratios = [a / b for a, b in zip(self.trainer_seconds, self.plain_seconds, strict=True)]
        return {
            "steps": len(ratios),
            "trainer_step_ms": 1000 * statistics.median(self.trainer_seconds),
            "plain_step_ms": 1000 * statistics.median(self.plain_seconds),
            "median_of_ratios": statistics.median(ratios),
        }


def train(project: Project, flags: list[str], callback: Callback) -> None:
    """Trains in a temporary folder, without validation, test and output."""
    flags = [*flags, "--name", "benchmark", "--trainer.limit_val_batches", "0", "--trainer.limit_test_batches", "0"]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        start(project, flags, [callback])


def endless(data: LightningDataModule) -> Iterator[Any]:
    """Training batches, epoch after epoch."""
    while True:
        yield from data.train_dataloader()


def synchronize(device: torch.device) -> None:
    """Waits for the work queued on a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
