"""The life of a run: seed, build, fit, test on the best checkpoint, pictures, summary."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from common.errors import UserError
from common.io.loggers import closing_wandb
from common.io.ranks import print_rank_zero
from common.nn.device import check_devices, check_precision, default_precision, keep_freed_memory, stop_looking_for_gpus
from common.run.summary import write_summary

if TYPE_CHECKING:
    from common.cli.parser import CapstoneCLI
    from common.project import Project
from common.io.run_folder import Run, open_run
from common.run.build import build, new_trainer, prepare_trainer_options


def run(cli: CapstoneCLI, extra_callbacks: Sequence[Callback] = ()) -> int:
    """Does what the parsed command line asks for, with `extra_callbacks` before the run's own; returns the exit code."""
    quiet_lightning()
    config, options = cli.config, cli.config.trainer
    check_devices(options.accelerator, options.devices)
    if not torch.cuda.is_available():
        keep_freed_memory()
    stop_looking_for_gpus()
    if options.precision is None:
        options.precision = default_precision(options.accelerator)
    else:
        check_precision(str(options.precision), options.accelerator)
    if not 0 <= config.seed < 2**32:
        raise UserError(f"--seed {config.seed}: use a whole number from 0 to {2**32 - 1}")
    seed_everything(config.seed, workers=True, verbose=False)
    if config.debug:
        from common.debug import debug_run

        module, data, _ = build(cli)
        keep = ("accelerator", "precision")
        debug_run(config.debug, module, data, {"devices": 1, **{key: options[key] for key in keep}})
        return 0
    if config.wandb:
        with closing_wandb():
            return train_and_test(cli, extra_callbacks)
    return train_and_test(cli, extra_callbacks)


def train_and_test(cli: CapstoneCLI, extra_callbacks: Sequence[Callback]) -> int:
    """Fits, tests on the best checkpoint, and writes the summary; returns the exit code."""
    config, project = cli.config, cli.project
    dry = bool(config.trainer.fast_dev_run)
    place = Run(Path(), None) if dry else open_run(project.name, config.name, config.resume, config.recipe)
    module, data, trainer_options = build(cli)
    trainer_options["callbacks"] = [*extra_callbacks, *(trainer_options.get("callbacks") or [])]
    if not dry:
        prepare_trainer_options(cli, place, data, trainer_options)
    trainer = new_trainer(trainer_options)
    say_what_runs(project, place, data, module, trainer, dry)
    began = time.perf_counter()
    with warnings.catch_warnings():
        # what Lightning warns of here is by design: loaders without workers, resuming inside an epoch, no validation after
        # some or all epochs, short epochs (see `should_log`)
        by_design = ["does not have many workers", "dataloader is not resumable", "exists and is not empty"]
        by_design += ["Total length of", "smaller than the logging interval", "could not find the monitored key"]
        for text in by_design:
            warnings.filterwarnings("ignore", f".*{text}.*")
        fit(trainer, module, data, place)
        best = None if dry else best_checkpoint(trainer, place)
        tested = trainer.test(module, datamodule=data, ckpt_path=best, verbose=False)
    if not dry and trainer.is_global_zero:
        figures = {name: value for result in tested for name, value in result.items()}
        write_summary(cli, place, data, trainer, figures, best, time.perf_counter() - began)
    return 0


def quiet_lightning() -> None:
    """Leaves the terminal to the run's own lines: Lightning's hints about its services and devices go."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning)
    # standard output carries lines that scripts wait for, also where it is a pipe
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)


def fit(trainer: Trainer, module: LightningModule, data: LightningDataModule, place: Run) -> None:
    """`trainer.fit`, from the run's checkpoint if it has one.

    Raises:
        UserError: Lightning refuses a setting, or the checkpoint is of another network.
    """
    try:
        trainer.fit(module, datamodule=data, ckpt_path=None if place.checkpoint is None else str(place.checkpoint))
    except MisconfigurationException as error:
        raise UserError(" ".join(str(error).split())[:300]) from error
    except ValueError as error:
        if "val_check_interval" not in str(error):
            raise
        raise UserError(f"--trainer.val_check_interval: {' '.join(str(error).split())}") from error
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        difference = str(error).splitlines()[1].strip()
        raise UserError(f"checkpoint {place.checkpoint}: not of the network that --model describes: {difference}") from error


def best_checkpoint(trainer: Trainer, place: Run) -> str | None:
    """The path of the best checkpoint, or None for the weights as they are."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.best_model_path:
            path = place.checkpoints / Path(callback.best_model_path).name  # where the folder is now; it may have moved
            return str(path) if path.is_file() else None
    return None


def say_what_runs(project: Project, place: Run, data: Any, module: Any, trainer: Trainer, dry: bool) -> None:
    """The lines a run begins with."""
    parameters = sum(p.numel() for p in module.parameters())
    print_rank_zero(
        f"{project.name}: {parameters:,} parameters, data {data.source_label}, "
        f"{trainer.num_devices * trainer.num_nodes} x {trainer.strategy.root_device.type}, precision {trainer.precision}"
    )
    if dry:
        print_rank_zero("dry run: one batch of everything, nothing is written")
    elif place.checkpoint is not None:
        print_rank_zero(f"resuming {place.folder} from {place.checkpoint.name}")
    else:
        print_rank_zero(f"run folder {place.folder}")
