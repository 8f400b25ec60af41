"""Loggers of a run besides `metrics.csv`: the user's own, with their files in the run folder, and what all are shown."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CometLogger, LitLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from PIL import Image
from torch import Tensor

from common.errors import UserError
from common.io.artifacts import log_checkpoint
from common.io.connectivity import reachable
from common.io.wandb_run import attempt
from common.options import instantiate_plain

PACKAGES = {  # of the loggers that Lightning brings without their packages
    TensorBoardLogger: "tensorboard",
    MLFlowLogger: "mlflow",
    CometLogger: "comet-ml",
    LitLogger: "litlogger",
}
MLFLOW_ENVIRONMENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "WARNING"}  # unless the user's differs


def short_logger(name: str, run_path: Path, project: str, resumed_step: int | None) -> Logger:
    """Logger of `--logger`, `tensorboard` or `mlflow`: a run that resumes goes on in its own log.

    Args:
        name: The flag's value.
        run_path: The run folder.
        project: MLflow's experiment.
        resumed_step: Steps done in the checkpoint that the run resumes from, None without one.
    """
    if name == "tensorboard":
        # what an earlier process has logged after the checkpoint is hidden
        purge_step = None if resumed_step is None else resumed_step + 1
        folder = {"save_dir": run_path, "name": "", "version": "tensorboard"}
        return new_logger(run_path, TensorBoardLogger, **folder, default_hp_metric=False, purge_step=purge_step)
    run_id = None if resumed_step is None else latest_mlflow_run(run_path, project)
    return new_logger(run_path, MLFlowLogger, experiment_name=project, run_name=run_path.name, run_id=run_id)


def new_logger(run_path: Path | None, logger_class: type[Logger], *args: Any, **options: Any) -> Logger:
    """Logger as the parser instantiates it, with its files in the run folder where its options name no other place.

    Raises:
        UserError: Its package is missing, or its server cannot be reached.
    """
    if options.get("save_dir") == "":  # the parser's default
        options["save_dir"] = str(run_path or "")
    if issubclass(logger_class, MLFlowLogger):
        options |= mlflow_places(options.get("tracking_uri"), run_path)
    with missing_package_named(logger_class):
        return instantiate_plain(logger_class, *args, **options)


@contextmanager
def missing_package_named(logger_class: type[Logger]) -> Iterator[None]:
    """Context in which a package that the logger needs, and that is missing, is a UserError with the way to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = PACKAGES.get(logger_class, error.name)
        name = logger_class.__name__
        raise UserError(f"{name}: {package} cannot be imported; install it with `pip install {package}`") from error


def mlflow_places(uri: str | None, run_path: Path | None) -> dict[str, str | None]:
    """Tracking URI of MLflow, `uri` or MLFLOW_TRACKING_URI, else a database in the run folder, and a folder for its files.

    Raises:
        UserError: Its server cannot be reached; MLflow itself would try for minutes.
    """
    for name, value in MLFLOW_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if uri := uri or os.environ.get("MLFLOW_TRACKING_URI"):
        if uri.startswith(("http://", "https://")) and not reachable(uri):
            raise UserError(f"MLflow: {uri} cannot be reached; start the server, or unset MLFLOW_TRACKING_URI")
        return {"tracking_uri": uri}
    if run_path is None:
        return {}
    folder = run_path.resolve()
    return {"tracking_uri": f"sqlite:///{folder}/mlflow.db", "artifact_location": (folder / "mlflow").as_uri()}


def latest_mlflow_run(run_path: Path, experiment: str) -> str | None:
    """Id of MLflow's latest run with the name of the run folder, None if there is none."""
    with missing_package_named(MLFlowLogger):
        from mlflow.tracking import MlflowClient

    client = MlflowClient(mlflow_places(None, run_path)["tracking_uri"])
    found = client.get_experiment_by_name(experiment)
    name = run_path.name.replace("'", "\\'")
    runs = found and client.search_runs([found.experiment_id], f"attributes.run_name = '{name}'", max_results=1)
    return runs[0].info.run_id if runs else None


def log_plot(trainer: Trainer, name: str, path: Path) -> None:
    """Logs an image file as `plots/<name>` to every logger that takes images."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            pixels = np.asarray(Image.open(path).convert("RGB"))  # (height, width, 3)
            logger.experiment.add_image(f"plots/{name}", pixels, trainer.global_step, dataformats="HWC")
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_artifact(logger.run_id, str(path), "plots")
        elif isinstance(logger, CometLogger):
            logger.experiment.log_image(str(path), f"plots/{name}", step=trainer.global_step)
        elif hasattr(logger, "log_image"):  # as W&B's logger, and loggers of one's own
            logger.log_image(f"plots/{name}", [str(path)])


def log_table(trainer: Trainer, name: str, header: list[str], rows: list[list[Any]]) -> None:
    """Logs a table to W&B, if the run has it. A cell may be an image, (3, height, width) uint8."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            import wandb

            def cell(value: Any) -> Any:
                if isinstance(value, Tensor):
                    return wandb.Image(Image.fromarray(value.permute(1, 2, 0).cpu().numpy()))
                return value

            logger.log_table(name, columns=header, data=[list(map(cell, row)) for row in rows])


def log_model(trainer: Trainer, path: Path, config: Path, metadata: dict[str, Any]) -> None:
    """Logs a checkpoint to W&B as a model artifact, if the run has it; for the arguments see `log_checkpoint`."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            attempt(logger, partial(log_checkpoint, logger.experiment, path, config, metadata))


def log_summary(trainer: Trainer, values: dict[str, float]) -> None:
    """Adds values to W&B's summary, if the run has it."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            attempt(logger, partial(logger.experiment.summary.update, values))
