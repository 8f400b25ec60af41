"""Checkpoints to resume from: with random number generator states, and an orderly stop on SIGTERM (preemption)."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, Timer
from lightning.pytorch.trainer.states import TrainerFn

from common.data.sources import SourceDataModule
from common.io.checkpoints import sorted_by_step
from common.io.signals import handle_stop_signals, newest_checkpoint, stop, stop_now
from common.nn.distributed import all_gather_objects


class ResumeCheckpoints(Checkpoint):
    """Saves `step-*.ckpt` every few steps and at the end of every epoch, and keeps the newest two.

    A run killed at any moment and resumed from the newest ends with the weights of an uninterrupted one, bit for bit on
    a CPU in float32 or float64: the trainer's counters say which batch comes next (`common.trainer.resume_position`), and
    each process's random states are in the file. Two are kept because a kill or a full disk may leave the newest one bad.

    As a `Checkpoint` it comes after all other callbacks, early stopping included, and after a ModelCheckpoint that is
    earlier in the list: what they have done is in the file. So is that the training was stopped before its limits: resumed,
    it ends at once, unless early stopping has more patience now, or `--trainer.max_time` more time.

    On SIGTERM, and on SLURM's SIGUSR1, the current step is finished, its state saved, its metrics logged, and then
    `Preempted` raised in all processes at the same step. (Lightning's own handler would broadcast from wherever the signal
    finds a process.)

    With several processes whether to stop is a question to all, for which a GPU waits: it is asked about every two seconds.

    Args:
        folder: Folder of the checkpoints.
        project: Name of the capstone, saved in every checkpoint.
        every_n_steps: Steps (of all optimizers together) between two checkpoints, of which there is one every two minutes
            too; 0 for the ends of epochs only.
    """

    MAX_KEPT = 2
    SAVE_SECONDS = 120.0  # between two checkpoints, by the clock of rank zero
    ASK_SECONDS = 2.0  # between two questions to all processes

    def __init__(self, folder: Path, project: str, every_n_steps: int) -> None:
        self.folder = folder
        self.project = project
        self.every_n_steps = every_n_steps
        self.stop_requested = False
        self.signal = "SIGTERM"
        self._step = self._asked_at_step = self._next_question = 0
        self._asked_at = self._saved_at = time.monotonic()
        self._stopped_at: Path | None = None
        self._random_states: list[dict[str, Any]] | None = None
        self._stopped = False
        self._patience: list[tuple[EarlyStopping, int]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._patience = [(callback, callback.patience) for callback in trainer.early_stopping_callbacks]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore_random_state(trainer)
        for callback, patience in self._patience:
            callback.patience = patience  # instead of the checkpoint's

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        handle_stop_signals(self._request_stop)  # Lightning, whose handlers these replace, restores the first
        if trainer.fit_loop.epoch_loop.batch_progress.current.ready > 0:
            self._restore_random_state(trainer)  # again: within an epoch, making the loader has used the generators
        self._random_states = None
        self._step = self._asked_at_step = self._next_question = trainer.global_step
        self._asked_at = self._saved_at = time.monotonic()
        trainer.should_stop |= self._stopped or any(map(is_out_of_patience, trainer.early_stopping_callbacks))

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        handle_stop_signals(stop_now(self.folder))  # Lightning has put its own in front

    def _request_stop(self, name: str) -> None:
        if not self.stop_requested:
            self.stop_requested, self.signal = True, name
        elif name == "SIGINT":  # whoever presses Ctrl-C again does not want to wait for the step
            stop(newest_checkpoint(self.folder), name)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves where it is due. After an epoch's last batch that waits for the validation, to be in the file as well."""
        before, self._step = self._step, trainer.global_step
        # accumulated gradients are in no checkpoint: between two steps of the optimizer there is nothing to continue from
        if self._step == before or batch_idx + 1 >= trainer.num_training_batches:
            return
        must_stop, is_due = self._ask(trainer)
        if must_stop:
            self._stopped_at = self._save(trainer)
        elif is_due or (self.every_n_steps and self._step // self.every_n_steps > before // self.every_n_steps):
            self._save(trainer)

    def _ask(self, trainer: Trainer) -> tuple[bool, bool]:
        """Whether to stop, as any process may have been asked to, and whether a checkpoint is due by rank zero's clock."""
        now = time.monotonic()
        is_due = self.every_n_steps > 0 and now - self._saved_at >= self.SAVE_SECONDS
        if trainer.world_size == 1:
            return self.stop_requested, is_due
        if self._step < self._next_question:
            return False, False
        steps_per_second = (self._step - self._asked_at_step) / max(now - self._asked_at, 1e-3)
        answers = [is_due, min(1000, max(1, int(self.ASK_SECONDS * steps_per_second)))] if trainer.is_global_zero else [0, 0]
        question = torch.tensor([self.stop_requested, *answers], device=trainer.strategy.root_device)
        must_stop, due, steps = trainer.strategy.reduce(question, reduce_op="max").tolist()
        self._asked_at, self._asked_at_step, self._next_question = now, self._step, self._step + steps
        return bool(must_stop), bool(due)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        path = self._save(trainer)
        if trainer.strategy.reduce_boolean_decision(self.stop_requested, all=False):
            self._stopped_at = path

    # The stop itself comes with the next hook, after Lightning has logged the last step; also after the last epoch, as the
    # test is left to the run that resumes.

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._raise_if_stopped()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._raise_if_stopped()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        handle_stop_signals(stop_now(self.folder))  # there is nothing more to save: the test is left to the run that resumes
        if trainer.strategy.reduce_boolean_decision(self.stop_requested, all=False):  # also since the epoch's end
            stop(newest_checkpoint(self.folder), self.signal)

    def _raise_if_stopped(self) -> None:
        if self._stopped_at is not None:
            stop(self._stopped_at, self.signal)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["project"] = self.project
        checkpoint["precision"] = trainer.precision
        if isinstance(data := trainer.datamodule, SourceDataModule):  # type: ignore[attr-defined]
            checkpoint["data"] = data.fingerprint()
            checkpoint["batches"] = data.batch_state()
        checkpoint["stopped"] = trainer.should_stop and not will_stop_again(trainer)
        continue_inside_epoch(checkpoint["loops"]["fit_loop"])
        checkpoint["random_states"] = all_gather_objects(random_state(), trainer.world_size)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._random_states = checkpoint.get("random_states")
        if trainer.state.fn == TrainerFn.FITTING:
            self._stopped = checkpoint.get("stopped", False)
            if isinstance(data := trainer.datamodule, SourceDataModule) and "batches" in checkpoint:  # type: ignore[attr-defined]
                data.resume_batches(checkpoint["batches"])
            # Lightning has loaded the weights before it converts the module to the precision: rounded to float32
            trainer.precision_plugin.convert_module(pl_module)
            trainer.strategy.load_model_state_dict(checkpoint, strict=pl_module.strict_loading)

    def _restore_random_state(self, trainer: Trainer) -> None:
        # resumed on another number of processes, the states fit no process: new ones follow from the seed
        if self._random_states is not None and len(self._random_states) == trainer.world_size:
            set_random_state(self._random_states[trainer.global_rank])

    def _save(self, trainer: Trainer) -> Path:
        path = self.folder / f"step-{trainer.global_step:08d}.ckpt"
        trainer.save_checkpoint(path)
        self._saved_at = time.monotonic()
        if trainer.is_global_zero:
            for old in sorted_by_step(self.folder, "step-*.ckpt")[self.MAX_KEPT :]:
                old.unlink()
        return path


def raise_if_preempted(trainer: Trainer) -> None:
    """Raises Preempted within a long evaluation if the process has received SIGTERM; the newest checkpoint continues."""
    callbacks = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ResumeCheckpoints)]
    for callback in callbacks:
        if callback.stop_requested:
            stop(newest_checkpoint(callback.folder), callback.signal)


def is_out_of_patience(callback: EarlyStopping) -> bool:
    """Whether early stopping has waited for all of its patience."""
    return 0 < callback.wait_count >= callback.patience


def will_stop_again(trainer: Trainer) -> bool:
    """Whether what has stopped the training decides it anew when it is resumed: the module, early stopping, or a Timer."""
    return (
        getattr(trainer.lightning_module, "stop_reason", None) is not None
        or any(map(is_out_of_patience, trainer.early_stopping_callbacks))
        or is_out_of_time(trainer)
    )


def is_out_of_time(trainer: Trainer) -> bool:
    """Whether a Timer, as of `--trainer.max_time`, has run out."""
    timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
    return any((left := timer.time_remaining()) is not None and left <= 0 for timer in timers)


def continue_inside_epoch(fit_loop: dict[str, Any]) -> None:
    """Sets the counters of a checkpoint at the end of an epoch that was cut short back to the end of its last batch.

    Lightning counts an epoch that `--max_steps` or a stop has cut short as a whole one, and would resume with the next.
    """
    epochs, batches = fit_loop["epoch_progress"], fit_loop["epoch_loop.batch_progress"]
    in_epoch = epochs["current"]["processed"] < epochs["current"]["ready"]
    if in_epoch or batches["is_last_batch"] or not batches["current"]["ready"]:
        return
    for count in ("current", "total"):
        epochs[count]["completed"] = epochs[count]["processed"] = epochs[count]["processed"] - 1
        batches[count]["completed"] -= 1
    fit_loop["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1


def random_state() -> dict[str, Any]:
    """States of this process's random number generators, as types that `torch.load(weights_only=True)` reads."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": [version, list(internal), gauss],
        "numpy": [str(name), torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, float(cached)],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restores what `random_state` returned."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
