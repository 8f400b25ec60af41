"""Construction of a run: module, datamodule, callbacks, loggers and Trainer from the configuration."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping, LearningRateMonitor
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import nn

from common.callbacks.activations import ActivationStats
from common.callbacks.gradients import GradientMonitor
from common.callbacks.progress import progress_callbacks
from common.callbacks.restored import RestoredStates
from common.callbacks.resume import ResumeCheckpoints
from common.callbacks.throughput import Throughput
from common.data.sources import SourceDataModule
from common.errors import UserError, one_line
from common.io.checkpoints import AtomicCheckpointIO, check_data, read_checkpoint
from common.io.csv_metrics import count_steps_done, csv_logger
from common.io.files import remove_leftovers, write_text_atomically
from common.io.loggers import short_logger
from common.io.ranks import is_global_zero, print_rank_zero
from common.io.run_dir import RunDir
from common.io.wandb_run import wandb_logger
from common.project import RunRequest
from common.run.best import BestCheckpoint
from common.run.rendezvous import Rendezvous
from common.run.watch import ProcessWatch, RunFolderWatch
from common.trainer import logged_steps

WANDB_FLAGS = ("--wandb_artifact", "--tags", "--notes", "--group")


def build(
    request: RunRequest, run_dir: RunDir | None, extra_callbacks: Sequence[Callback], rendezvous: Rendezvous
) -> tuple[LightningModule, SourceDataModule, Trainer]:
    """Module, datamodule and Trainer. A dry run, without a run folder, has neither the run's loggers nor callbacks."""
    module, data, options = request.build(None if run_dir is None else run_dir.path)
    if isinstance(rendezvous.environment, SLURMEnvironment):  # without Lightning's own requeueing, see docs/clusters.md
        options["plugins"] = [*as_list(options["plugins"]), rendezvous.environment]
    check_trainer_options(options)
    if request.config.compile:
        compile_networks(module)
    options["callbacks"] = [*extra_callbacks, *as_list(options["callbacks"])]
    if run_dir is not None:
        if data.resolve().fell_back:
            print_rank_zero(
                f"NOTE: {data.HUB_ID} is neither cached nor reachable; training on the embedded SAMPLE instead. "
                "Its results are not the real data set's. Use --data.source FOLDER for a local copy."
            )
        resumed_step = rendezvous.broadcast(lambda: check_resumed(run_dir.checkpoint, data))
        if is_global_zero():
            for folder in (run_dir.path, run_dir.checkpoints, run_dir.plots):
                remove_leftovers(folder)
        options["callbacks"] += run_callbacks(request, run_dir, data, options["callbacks"])
        loggers = run_loggers(request, run_dir, data, resumed_step)
        if request.config.logger != "none":
            loggers += options["logger"]
        options["logger"] = list(map(count_steps_done, loggers))
        options["plugins"] = [*as_list(options["plugins"]), AtomicCheckpointIO(request.project.name)]
        options["profiler"] = profiler_into_file(options["profiler"])
        options["default_root_dir"] = str(run_dir.path)
        write_config(request, run_dir)
    return module, data, new_trainer(options)


def compile_networks(module: LightningModule, **options: Any) -> None:
    """Compiles the networks of `module`, in place: those that it names itself, else its parts that have parameters.

    Args:
        module: Its attribute `networks_to_compile`, if it has one, are those of its networks that can be compiled.
        options: Those of `torch.compile`.

    Raises:
        UserError: There is none.
    """
    parts = [part for part in module.children() if any(True for _ in part.parameters())]
    networks: list[nn.Module] = getattr(module, "networks_to_compile", parts)
    if not networks:
        raise UserError("--compile true: torch.compile cannot compile this network; leave it out")
    for network in networks:
        network.compile(**options)


def check_resumed(path: Path | None, data: SourceDataModule) -> int | None:
    """Steps done in the checkpoint that a run resumes from, None without one; before any file of the run is touched.

    Raises:
        UserError: It was trained on other data.
    """
    if path is None:
        return None
    checkpoint = read_checkpoint(path)
    check_data(checkpoint, data.fingerprint(), path)
    return logged_steps(checkpoint)


def as_list(value: Any) -> list[Any]:
    """Trainer argument that is one object, several, or None, as a list."""
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def check_trainer_options(options: dict[str, Any]) -> None:
    """Raises UserError for arguments of the Trainer that cannot work here."""
    if options["overfit_batches"]:
        raise UserError("--trainer.overfit_batches: every epoch has its own order; use --debug overfit for one batch")
    if options["default_root_dir"]:
        raise UserError("--trainer.default_root_dir: a run's files are in runs/PROJECT/NAME; choose NAME with --name")
    strategy = str(options["strategy"])
    if strategy.startswith(("ddp_spawn", "ddp_fork", "ddp_notebook")):
        raise UserError(f"--strategy {strategy}: open files of a run cannot be passed to processes; use ddp")
    if strategy.startswith(("fsdp", "deepspeed")):
        raise strategy_error(strategy)


def profiler_into_file(profiler: Profiler | str | None) -> Profiler | str | None:
    """Profiler whose report is a file of the run folder, as in `fit-profiler.txt`, if the user names no other."""
    kinds: dict[Any, type[Profiler]] = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}
    if isinstance(profiler, str) and profiler in kinds:
        profiler = kinds[profiler]()
    if isinstance(profiler, Profiler) and profiler.filename is None:
        profiler.filename = "profiler"
    return profiler


def run_callbacks(
    request: RunRequest, run_dir: RunDir, data: SourceDataModule, others: Sequence[Callback]
) -> list[Callback]:
    """Callbacks of every run, beside the user's `others`; best checkpoint and early stopping watch the monitored metric."""
    config, project, monitor = request.config, request.project, request.project.monitored(data)
    callbacks: list[Callback] = [
        *progress_callbacks(others),
        ProcessWatch(),
        RunFolderWatch(run_dir.path),
        RestoredStates(),
        Throughput(),
        GradientMonitor(run_dir.checkpoints),
        ActivationStats(),
        LearningRateMonitor(logging_interval="step"),
        *(plot_callback(run_dir.plots) for plot_callback in project.plot_callbacks),
    ]
    if getattr(data, "has_validation", True) and config.trainer.limit_val_batches != 0:
        callbacks.append(BestCheckpoint(run_dir.checkpoints, monitor, project.mode))
        if config.patience is not None:
            patience = int(config.patience)  # after a validation: an epoch that is cut short has none, and says nothing
            callbacks.append(EarlyStopping(monitor, mode=project.mode, patience=patience, check_on_train_epoch_end=False))
    elif config.patience is not None:
        raise UserError("--patience: there is no validation set to be patient about")
    # last: what the others have done at a batch's end is in the checkpoint
    return [*callbacks, ResumeCheckpoints(run_dir.checkpoints, project.name, config.checkpoint_every)]


def run_loggers(request: RunRequest, run_dir: RunDir, data: SourceDataModule, resumed_step: int | None) -> list[Logger]:
    """CSV logger, which goes on after the steps of the checkpoint resumed from, if any; W&B's, and that of `--logger`."""
    project, name = request.project, f"capstones-{request.project.name}"
    loggers: list[Logger] = [csv_logger(run_dir.path, resumed_step)]
    if request.config.logger in ("tensorboard", "mlflow") and is_global_zero():
        loggers.append(short_logger(request.config.logger, run_dir.path, name, resumed_step))
    given = [flag for flag in WANDB_FLAGS if flag in {arg.partition("=")[0] for arg in request.args}]
    if given and not request.config.wandb:  # a configuration of a run with W&B may be used without
        raise UserError(f"{given[0]}: there is no run of W&B that it is for; add --wandb")
    if request.config.wandb:
        summary_modes: dict[str, str] = {project.monitored(data): project.mode, "val/loss": "min"}
        config = json.loads(request.dump(request.config, format="json", skip_none=False))
        config["data/source"] = data.source_label
        labels = wandb_labels(request.config)
        loggers.append(wandb_logger(run_dir.path, name, summary_modes, config, **labels))
    return loggers


def wandb_labels(config: Namespace) -> dict[str, Any]:
    """W&B's tags, notes and group of a run; the group of a sweep's runs is their recipe."""
    tags = config.tags.split(",") if isinstance(config.tags, str) else config.tags
    in_sweep = "WANDB_SWEEP_ID" in os.environ and not os.environ.get("WANDB_RUN_GROUP")
    group = config.group or (config.recipe if in_sweep else None)
    return {"tags": tags and [tag.strip() for tag in tags if tag.strip()], "notes": config.notes, "group": group}


def new_trainer(options: dict[str, Any]) -> Trainer:
    """Trainer. Raises UserError, in one line, for options that Lightning rejects."""
    options = {
        **options,
        "enable_model_summary": False,
        "enable_progress_bar": any("ProgressBar" in type(c).__name__ for c in options["callbacks"]),
        "num_sanity_val_steps": 0 if options["num_sanity_val_steps"] is None else options["num_sanity_val_steps"],
        "use_distributed_sampler": False,  # the loaders shard the data themselves, without repeats
    }
    try:
        trainer = Trainer(**options)
    except (MisconfigurationException, ModuleNotFoundError, ValueError, TypeError) as error:
        raise UserError(one_line(error)) from error
    if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
        raise strategy_error(type(trainer.strategy).__name__)
    return trainer


def strategy_error(name: str) -> UserError:
    """Error for a strategy that splits the network."""
    return UserError(f"--strategy {name}: each process must hold the whole network, as in a checkpoint; use ddp")


def write_config(request: RunRequest, run_dir: RunDir) -> None:
    """Writes `config.yaml`, complete: `train --config` with it repeats the run."""
    if is_global_zero():
        config = request.config.clone()
        for key in ("config", "resume", "name"):
            config.pop(key, None)
        write_text_atomically(run_dir.path / "config.yaml", request.dump(config, skip_none=False, skip_check=True))
