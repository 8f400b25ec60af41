"""Training run: seed, build, fit, test on the best checkpoint, summarize."""

from __future__ import annotations

import logging
import shlex
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback

from common.data.sources import SourceDataModule
from common.errors import UserError
from common.io.attempts import attempt_watched, count_attempt
from common.io.disk import disk_error
from common.io.locks import locks_released
from common.io.ranks import print_rank_zero
from common.io.run_dir import ALLOW, RunDir, open_run_dir, removed_on_error
from common.io.signals import handle_stop_signals, stop_now, stop_signals_handled
from common.io.wandb_run import closing_wandb
from common.nn.allocator import keep_freed_memory
from common.nn.device import check_devices, check_precision, default_precision, set_cuda_defaults, stop_looking_for_gpus
from common.project import RunRequest
from common.run.build import build
from common.run.fit import best_checkpoint, end_reason, expected_warnings_ignored, fit, test
from common.run.rendezvous import Rendezvous, decisions_forgotten, find_cluster_environment, set_processes
from common.run.summary import summarize
from common.run.watch import lost_processes_named, watch_launcher
from common.trainer import epochs_begun


def run(request: RunRequest, extra_callbacks: Sequence[Callback] = ()) -> None:
    """Trains, tests and summarizes; with `--debug` checks the model instead.

    Args:
        request: Project and configuration.
        extra_callbacks: Callbacks in front of the run's own.

    Raises:
        UserError: A setting, a path or the device is not usable.
        Preempted: The process received SIGTERM; the state is saved.
    """
    config = request.config
    quiet_lightning()
    set_up_device(config.trainer, getattr(request.project.module, "default_precision", None))
    seed_everything(config.seed, workers=True, verbose=False)
    if config.debug:
        debug(request)
        return
    with stop_signals_handled(), decisions_forgotten(), locks_released(), closing_wandb() if config.wandb else nullcontext():
        train_and_test(request, extra_callbacks)


def quiet_lightning() -> None:
    """Silences Lightning's hints about its services and devices, and flushes every line, also into a pipe."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.WARNING)
        for handler in logger.handlers:  # made while Lightning was imported, before the command had its streams
            if type(handler) is logging.StreamHandler:  # Lightning's; others of that class write elsewhere
                handler.stream = sys.stderr
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", "The `srun` command is available")  # SLURM's tools are no sign of a job
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)


def set_up_device(options: Any, precision: str | None = None) -> None:
    """Checks the Trainer's devices and precision; unset, that is `precision`, the module's own, or the device's default."""
    check_devices(options.accelerator, options.devices)
    if not torch.cuda.is_available():
        keep_freed_memory()
    stop_looking_for_gpus()
    if options.precision is None:
        options.precision = precision or default_precision(options.accelerator)
    else:
        check_precision(str(options.precision), options.accelerator)
    set_cuda_defaults(str(options.precision))


def debug(request: RunRequest) -> None:
    """Runs one of the checks of `common.debug`, on one device."""
    from common.debug import debug_run

    module, data, options = request.build()
    debug_options = {"devices": 1, "accelerator": options["accelerator"], "precision": options["precision"]}
    try:
        debug_run(request.config.debug, module, data, debug_options)
    finally:
        data.teardown("fit")


def train_and_test(request: RunRequest, extra_callbacks: Sequence[Callback]) -> None:
    """Build, fit, test on the best checkpoint, summarize. A dry run (`--fast_dev_run`) has no run folder."""
    config, project = request.config, request.project
    environment = find_cluster_environment()
    handle_stop_signals(stop_now(None))
    rendezvous = Rendezvous(environment, *set_processes(config.trainer, environment))
    watch_launcher(environment, rendezvous.rank)
    with rendezvous:
        config = share_config(request, rendezvous)
        run_dir = None if config.trainer.fast_dev_run else shared_run_dir(request, rendezvous)
        handle_stop_signals(stop_now(None if run_dir is None else run_dir.checkpoints))
        with disk_errors_named(run_dir), removed_on_error(run_dir):
            module, data, trainer = build(request, run_dir, extra_callbacks, rendezvous)
            if run_dir is not None:
                rendezvous.broadcast(lambda: count_attempt(run_dir, config.resume == ALLOW))
    print_run_header(project.name, run_dir, module, data, trainer)
    start = time.perf_counter()
    with expected_warnings_ignored(), lost_processes_named(), attempt_watched(run_dir), disk_errors_named(run_dir):
        with removed_on_error(run_dir):
            fit(trainer, module, data, run_dir)
        if run_dir is not None:
            print_rank_zero(f"training ended after epoch {epochs_begun(trainer)}: {end_reason(trainer)}")
        best = best_checkpoint(trainer, run_dir)
        test_metrics = test(trainer, module, data, best)
        if run_dir is not None and trainer.is_global_zero:
            summarize(request, run_dir, data, trainer, test_metrics, best, time.perf_counter() - start)


def share_config(request: RunRequest, rendezvous: Rendezvous) -> Namespace:
    """Configuration of rank zero, in all processes: other nodes may lack the run's config.yaml, or have other defaults."""
    own = request.config.clone()
    own.pop("config", None)
    text = request.dump(own, skip_none=False, skip_check=True)
    shared = rendezvous.broadcast(lambda: text)
    if shared != text:
        request.config = request.adopt(shared)
    return request.config


def shared_run_dir(request: RunRequest, rendezvous: Rendezvous) -> RunDir:
    """Run folder that rank zero has opened for the flags, in all processes."""
    config = request.config

    def decide() -> list[Any]:
        opened = open_run_dir(request.project.name, config.name, config.resume, config.recipe)
        return [str(opened.path), None if opened.checkpoint is None else str(opened.checkpoint), opened.is_new]

    path, checkpoint, is_new = rendezvous.broadcast(decide)
    return RunDir(Path(path), None if checkpoint is None else Path(checkpoint), is_new)


@contextmanager
def disk_errors_named(run_dir: RunDir | None) -> Iterator[None]:
    """Context in which a full disk, or a run folder that is gone, is a UserError with the flags that continue the run."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        line = disk_error(error, None if run_dir is None else run_dir.path)
        if line is None:
            raise
        if run_dir is not None:
            resume = "auto"
            with suppress(OSError):  # of a disk that cannot even be read
                resume = "auto" if any(run_dir.checkpoints.glob("*.ckpt")) else ALLOW
            line += f", and continue with --name {shlex.quote(run_dir.path.name)} --resume {resume}"
        raise UserError(line) from error


def print_run_header(
    name: str, run_dir: RunDir | None, module: LightningModule, data: SourceDataModule, trainer: Trainer
) -> None:
    """Prints the first lines of a run: size, data, devices, precision, run folder."""
    parameters = sum(p.numel() for p in module.parameters())
    print_rank_zero(
        f"{name}: {parameters:,} parameters, data {data.source_label}, "
        f"{trainer.num_devices * trainer.num_nodes} x {trainer.strategy.root_device.type}, precision {trainer.precision}"
    )
    if run_dir is None:
        print_rank_zero("dry run: one batch of everything, nothing is written")
    elif run_dir.checkpoint is not None:
        print_rank_zero(f"resuming {run_dir.path} from {run_dir.checkpoint.name}")
    else:
        print_rank_zero(f"run folder {run_dir.path}")
    if trainer.world_size > 1:
        option, size = data.BATCH_OPTION, getattr(data, data.BATCH_OPTION)
        print_rank_zero(f"--data.{option} is of one process: {trainer.world_size} x {size} in a step")
