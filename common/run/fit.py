"""Fit of a run: `trainer.fit` with one-line errors, the warnings that are expected, and the best checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from common.callbacks.resume import is_out_of_patience, is_out_of_time
from common.data.sources import SourceDataModule
from common.errors import UserError, one_line
from common.io.checkpoints import DamagedFile
from common.io.run_dir import RunDir
from common.nn.distributed import broadcast_from_rank_zero
from common.run.best import BestCheckpoint
from common.trainer import while_restoring

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
# of an EarlyStopping callback, besides its patience
OTHER_REASONS = {
    EarlyStoppingReason.STOPPING_THRESHOLD: "{0.monitor} has passed its stopping_threshold {0.stopping_threshold:g}",
    EarlyStoppingReason.DIVERGENCE_THRESHOLD: "{0.monitor} has passed its divergence_threshold {0.divergence_threshold:g}",
    EarlyStoppingReason.NON_FINITE_METRIC: "{0.monitor} is not finite",
}


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
        UserError: Lightning rejects a setting, or the checkpoint is damaged or of another network or optimizer.
    """
    checkpoint = None if run_dir is None else run_dir.checkpoint
    try:
        trainer.fit(module, datamodule=data, ckpt_path=None if checkpoint is None else str(checkpoint))
    except UserError:
        raise
    except Exception as error:
        if message := explain(error, checkpoint):
            raise UserError(message) from error
        raise


def explain(error: Exception, checkpoint: Path | None) -> str | None:
    """What is wrong with a setting, or with the checkpoint that is resumed, if that is why `trainer.fit` raised `error`."""
    text = str(error)
    if isinstance(error, MisconfigurationException):
        return one_line(error)
    if isinstance(error, ValueError) and "val_check_interval" in text:
        return f"--trainer.val_check_interval: {one_line(error)}"
    if isinstance(error, RuntimeError) and "Early stopping conditioned on" in text:
        return f"--trainer.callbacks: {one_line(error)}"
    if isinstance(error, RuntimeError) and "loading state_dict" in text:
        return f"checkpoint {checkpoint}: not of the network that --model describes: {text.splitlines()[1].strip()}"
    if checkpoint is not None and while_restoring(error):
        return (
            f"checkpoint {checkpoint}: its optimizer, callback or loop states do not fit this run: {one_line(error, 200)}; "
            "resume from an earlier one with --resume FILE, or train anew with another --name"
        )
    return None


def test(trainer: Trainer, module: LightningModule, data: SourceDataModule, best: str | None) -> dict[str, float]:
    """Metrics of `trainer.test` on the checkpoint `best`, or on the weights as they are.

    Raises:
        UserError: The checkpoint is damaged.
    """
    try:
        tested = trainer.test(module, datamodule=data, ckpt_path=best, verbose=False)
    except DamagedFile as error:
        raise UserError(
            f"{error}: it is not tested; remove it, and --resume auto tests the last weights, or the best of further epochs"
        ) from error
    return {name: value for metrics in tested for name, value in metrics.items()}


def end_reason(trainer: Trainer) -> str:
    """Why the training ended: the module's own `stop_reason`, early stopping, or a limit of the Trainer."""
    if reason := getattr(trainer.lightning_module, "stop_reason", None):
        return str(reason)
    for callback in trainer.early_stopping_callbacks:
        if is_out_of_patience(callback):
            return f"{callback.monitor} has not improved in {callback.patience} validations"
        if callback.stopping_reason in OTHER_REASONS:
            return OTHER_REASONS[callback.stopping_reason].format(callback)
    if 0 <= trainer.max_steps <= trainer.global_step:
        return f"--max_steps {trainer.max_steps} is reached"
    if trainer.max_epochs is not None and 0 <= trainer.max_epochs <= trainer.current_epoch:
        return f"--max_epochs {trainer.max_epochs} is reached"
    return "--trainer.max_time is reached" if is_out_of_time(trainer) else "a callback stopped it"


def best_checkpoint(trainer: Trainer, run_dir: RunDir | None) -> str | None:
    """Path of the run's own best checkpoint, as rank zero has it; None for the weights as they are."""
    return broadcast_from_rank_zero(lambda: _own_best(trainer, run_dir))


def _own_best(trainer: Trainer, run_dir: RunDir | None) -> str | None:
    for callback in trainer.checkpoint_callbacks:
        if run_dir is not None and isinstance(callback, BestCheckpoint) and Path(callback.best_model_path).is_file():
            return str(run_dir.checkpoints / Path(callback.best_model_path).name)
    return None
