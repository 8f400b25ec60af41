"""Evaluation: the test of a run, repeated for a checkpoint on the run's data or on others."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer

from common.data.sources import SourceDataModule
from common.errors import UserError, one_line
from common.io.checkpoints import build_module, content_errors, plain
from common.io.files import write_text_atomically
from common.nn.device import device_name
from common.project import EvaluationRequest
from common.run.build import new_trainer
from common.run.fit import expected_warnings_ignored
from common.run.run import quiet_lightning, set_up_device
from common.run.summary import git_commit, print_results, versions


def evaluate(request: EvaluationRequest) -> dict[str, float]:
    """Evaluates a checkpoint: prints the metrics, and writes `evaluation.json` and plots.

    Raises:
        UserError: The checkpoint, its data or the device are not usable, or the folder cannot be written.
    """
    config, checkpoint = request.config, request.checkpoint
    quiet_lightning()
    options = Namespace(accelerator=config.accelerator, devices=1, precision=config.precision)
    set_up_device(options, getattr(request.project.module, "default_precision", None))
    module = build_network(request)
    data = find_data(request)
    data.prepare_data()
    with content_errors(request.path, checkpoint):
        data.adapt_to(checkpoint)
    if config.split == "val" and not getattr(data, "has_validation", True):
        raise UserError("--split val: the data have no validation split, and none was held out of train")
    folder = choose_folder(request, data)
    data.evaluated_checkpoint = describe_checkpoint(request.path)
    trainer = evaluation_trainer(request, options, folder)
    create(folder)
    # the weights once more: in double precision, if that is the Trainer's
    trainer.precision_plugin.convert_module(module)
    module.load_state_dict(checkpoint["state_dict"])
    before: dict[str, Any] = {**getattr(module, "metadata", {})}
    with expected_warnings_ignored():
        run = trainer.test if config.split == "test" else trainer.validate
        metrics = dict(run(module, datamodule=data, verbose=False)[0])
    # of the evaluation alone: what else a module has, it knows of a training
    metadata = {key: value for key, value in getattr(module, "metadata", {}).items() if before.get(key) != value}
    write_results(request, folder, data, trainer, metrics, metadata)
    return metrics


def build_network(request: EvaluationRequest) -> LightningModule:
    """Module of the checkpoint, with the options of the command line. Raises UserError if they do not fit its weights."""
    try:
        return build_module(request.checkpoint, request.path, request.project.module, plain(request.config.model.as_dict()))
    except UserError as error:
        if not any(arg.startswith("--model") for arg in request.args):
            raise
        fault = "these options and the weights of the checkpoint do not fit each other"
        raise UserError(f"--model: {fault}: {one_line(error.__cause__ or error)}") from error


def find_data(request: EvaluationRequest) -> SourceDataModule:
    """Datamodule; of another source than the run's, all of it is evaluated if it has no split for that.

    The run's own data at another path are the run's: the fingerprint says so.
    """
    data, own = request.new_data(), request.checkpoint.get("data", {})
    if not request.is_other_source or (data.resolve().label == own.get("source") and data.fingerprint() == own):
        return data
    data = request.new_data()
    data.resolve().test_only = True
    return data


def run_folder(checkpoint: Path) -> Path:
    """Folder of the run that wrote a checkpoint; of one that lies elsewhere, its own."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent


def describe_checkpoint(path: Path) -> str:
    """Name of a checkpoint for captions, with its run where it lies in one."""
    run = run_folder(path.resolve())
    return f"run {run.parent.name}/{run.name}, {path.name}" if run != path.resolve().parent else path.name


def choose_folder(request: EvaluationRequest, data: SourceDataModule) -> Path:
    """Folder of the results; unset, one in the run folder's `evaluations`. Raises UserError if it is itself a run folder."""
    path, folder = request.path, request.config.to
    if folder is None:
        label = re.sub(r"[^\w.-]+", "-", data.source_label)
        folder = run_folder(path) / "evaluations" / f"{path.stem}-{label}-{request.config.split}"
    if any((folder / name).exists() for name in ("summary.json", "config.yaml", "checkpoints")):
        raise UserError(f"--to {folder}: a run folder, whose results stay as they are; name another folder")
    return folder


def create(folder: Path) -> None:
    """Creates the folder of the results. Raises UserError if it cannot be written."""
    try:
        (folder / "plots").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--to {folder}: {error.strerror or error}; name a folder that can be written") from error


def evaluation_trainer(request: EvaluationRequest, options: Namespace, folder: Path) -> Trainer:
    """Trainer of one device, with the plots of a run."""
    return new_trainer(
        {
            **options.as_dict(),
            "callbacks": [plot_callback(folder / "plots") for plot_callback in request.project.plot_callbacks],
            "logger": False,
            "enable_checkpointing": False,
            "num_sanity_val_steps": 0,
            "default_root_dir": str(folder),
        }
    )


def write_results(
    request: EvaluationRequest,
    folder: Path,
    data: SourceDataModule,
    trainer: Trainer,
    metrics: dict[str, float],
    metadata: dict[str, Any],
) -> None:
    """Writes `evaluation.json` and prints the table."""
    source, name = data.resolve(), request.project.name
    results = {
        "project": name,
        "checkpoint": str(request.path),
        "step": request.checkpoint.get("global_step"),
        "data_source": data.source_label,
        "data_path": str(Path(source.name).resolve()) if source.kind in ("folder", "file") else None,
        "command": f"python -m projects.{name}.evaluate {shlex.join(request.args)}",
        "split": request.config.split,
        "metrics": metrics,
        "metadata": metadata,
        "device": device_name(trainer.strategy.root_device),
        "precision": trainer.precision,
        "git_commit": git_commit(),
        "versions": versions(),
    }
    write_text_atomically(folder / "evaluation.json", json.dumps(results, indent=2) + "\n")
    print_results(name, data.source_label, source.kind == "sample", metrics, metadata)
    print(f"results: {folder} (plots, evaluation.json)")
