"""Throughput: samples per second and seconds per step of the training."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from common.trainer import should_log


class Throughput(Callback):
    """Logs `perf/samples_per_second` over all processes and `perf/step_seconds`, without validation and saving.

    Lightning's ThroughputMonitor logs under its own names and asks every module for a batch size; this one counts by
    `batch_size_of`. `seconds` is the wall-clock time of the whole training, `steps_seconds` that of its steps alone. Both go
    on from the checkpoint of a resumed run.
    """

    def __init__(self) -> None:
        self.samples = 0
        self.seconds = 0.0
        self.steps_seconds = 0.0
        self._window = (0, 0.0, 0)  # samples, seconds, steps since the last logged step
        self._train_start = self._step_start = 0.0
        self._loaded: dict[str, Any] = {}

    @property
    def samples_per_second(self) -> float:
        """Mean over all steps."""
        return self.samples / self.steps_seconds if self.steps_seconds else 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, value in self._loaded.items():
            setattr(self, name, value)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._train_start = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step_start = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Starts a step's clock unless it runs since the last step's end (so that waiting for data counts)."""
        if not self._step_start:
            self._step_start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        log = should_log(trainer)
        if log and pl_module.device.type == "cuda":
            torch.cuda.synchronize()  # the device computes asynchronously; only logged steps wait for it
        now = time.perf_counter()
        count, spent = batch_size_of(batch) * trainer.world_size, now - self._step_start
        self.samples, self.steps_seconds = self.samples + count, self.steps_seconds + spent
        samples, seconds, steps = self._window[0] + count, self._window[1] + spent, self._window[2] + 1
        if log:
            pl_module.log_dict({"perf/samples_per_second": samples / seconds, "perf/step_seconds": seconds / steps})
        self._window = (0, 0.0, 0) if log else (samples, seconds, steps)
        self._step_start = now if batch_idx + 1 < trainer.num_training_batches else 0.0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step_start = 0.0

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._step_start = 0.0

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds, self._train_start = self._seconds_so_far(), 0.0

    def _seconds_so_far(self) -> float:
        return self.seconds + (time.perf_counter() - self._train_start if self._train_start else 0.0)

    def state_dict(self) -> dict[str, Any]:
        return {"samples": self.samples, "seconds": self._seconds_so_far(), "steps_seconds": self.steps_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps a checkpoint's values for `on_fit_start`: a test of the best checkpoint loads them too."""
        self._loaded = state_dict


def batch_size_of(batch: Any) -> int:
    """Batch size: `batch.num_samples` if there is such an int, else the length of the first tensor; 1 without any."""
    if isinstance(count := getattr(batch, "num_samples", None), int):
        return count
    return next((len(tensor) for tensor in tensors_in(batch) if tensor.dim()), 1)


def tensors_in(nest: Any) -> Iterator[torch.Tensor]:
    """The tensors in a nest of tuples, lists, mappings and dataclasses, in order."""
    if isinstance(nest, torch.Tensor):
        yield nest
    elif is_dataclass(nest):
        yield from tensors_in(list(vars(nest).values()))
    elif isinstance(nest, (tuple, list, Mapping)):
        for item in nest.values() if isinstance(nest, Mapping) else nest:
            yield from tensors_in(item)
