"""What modules, data and callbacks ask of the Lightning Trainer that they run under.

Private attributes of Lightning are read here alone; `tests/common/test_trainer.py` says what breaks without each.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import ParallelStrategy, Strategy

from common.errors import UserError


def attached_trainer(module: LightningModule) -> Trainer | None:
    """Trainer that `module` is attached to; None outside of one, where `module.trainer` would raise."""
    try:
        return module.trainer
    except RuntimeError:
        return None


def resume_position(trainer: Trainer | None) -> tuple[int, int]:
    """(epoch, batches of it already trained on), as the trainer's own counters have it.

    The counters travel in every checkpoint, so a loader that starts here continues a killed run with the right batch.
    From the hooks at an epoch's end on, the position is the start of the next; between the last batch and these hooks
    there is none, so nothing may be saved there.
    """
    if trainer is None:
        return 0, 0
    # `processed` is up before the hooks that save; `completed` only after them
    epoch: int = trainer.fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]
    batch = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    return (epoch, 0) if batch >= trainer.num_training_batches else (epoch, batch)


def rank_and_world_size(trainer: Trainer | None) -> tuple[int, int]:
    """This process's number and the number of processes; (0, 1) outside of a trainer."""
    return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)


def training_steps(trainer: Trainer) -> int:
    """The optimizer's steps in the whole training, at least 1. Raises UserError if it has no end."""
    if math.isinf(trainer.estimated_stepping_batches):
        raise UserError("--max_epochs -1: the learning rate falls to zero at the end; set one, or --max_steps")
    return max(1, int(trainer.estimated_stepping_batches))  # none with --max_epochs 0


def no_sync(strategy: Strategy) -> AbstractContextManager[Any]:
    """Within it a backward pass leaves gradients as each process has them.

    DDP expects one backward pass for each forward pass; a training step with several averages its gradients itself, by
    `average_gradients`.
    """
    return strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else nullcontext()


def should_log(trainer: Trainer) -> bool:
    """Whether Lightning hands the figures of the training step at hand to the loggers; true from its start to its end.

    What is logged in other steps is lost at the end of the epoch, if not overwritten before.
    """
    return trainer._logger_connector.should_update_logs
