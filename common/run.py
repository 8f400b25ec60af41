"""The life of a run: seed, build, fit, test on the best checkpoint, pictures, summary."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, EarlyStopping, LearningRateMonitor, ModelCheckpoint

from common.callbacks.activations import ActivationStats
from common.callbacks.gradients import GradientMonitor
from common.callbacks.progress import progress_callback
from common.callbacks.resume import ResumeCheckpoints
from common.callbacks.throughput import Throughput
from common.checkpoints import AtomicCheckpointIO, find_good, logged_steps, newest_first, read_checkpoint
from common.data import announce_sample
from common.device import check_devices, check_precision, default_precision, keep_freed_memory, stop_looking_for_gpus
from common.errors import UserError
from common.loggers import closing_wandb, csv_logger, wandb_logger
from common.summary import write_summary
from common.terminal import say

if TYPE_CHECKING:
    from common.cli import CapstoneCLI, Project

RUNS = Path("runs")
NAME_VARIABLE = "CAPSTONES_RUN_NAME"  # how the first process tells the run's name to those that it starts


@dataclass
class Run:
    """A run's place on disk and what it continues from, if anything."""

    folder: Path
    checkpoint: Path | None

    @property
    def checkpoints(self) -> Path:
        """The folder of its checkpoints."""
        return self.folder / "checkpoints"

    @property
    def plots(self) -> Path:
        """The folder of its pictures."""
        return self.folder / "plots"


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
        # some or all epochs, short epochs (see `is_log_step`)
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


def build(cli: CapstoneCLI) -> tuple[LightningModule, LightningDataModule, dict[str, Any]]:
    """Makes module and data from the configuration; returns them with the trainer's options."""
    objects = cli.parser.instantiate_classes(cli.config)
    return objects.model, objects.data, dict(objects.trainer)


def open_run(project: str, name: str | None, resume: str | None, recipe: str) -> Run:
    """Settles the run's folder and what it resumes from, and makes the folder.

    Raises:
        UserError: another run of that name exists, or there is nothing to resume from.
    """
    first = int(os.environ.get("LOCAL_RANK", "0")) == 0 and int(os.environ.get("NODE_RANK", "0")) == 0
    if resume not in (None, "auto") and name is None:
        folder = Path(resume).resolve().parent.parent
        place = Run(Path(os.path.relpath(folder)), None)
    else:
        if name is None and resume == "auto":
            raise UserError("--resume auto: of which run? add --name")
        if name is None:
            name = f"{recipe}-{datetime.now():%Y%m%d-%H%M%S}"
            name = claim_name(RUNS / project, name) if first else os.environ.get(NAME_VARIABLE, name)
        os.environ[NAME_VARIABLE] = name
        place = Run(RUNS / project / name, None)
    if resume is not None:
        place.checkpoint = find_resumable(resume, place, project)
    continues_itself = place.checkpoint is not None and place.checkpoint.resolve().parent == place.checkpoints.resolve()
    if first and not continues_itself and holds_a_run(place):
        raise UserError(f"{place.folder} exists; choose another --name, or add --resume auto to continue it")
    if first:
        place.checkpoints.mkdir(parents=True, exist_ok=True)
    return place


def claim_name(folder: Path, name: str) -> str:
    """`name`, with a number behind it if a run that began in the same second has it; makes the run's folder."""
    numbered, number = name, 1
    while True:
        try:
            (folder / numbered).mkdir(parents=True)
            return numbered
        except FileExistsError:
            number += 1
            numbered = f"{name}-{number}"


def holds_a_run(place: Run) -> bool:
    """Whether there is anything in the run's folder but what a start that failed on its settings has left there."""
    return (place.folder / "metrics.csv").exists() or any(place.checkpoints.glob("*"))


def find_resumable(resume: str, place: Run, project: str) -> Path:
    """The newest good checkpoint for `--resume auto`; for a path that one, or if it is damaged the newest beside it."""
    if resume == "auto":
        return find_good(newest_first(place.checkpoints), project, say)
    asked = Path(resume)
    if not asked.is_file():
        raise UserError(f"--resume {resume}: no such checkpoint; use a .ckpt file, or auto with --name")
    return find_good([asked, *(path for path in newest_first(asked.parent) if path != asked)], project, say)


def prepare_trainer_options(cli: CapstoneCLI, place: Run, data: Any, options: dict[str, Any]) -> None:
    """Adds to the trainer's options what every run has: loggers, callbacks, plugins."""
    config, project = cli.config, cli.project
    source = data.resolve()
    if source.fell_back:
        announce_sample(data.HUB_ID, say)
    step = logged_steps(read_checkpoint(place.checkpoint)) if place.checkpoint else None
    loggers: list[Any] = [csv_logger(place.folder, step)]
    if config.wandb:
        best: dict[str, str] = {project.monitor: project.mode, "val/loss": "min"}
        recorded = {
            **json.loads(cli.parser.dump(config, format="json", skip_none=False)),
            "data/source": data.source_label,
        }
        try:
            loggers.append(wandb_logger(place.folder, f"capstones-{project.name}", best, recorded, say))
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
        *(make(place.plots) for make in project.pictures),
    ]
    if getattr(data, "has_validation", True) and config.trainer.limit_val_batches != 0:
        best = ModelCheckpoint(
            place.checkpoints,
            filename="best-{step:08d}",
            monitor=project.monitor,
            mode=project.mode,
            auto_insert_metric_name=False,
            save_on_train_epoch_end=True,
        )
        callbacks.append(best)
        if config.patience is not None:
            callbacks.append(EarlyStopping(project.monitor, mode=project.mode, patience=int(config.patience)))
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
    say(
        f"{project.name}: {parameters:,} parameters, data {data.source_label}, "
        f"{trainer.num_devices * trainer.num_nodes} x {trainer.strategy.root_device.type}, precision {trainer.precision}"
    )
    if dry:
        say("dry run: one batch of everything, nothing is written")
    elif place.checkpoint is not None:
        say(f"resuming {place.folder} from {place.checkpoint.name}")
    else:
        say(f"run folder {place.folder}")


def write_config(cli: CapstoneCLI, place: Run) -> None:
    """Writes `config.yaml`, complete: `train --config` with it does the same run again."""
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        config = cli.config.clone()
        for key in ("config", "resume", "name"):
            config.pop(key, None)
        (place.folder / "config.yaml").write_text(cli.parser.dump(config, skip_none=False, skip_check=True))
