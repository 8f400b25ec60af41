"""Fit of a run: `trainer.fit` with one-line errors, the warnings that are expected, and the best checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer

from common.callbacks.resume import is_out_of_patience
from common.data.sources import SourceDataModule
from common.errors import UserError, one_line
from common.io.run_dir import RunDir
from common.nn.distributed import broadcast_from_rank_zero
from common.run.best import BestCheckpoint

# by design: loaders without workers, resuming inside an epoch, epochs without validation, epochs shorter than the logging
# interval (see `common.trainer.should_log`)
EXPECTED_WARNINGS = [
    "does not have many workers",
    "dataloader is not resumable",
    "exists and is not empty",
    "Total length of",
    "smaller than the logging interval",
    "could not find the monitored key",
]


@contextmanager
def expected_warnings_ignored() -> Iterator[None]:
    """Context without Lightning's warnings about what is by design here."""
    with warnings.catch_warnings():
        for text in EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", f".*{text}.*")
        yield


def fit(trainer: Trainer, module: LightningModule, data: SourceDataModule, run_dir: RunDir | None) -> None:
    """`trainer.fit`, from the run's checkpoint if it resumes.

    Raises:
        UserError: Lightning rejects a setting, or the checkpoint is of another network.
    """
    checkpoint = None if run_dir is None else run_dir.checkpoint
    try:
        trainer.fit(module, datamodule=data, ckpt_path=None if checkpoint is None else str(checkpoint))
    except MisconfigurationException as error:
        raise UserError(one_line(error)) from error
    except ValueError as error:
        if "val_check_interval" not in str(error):
            raise
        raise UserError(f"--trainer.val_check_interval: {one_line(error)}") from error
    except RuntimeError as error:
        if "Early stopping conditioned on" in str(error):
            raise UserError(f"--trainer.callbacks: {one_line(error)}") from error
        if "loading state_dict" not in str(error):
            raise
        difference = str(error).splitlines()[1].strip()
        raise UserError(f"checkpoint {checkpoint}: not of the network that --model describes: {difference}") from error


def end_reason(trainer: Trainer) -> str:
    """Why the training ended: the module's own `stop_reason`, early stopping, or a limit of the Trainer."""
    if reason := getattr(trainer.lightning_module, "stop_reason", None):
        return str(reason)
    for callback in trainer.early_stopping_callbacks:
        if is_out_of_patience(callback):
            return f"{callback.monitor} has not improved in {callback.patience} validations"
    if 0 <= trainer.max_steps <= trainer.global_step:
        return f"--max_steps {trainer.max_steps} is reached"
    if trainer.max_epochs is not None and 0 <= trainer.max_epochs <= trainer.current_epoch:
        return f"--max_epochs {trainer.max_epochs} is reached"
    return "a callback or --trainer.max_time stopped it"


def best_checkpoint(trainer: Trainer, run_dir: RunDir | None) -> str | None:
    """Path of the run's own best checkpoint, as rank zero has it; None for the weights as they are."""
    return broadcast_from_rank_zero(lambda: _own_best(trainer, run_dir))


def _own_best(trainer: Trainer, run_dir: RunDir | None) -> str | None:
    for callback in trainer.checkpoint_callbacks:
        if run_dir is not None and isinstance(callback, BestCheckpoint) and Path(callback.best_model_path).is_file():
            return str(run_dir.checkpoints / Path(callback.best_model_path).name)
    return None
