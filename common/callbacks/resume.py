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
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from common.errors import Preempted
from common.io.checkpoints import sorted_by_step


class ResumeCheckpoints(Checkpoint):
    """Saves `step-*.ckpt` every few steps and at the end of every epoch, and keeps the newest two.

    A run killed at any moment and resumed from the newest ends with the weights of an uninterrupted one, bit for bit on
    a CPU in float32: the trainer's counters say which batch comes next (`common.batches.resume_position`), and each
    process's random states are in the file. Two are kept because a kill or a full disk may leave the newest one bad.

    As a `Checkpoint` it comes after all other callbacks, early stopping included, and after the choice of the best where
    that stands before it in the list: what they have done is in the file.

    On SIGTERM the step at hand is finished, its state saved, its figures logged, and then `Preempted` raised in all
    processes at the same step. (Lightning's own handler would broadcast from wherever the signal finds a process.)

    Args:
        folder: where the checkpoints go.
        project: the capstone's name, stamped into every checkpoint.
        every_n_steps: steps (of all optimizers together) between two of them; 0 for the ends of epochs only.
    """

    KEEP = 2

    def __init__(self, folder: Path, project: str, every_n_steps: int) -> None:
        self.folder = folder
        self.project = project
        self.every_n_steps = every_n_steps
        self.stop_asked = False
        self._step = 0
        self._stopped_at: Path | None = None
        self._restored: list[dict[str, Any]] | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the random states back."""
        self._restore_random_state(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes SIGTERM over, and inside an epoch the random states back again: making the loader has drawn from them."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._note)  # Lightning, which has just done so, gives it back at the end
        if trainer.fit_loop.epoch_loop.batch_progress.current.ready > 0:
            self._restore_random_state(trainer)
        self._restored = None
        self._step = trainer.global_step

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.stop_asked = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves where it is due. After an epoch's last batch that waits for the validation, which the file then knows of."""
        before, self._step = self._step, trainer.global_step
        # accumulated gradients are in no checkpoint: between two steps of the optimizer there is nothing to continue from
        if self._step == before or batch_idx + 1 >= trainer.num_training_batches:
            return
        if trainer.strategy.reduce_boolean_decision(self.stop_asked, all=False):
            self._stopped_at = self._save(trainer)
        elif self.every_n_steps and self._step // self.every_n_steps > before // self.every_n_steps:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves at the end of the epoch, after its validation."""
        path = self._save(trainer)
        if trainer.strategy.reduce_boolean_decision(self.stop_asked, all=False):
            self._stopped_at = path

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stops here if it was asked to: after Lightning has logged what the last step's callbacks left to it."""
        self._leave_if_stopped()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same after an epoch's end."""
        self._leave_if_stopped()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same after the last epoch: the test is left to the run that resumes."""
        self._leave_if_stopped()

    def _leave_if_stopped(self) -> None:
        if self._stopped_at is not None:
            raise Preempted(str(self._stopped_at))

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
            for old in sorted_by_step(self.folder, "step-*.ckpt")[self.KEEP :]:
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
