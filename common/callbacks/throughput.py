"""How fast a run trains."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from common.trainer import should_log


class Throughput(Callback):
    """Logs `perf/samples_per_second` over all processes and `perf/step_seconds`, validation and saving left out.

    Lightning's ThroughputMonitor logs under its own names and asks every module for a batch size; this one counts the
    first dimension of the first tensor of a batch. `seconds` is the time from the start of training to its end with
    everything in it, and `steps_seconds` that of the steps alone. A resumed run goes on counting from its checkpoint.
    """

    def __init__(self) -> None:
        self.samples = 0
        self.seconds = 0.0
        self.steps_seconds = 0.0
        self._window = (0, 0.0, 0)  # samples, seconds, steps since the last logging
        self._started = self._resumed = 0.0
        self._loaded: dict[str, Any] = {}

    @property
    def samples_per_second(self) -> float:
        """The mean over the steps."""
        return self.samples / self.steps_seconds if self.steps_seconds else 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Goes on from the checkpoint that the run resumes, if it does."""
        for name, value in self._loaded.items():
            setattr(self, name, value)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._started = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the first step's clock, which runs while its batch is made."""
        self._resumed = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Starts a step's clock unless it runs since the last step's end (so that waiting for data counts)."""
        if not self._resumed:
            self._resumed = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts a step."""
        log = should_log(trainer)
        if log and pl_module.device.type == "cuda":
            torch.cuda.synchronize()  # the device works behind the program; once in a while it is waited for
        now = time.perf_counter()
        count, spent = first_dimension(batch) * trainer.world_size, now - self._resumed
        self.samples, self.steps_seconds = self.samples + count, self.steps_seconds + spent
        samples, seconds, steps = self._window
        self._window = samples + count, seconds + spent, steps + 1
        if log:
            samples, seconds, steps = self._window
            pl_module.log_dict({"perf/samples_per_second": samples / seconds, "perf/step_seconds": seconds / steps})
            self._window = (0, 0.0, 0)
        self._resumed = now if batch_idx + 1 < trainer.num_training_batches else 0.0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation in the middle of an epoch is not a step."""
        self._resumed = 0.0

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Neither is saving, which other callbacks do after this one has seen the step's end."""
        self._resumed = 0.0

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock."""
        self.seconds, self._started = self._seconds_so_far(), 0.0

    def _seconds_so_far(self) -> float:
        return self.seconds + (time.perf_counter() - self._started if self._started else 0.0)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"samples": self.samples, "seconds": self._seconds_so_far(), "steps_seconds": self.steps_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps a checkpoint's figures for `on_fit_start`: a test of the best checkpoint loads them too."""
        self._loaded = state_dict


def first_dimension(batch: Any) -> int:
    """The length of the first tensor in a nest of tuples, lists and mappings; 1 if there is none.

    A batch whose samples fill more than one dimension says itself how many they are, as its `num_samples`.
    """
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
