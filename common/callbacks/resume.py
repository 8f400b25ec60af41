"""Runs that survive: checkpoints to continue from, random states in them, and an orderly stop on SIGTERM."""

from __future__ import annotations

import random
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from common.errors import Preempted


class ResumeCheckpoints(Callback):
    """Saves `step-*.ckpt` every few steps and at the end of every epoch, and keeps the newest two.

    A run killed at any moment and resumed from the newest ends with the weights of an uninterrupted one, bit for bit on
    a CPU in float32: the trainer's counters say which batch comes next (`common.batches.data_position`), and each
    process's random states are in the file. Two are kept because a kill or a full disk may leave the newest one bad.

    On SIGTERM the step at hand is finished, its state saved, and `Preempted` raised in all processes at the same step.

    Args:
        folder: where the checkpoints go.
        project: the capstone's name, stamped into every checkpoint.
        every_n_steps: steps between two of them; 0 for the ends of epochs only.
    """

    KEEP = 2

    def __init__(self, folder: Path, project: str, every_n_steps: int) -> None:
        self.folder = folder
        self.project = project
        self.every_n_steps = every_n_steps
        self.stop_asked = False
        self._restored: list[dict[str, Any]] | None = None
        self._old_handler: Any = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the random states back, and SIGTERM over."""
        self._restore_random_state(trainer)
        if threading.current_thread() is threading.main_thread():
            self._old_handler = signal.signal(signal.SIGTERM, self._note)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.stop_asked = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the random states back once more: in the middle of an epoch, making the loader has drawn from them."""
        if trainer.fit_loop.epoch_loop.batch_progress.current.ready > 0:
            self._restore_random_state(trainer)
        self._restored = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves where it is due. After an epoch's last batch the save waits for the validation, unless told to stop."""
        stop = trainer.strategy.reduce_boolean_decision(self.stop_asked, all=False)
        last = batch_idx + 1 >= trainer.num_training_batches
        due = self.every_n_steps and trainer.global_step % self.every_n_steps == 0 and not last
        if stop and not last:
            raise Preempted(str(self._save(trainer)))
        if due:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves at the end of the epoch, after its validation."""
        path = self._save(trainer)
        if trainer.strategy.reduce_boolean_decision(self.stop_asked, all=False):
            raise Preempted(str(path))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Gives SIGTERM back."""
        if self._old_handler is not None:
            signal.signal(signal.SIGTERM, self._old_handler)
            self._old_handler = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds the project's name and every process's random states."""
        checkpoint["project"] = self.project
        states: list[Any] = [random_state()]
        if trainer.world_size > 1:
            states = [None] * trainer.world_size
            torch.distributed.all_gather_object(states, random_state())
        checkpoint["random_states"] = states

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keeps the random states until the moments that they belong to."""
        self._restored = checkpoint.get("random_states")

    def _restore_random_state(self, trainer: Trainer) -> None:
        # resumed on another number of processes, the states fit nobody: new ones follow from the seed
        if self._restored is not None and len(self._restored) == trainer.world_size:
            set_random_state(self._restored[trainer.global_rank])

    def _save(self, trainer: Trainer) -> Path:
        path = self.folder / f"step-{trainer.global_step:08d}.ckpt"
        trainer.save_checkpoint(path)
        if trainer.is_global_zero:
            for old in sorted(self.folder.glob("step-*.ckpt"))[: -self.KEEP]:
                old.unlink()
        return path


def random_state() -> dict[str, Any]:
    """This process's random states, as tensors and plain types that `torch.load(weights_only=True)` reads."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": [version, list(internal), gauss],
        "numpy": [str(name), torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, float(cached)],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Puts back what `random_state` returned."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
