"""Trainer queries: what modules, data and callbacks ask of the Lightning Trainer that they run under.

What Lightning keeps private is read here alone; `tests/common/test_trainer.py` fails if a new version changes it.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import ParallelStrategy, Strategy
from lightning.pytorch.trainer.connectors import checkpoint_connector

from common.errors import UserError


def attached_trainer(module: LightningModule) -> Trainer | None:
    """Trainer that `module` is attached to; None outside of one, where `module.trainer` would raise."""
    try:
        return module.trainer
    except RuntimeError:
        return None


def resume_position(trainer: Trainer | None) -> tuple[int, int]:
    """(epoch, batches of it already trained on), from the trainer's progress counters; (0, 0) without a trainer.

    The counters are in every checkpoint, so a loader that starts here continues a killed run with the right batch.
    From the hooks at an epoch's end on, the position is the start of the next; between the last batch and these hooks
    it is undefined, so no checkpoint may be saved there.
    """
    if trainer is None:
        return 0, 0
    # `processed` is up before the hooks that save; `completed` only after them
    epoch: int = trainer.fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]
    batch = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    return (epoch, 0) if batch >= trainer.num_training_batches else (epoch, batch)


def epochs_begun(trainer: Trainer) -> int:
    """Epochs that were trained on, the last of them perhaps in part.

    (`current_epoch` are those that have ended, of a resumed training that ends at once one too few.)
    """
    epochs: int = trainer.fit_loop.epoch_progress.current.ready
    return epochs


def rank_and_world_size(trainer: Trainer | None) -> tuple[int, int]:
    """Rank of this process and number of processes; (0, 1) without a trainer."""
    return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)


def accumulation_window(trainer: Trainer | None, batch: int, num_batches: int) -> tuple[range, int]:
    """Batches of an epoch whose gradients are accumulated together with those of `batch`, and what Lightning divides by.

    Their gradients are summed and divided by `accumulate_grad_batches`, in the last window of an epoch too, which may have
    fewer batches. `num_batches` are those of the loader.
    """
    if trainer is None:
        return range(batch, batch + 1), 1
    size, first = trainer.accumulate_grad_batches, batch - batch % trainer.accumulate_grad_batches
    return range(first, int(min(first + size, num_batches, trainer.num_training_batches))), size


def loss_scale(trainer: Trainer, batch: int, size: int) -> float:
    """Factor for the mean loss of this process's `size` samples in `batch`: each sample of a step then weighs the same.

    Gradients are averaged over processes and over accumulated batches. Where these are of unequal sizes, the samples of the
    smaller ones would weigh more. 1.0 where all are equal.

    The training loader's `global_batch_size` is the size of each batch, of all processes together; for a loader without it
    the factor is 1.0.
    """
    global_size: int | None = getattr(trainer.train_dataloader, "global_batch_size", None)
    if global_size is None:
        return 1.0
    window, divisor = accumulation_window(trainer, batch, len(trainer.train_dataloader))  # type: ignore[arg-type]
    return size * trainer.world_size * divisor / (len(window) * global_size)


def training_steps(trainer: Trainer) -> int:
    """Optimizer steps of the whole training, at least 1. Raises UserError if the training has no end."""
    if math.isinf(trainer.estimated_stepping_batches):
        raise UserError("--max_epochs -1: the learning rate falls to zero at the end; set one, or --max_steps")
    return max(1, int(trainer.estimated_stepping_batches))  # 0 with --max_steps 0


def no_sync(strategy: Strategy) -> AbstractContextManager[Any]:
    """Context in which backward passes do not synchronize gradients between processes.

    DDP expects one backward pass for each forward pass; a training step with several averages its gradients itself, by
    `common.nn.distributed.average_gradients`.
    """
    return strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else nullcontext()


def has_grad_scaler(trainer: Trainer) -> bool:
    """Whether a gradient scaler scales the loss (`16-mixed`).

    Fused optimizers undo it inside of their step, after clipping; before others Lightning does, so that what is clipped and
    logged are the gradients themselves.
    """
    return getattr(trainer.precision_plugin, "scaler", None) is not None


def should_log(trainer: Trainer) -> bool:
    """Whether Lightning passes the metrics of the current training step to the loggers; constant within the step.

    What is logged in other steps is lost at the end of the epoch, if not overwritten before.
    """
    return trainer._logger_connector.should_update_logs


def discard_metrics(trainer: Trainer, names: Iterable[str]) -> None:
    """Discards the last values that `training_step` logged under `names`.

    Lightning would else log them again in every later step of the epoch, as if they were new.
    """
    for name in names:
        if trainer._results is not None:
            trainer._results.pop(f"training_step.{name}", None)
        trainer.callback_metrics.pop(name, None)


def logged_steps(checkpoint: dict[str, Any]) -> int:
    """Steps done at `checkpoint`, as loggers count them.

    (Its `global_step` counts the steps of every optimizer, where a module has several.)
    """
    loop = checkpoint["loops"]["fit_loop"]
    steps: int = loop["epoch_loop.state_dict"]["_batches_that_stepped"]
    # inside an epoch Lightning counts the step only after the callbacks that save
    return steps if loop["epoch_loop.batch_progress"]["is_last_batch"] else steps + 1


def while_restoring(error: BaseException) -> bool:
    """Whether `error` comes from where Lightning, or `ResumeCheckpoints`, restores the states of a checkpoint."""
    frames = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    lightning = [code.co_name for code in frames if code.co_filename == checkpoint_connector.__file__]
    return any("restore" in name for name in lightning) or any(code.co_name == "_restore_random_state" for code in frames)
