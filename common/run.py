"""The life of a run: seed, build, fit, test on the best checkpoint, pictures, summary."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger

from common.callbacks.activations import ActivationStats
from common.callbacks.gradients import GradientMonitor
from common.callbacks.progress import progress_callback
from common.callbacks.resume import ResumeCheckpoints
from common.callbacks.throughput import Throughput
from common.checkpoints import AtomicCheckpointIO, find_good, newest_first, read_checkpoint
from common.data import announce_sample
from common.device import check_devices, default_precision, device_name, keep_freed_memory
from common.errors import UserError
from common.loggers import csv_logger, log_picture, read_metrics, wandb_logger
from common.plots import draw_curves

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


def run(cli: CapstoneCLI) -> int:
    """Does what the parsed command line asks for; returns the exit code."""
    quiet_lightning()
    config, project = cli.config, cli.project
    options = config.trainer
    check_devices(options.accelerator, options.devices)
    if not torch.cuda.is_available():
        keep_freed_memory()
    if options.precision is None:
        options.precision = default_precision(options.accelerator)
    seed_everything(config.seed, workers=True, verbose=False)
    if config.debug:
        from common.debug import debug_run

        module, data, _ = build(cli)
        keep = ("accelerator", "precision")
        debug_run(config.debug, module, data, {"devices": 1, **{key: options[key] for key in keep}})
        return 0
    dry = bool(options.fast_dev_run)
    place = Run(Path(), None) if dry else open_run(project.name, config.name, config.resume, recipe_name(cli))
    module, data, trainer_options = build(cli)
    trainer_options["callbacks"] = trainer_options.get("callbacks") or []
    if not dry:
        prepare_trainer_options(cli, place, data, trainer_options)
    trainer = new_trainer(trainer_options)
    say_what_runs(project, place, data, module, trainer, dry)
    began = time.perf_counter()
    with warnings.catch_warnings():
        # what Lightning warns of here is by design: loaders without workers, and resuming inside an epoch
        for text in ("does not have many workers", "dataloader is not resumable", "exists and is not empty"):
            warnings.filterwarnings("ignore", f".*{text}.*")
        trainer.fit(module, datamodule=data, ckpt_path=None if place.checkpoint is None else str(place.checkpoint))
        best = None if dry else best_checkpoint(trainer)
        tested = trainer.test(module, datamodule=data, ckpt_path=best, verbose=False)
    if not dry and trainer.is_global_zero:
        figures = {name: value for result in tested for name, value in result.items()}
        finish(cli, place, data, trainer, figures, best, time.perf_counter() - began)
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
        UserError: a run of that name exists and is not to be resumed, or there is nothing to resume from.
    """
    first = int(os.environ.get("LOCAL_RANK", "0")) == 0 and int(os.environ.get("NODE_RANK", "0")) == 0
    if resume not in (None, "auto") and name is None:
        folder = Path(resume).resolve().parent.parent
        place = Run(Path(os.path.relpath(folder)), None)
    else:
        if name is None and resume == "auto":
            raise UserError("--resume auto: of which run? add --name")
        if name is None:
            name = os.environ.get(NAME_VARIABLE) or f"{recipe}-{datetime.now():%Y%m%d-%H%M%S}"
        os.environ[NAME_VARIABLE] = name
        place = Run(RUNS / project / name, None)
    if resume is None:
        if first and place.folder.exists() and any(place.folder.iterdir()):
            raise UserError(f"{place.folder} exists; choose another --name, or add --resume auto to continue it")
    else:
        place.checkpoint = find_resumable(resume, place, project)
    if first:
        place.checkpoints.mkdir(parents=True, exist_ok=True)
    return place


def find_resumable(resume: str, place: Run, project: str) -> Path:
    """The newest good checkpoint for `--resume auto`; for a path that one, or if it is damaged the newest beside it."""
    if resume == "auto":
        return find_good(newest_first(place.checkpoints), project, say)
    asked = Path(resume)
    if not asked.is_file():
        raise UserError(f"--resume {resume}: no such checkpoint; use a .ckpt file, or auto with --name")
    return find_good([asked, *(path for path in newest_first(asked.parent) if path != asked)], project, say)


def recipe_name(cli: CapstoneCLI) -> str:
    """The name of the recipe in use: that of the last configuration file."""
    files = cli.config.get("config") or []
    return Path(str(files[-1])).stem if files else "plain"


def prepare_trainer_options(cli: CapstoneCLI, place: Run, data: Any, options: dict[str, Any]) -> None:
    """Adds to the trainer's options what every run has: loggers, callbacks, plugins."""
    config, project = cli.config, cli.project
    source = data.resolve()
    if source.fell_back:
        announce_sample(data.HUB_ID, say)
    step = read_checkpoint(place.checkpoint)["global_step"] if place.checkpoint else None
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
    if getattr(data, "has_validation", True):
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
            callbacks.append(EarlyStopping(project.monitor, mode=project.mode, patience=config.patience))
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
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise UserError(" ".join(str(error).split())[:300]) from error


def best_checkpoint(trainer: Trainer) -> str | None:
    """The path of the best checkpoint, or None for the weights as they are."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.best_model_path:
            return callback.best_model_path
    return None


def say(text: str) -> None:
    """Prints a line, in the first process only."""
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        print(text, flush=True)


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


def finish(
    cli: CapstoneCLI,
    place: Run,
    data: Any,
    trainer: Trainer,
    test_figures: dict[str, float],
    best: str | None,
    seconds: float,
) -> None:
    """Draws the curves, writes `summary.json`, and prints the closing table."""
    rows = read_metrics(place.folder / "metrics.csv")
    if path := draw_curves(rows, place.plots / "curves.png"):
        log_picture(trainer, "curves", path)
    (place.folder / "hparams.yaml").unlink(missing_ok=True)  # Lightning's logger leaves it; config.yaml has it all
    throughput = next(c for c in trainer.callbacks if isinstance(c, Throughput))  # type: ignore[attr-defined]
    project = cli.project
    checkpoint = Path(best) if best else newest_first(place.checkpoints)[0]
    summary = {
        "project": project.name,
        "name": place.folder.name,
        "data_source": data.source_label,
        "recipe": recipe_name(cli),
        "seed": cli.config.seed,
        "test": test_figures,
        "best_validation": best_validation(rows, project.monitor, project.mode),
        "epochs": trainer.current_epoch,
        "steps": trainer.global_step,
        "train_seconds": round(throughput.seconds, 1),
        "wall_seconds": round(seconds, 1),
        "samples_per_second": round(throughput.samples_per_second, 1),
        "parameters": sum(p.numel() for p in trainer.lightning_module.parameters()),
        "device": device_name(trainer.strategy.root_device),
        "devices": trainer.world_size,
        "precision": trainer.precision,
        "checkpoint": checkpoint.name,
        "git_commit": git_commit(),
        "versions": {
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "lightning": lightning.__version__,
        },
    }
    (place.folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.summary.update({"perf/train_seconds": throughput.seconds})
            logger.experiment.finish()  # else the next run of this process would go on in this one
    print_summary(summary, place, checkpoint, fell_back=data.resolve().fell_back)


def best_validation(rows: list[dict[str, float]], monitor: str, mode: str) -> dict[str, float]:
    """The validation figures of the row that is best in `monitor`; empty if there was no validation."""
    with_monitor = [row for row in rows if monitor in row]
    if not with_monitor:
        return {}
    best = (max if mode == "max" else min)(with_monitor, key=lambda row: row[monitor])
    return {key: value for key, value in best.items() if key.startswith("val/")} | {"step": best["step"]}


def git_commit() -> str | None:
    """The commit of the working tree, with a `+` if it has changes; None outside of a repository."""
    try:
        command = ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


def print_summary(summary: dict[str, Any], place: Run, checkpoint: Path, fell_back: bool) -> None:
    """The last lines of a run: test figures, where everything is, and the command that goes on from here."""
    from rich.console import Console
    from rich.table import Table

    note = " (EMBEDDED SAMPLE, not the real data set)" if fell_back or summary["data_source"] == "sample" else ""
    table = Table(title=f"{summary['project']} on {summary['data_source']}{note}", title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in summary["test"].items():
        table.add_row(name, f"{value:.4f}")
    table.add_row("training seconds", f"{summary['train_seconds']:.0f}")
    table.add_row("samples a second", f"{summary['samples_per_second']:.0f}")
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    module = f"projects.{summary['project']}"
    for line in (
        f"run folder: {place.folder} (plots, metrics.csv, config.yaml, summary.json)",
        f"again:      python -m {module}.train --config {place.folder}/config.yaml",
        f"resume:     python -m {module}.train --name {place.folder.name} --resume auto --max_epochs N",
        f"predict:    python -m {module}.predict IMAGE --checkpoint {place.checkpoints / checkpoint.name}",
    ):
        console.print(line, markup=False)
