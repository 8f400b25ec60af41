"""Building a run: module, data, callbacks, loggers and Trainer from the configuration."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping, LearningRateMonitor, ModelCheckpoint

from common.callbacks.activations import ActivationStats
from common.callbacks.gradients import GradientMonitor
from common.callbacks.progress import progress_callback
from common.callbacks.resume import ResumeCheckpoints
from common.callbacks.throughput import Throughput
from common.data.sources import announce_sample
from common.errors import UserError
from common.io.checkpoints import AtomicCheckpointIO, logged_steps, read_checkpoint
from common.io.loggers import csv_logger, wandb_logger
from common.io.ranks import print_rank_zero

if TYPE_CHECKING:
    from common.cli.parser import CapstoneCLI
from common.io.run_folder import Run


def build(cli: CapstoneCLI) -> tuple[LightningModule, LightningDataModule, dict[str, Any]]:
    """Makes module and data from the configuration; returns them with the trainer's options."""
    objects = cli.parser.instantiate_classes(cli.config)
    return objects.model, objects.data, dict(objects.trainer)


def prepare_trainer_options(cli: CapstoneCLI, place: Run, data: Any, options: dict[str, Any]) -> None:
    """Adds to the trainer's options what every run has: loggers, callbacks, plugins."""
    config, project = cli.config, cli.project
    source = data.resolve()
    if source.fell_back:
        announce_sample(data.HUB_ID, print_rank_zero)
    step = logged_steps(read_checkpoint(place.checkpoint)) if place.checkpoint else None
    loggers: list[Any] = [csv_logger(place.folder, step)]
    if config.wandb:
        best: dict[str, str] = {project.monitored(data): project.mode, "val/loss": "min"}
        recorded = {
            **json.loads(cli.parser.dump(config, format="json", skip_none=False)),
            "data/source": data.source_label,
        }
        try:
            loggers.append(wandb_logger(place.folder, f"capstones-{project.name}", best, recorded, print_rank_zero))
        except ModuleNotFoundError as error:
            raise UserError('--wandb: wandb is not installed; run `pip install "lightning-capstones[wandb]"`') from error
    options["logger"] = loggers
    options["callbacks"] += run_callbacks(cli, place, data)
    options["plugins"] = [*(options.get("plugins") or []), AtomicCheckpointIO()]
    options["default_root_dir"] = str(place.folder)
    write_config(cli, place)


def run_callbacks(cli: CapstoneCLI, place: Run, data: Any) -> list[Callback]:
    """The callbacks of every run, with the settings of checkpoints and early stopping in one place."""
    config, project = cli.config, cli.project
    callbacks: list[Callback] = [
        progress_callback(),
        Throughput(),
        GradientMonitor(place.checkpoints),
        ActivationStats(),
        LearningRateMonitor(logging_interval="step"),
        *(make(place.plots) for make in project.plot_callbacks),
    ]
    if getattr(data, "has_validation", True) and config.trainer.limit_val_batches != 0:
        best = ModelCheckpoint(
            place.checkpoints,
            filename="best-{step:08d}",
            monitor=project.monitored(data),
            mode=project.mode,
            auto_insert_metric_name=False,
            save_on_train_epoch_end=True,
        )
        callbacks.append(best)
        if config.patience is not None:
            callbacks.append(EarlyStopping(project.monitored(data), mode=project.mode, patience=int(config.patience)))
    elif config.patience is not None:
        raise UserError("--patience: there is no validation set to be patient about")
    # last: what the others have done at a batch's end is in the checkpoint
    return [*callbacks, ResumeCheckpoints(place.checkpoints, project.name, config.checkpoint_every)]


def new_trainer(options: dict[str, Any]) -> Trainer:
    """A Trainer whose complaints about its options are one line."""
    options = {
        **options,
        "enable_model_summary": False,
        "enable_progress_bar": any("ProgressBar" in type(c).__name__ for c in options["callbacks"]),
        "num_sanity_val_steps": 0 if options["num_sanity_val_steps"] is None else options["num_sanity_val_steps"],
        "use_distributed_sampler": False,  # the loaders share their data out themselves, without repeats
    }
    try:
        return Trainer(**options)
    except (MisconfigurationException, ModuleNotFoundError, ValueError, TypeError) as error:
        raise UserError(" ".join(str(error).split())[:300]) from error


def write_config(cli: CapstoneCLI, place: Run) -> None:
    """Writes `config.yaml`, complete: `train --config` with it does the same run again."""
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        config = cli.config.clone()
        for key in ("config", "resume", "name"):
            config.pop(key, None)
        (place.folder / "config.yaml").write_text(cli.parser.dump(config, skip_none=False, skip_check=True))
