"""Any logger and callback is added to the run's own; loggers write into the run folder, and get the plots."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from lightning.pytorch.loggers import CometLogger
from PIL import Image

from common.io.loggers import log_plot
from common.io.metrics import Row, read_metrics

OF_COMMAND_LINE = ("--trainer.logger+=CSVLogger", "--trainer.logger.name=own", "--trainer.logger.flush_logs_every_n_steps=1")


def metrics(folder: Path) -> list[Row]:
    return read_metrics(folder / "metrics.csv")


def test_logger_and_callback_of_the_command_line_are_added(train):
    checkpoint = (
        "--trainer.callbacks+=ModelCheckpoint",
        "--trainer.callbacks.dirpath=mine",
        "--trainer.callbacks.filename=x",
    )
    done = train(*OF_COMMAND_LINE, *checkpoint, "--name", "a")
    assert done.code == 0, done.err
    own = done.run("a") / "own"
    assert metrics(own / "version_0") == metrics(done.run("a")) and (done.folder / "mine" / "x.ckpt").is_file()
    assert any(done.run("a").glob("checkpoints/best-*.ckpt"))
    saved = yaml.safe_load((done.run("a") / "config.yaml").read_text())["trainer"]
    assert saved["logger"][0]["init_args"]["save_dir"] == "", "else the configuration would write into this run's folder"
    resumed = train("--name", "a", "--resume", "auto", "--trainer.callbacks", "null", "--max_epochs", "3", alone=True)
    assert resumed.code == 0, resumed.err
    assert {row["step"] for row in metrics(own / "version_1")} == {5, 6}


@pytest.fixture
def config(tmp_path) -> str:
    """A configuration with two loggers, one with a folder of its own."""
    loggers = [
        {"class_path": "CSVLogger", "init_args": {"name": "a"}},
        {"class_path": "CSVLogger", "init_args": {"name": "b", "save_dir": "mine"}},
    ]
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({"trainer": {"logger": loggers, "max_epochs": 1, "log_every_n_steps": 1}}))
    return str(path)


def test_loggers_of_a_configuration_and_of_the_command_line_are_added(train, config):
    done = train("--config", config, *OF_COMMAND_LINE, "--name", "x")
    assert done.code == 0, done.err
    folders = [done.run("x") / "a", done.folder / "mine" / "b", done.run("x") / "own"]
    assert all(metrics(folder / "version_0") == metrics(done.run("x")) for folder in folders)


def test_none_is_metrics_csv_alone(train, config):
    done = train("--config", config, "--logger", "none", "--name", "x")
    assert done.code == 0, done.err
    assert metrics(done.run("x")) and not (done.run("x") / "a").exists() and not (done.folder / "mine").exists()


@pytest.mark.parametrize("name, package", [("TensorBoardLogger", "tensorboard"), ("MLFlowLogger", "mlflow")])
@pytest.mark.parametrize("is_short", [True, False])
def test_missing_package_is_one_line(train, monkeypatch, is_short, name, package):
    def fail(*args: Any, **options: Any) -> None:
        raise ModuleNotFoundError(f"No module named {package}")

    monkeypatch.setattr("common.io.loggers.instantiate_plain", fail)
    flags = ("--logger", package) if is_short else ("--trainer.logger", name)
    assert train(*flags).error == f"{name}: {package} cannot be imported; install it with `pip install {package}`"


@pytest.mark.parametrize("flags", [("--logger", "mlflow"), ("--trainer.logger", "MLFlowLogger")])
def test_server_of_mlflow_that_is_down_is_one_line(train, monkeypatch, flags):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    line = "MLflow: http://127.0.0.1:9 cannot be reached; start the server, or unset MLFLOW_TRACKING_URI"
    assert train(*flags).error == line


def test_unknown_short_name_is_one_line(train):
    assert "--logger" in (error := train("--logger", "wandb").error) and "mlflow" in error


class Own:
    """Logger of one's own, with W&B's `log_image`."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def log_image(self, *args: Any) -> None:
        self.calls.append(args)


class Comet(CometLogger):
    """Comet's logger without its package."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    @property
    def experiment(self) -> Any:
        return SimpleNamespace(log_image=lambda path, name, step: self.calls.append((path, name, step)))


def test_plots_go_to_every_logger_that_takes_images():
    own, comet = Own(), Comet()
    trainer = SimpleNamespace(loggers=[object(), own, comet], global_step=7)
    log_plot(trainer, "curves", Path("plots/curves.png"))
    assert own.calls == [("plots/curves", ["plots/curves.png"])]
    assert comet.calls == [("plots/curves.png", "plots/curves", 7)]


@pytest.fixture
def resumed(train) -> Any:
    """Runs with `flags` to step 4, and again from step 2 to step 6; the run folder."""

    def run(*flags: str) -> Path:
        done = train("--name", "a", *flags)
        assert done.code == 0, done.err
        for path in done.run("a").glob("checkpoints/*-00000004.ckpt"):
            path.unlink()
        done = train("--name", "a", "--resume", "auto", "--max_epochs", "3", *flags)
        assert done.code == 0, done.err
        return done.run("a")

    return run


def test_tensorboard_has_metrics_and_plots_of_a_resumed_run(resumed):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = resumed("--logger", "tensorboard")
    events = EventAccumulator(str(folder / "tensorboard"), {"images": 0, "scalars": 0}).Reload()
    for name in ("train/loss", "val/accuracy"):
        expected = {row["step"]: np.float32(row[name]) for row in metrics(folder) if name in row}
        assert [(event.step, event.value) for event in events.Scalars(name)] == list(expected.items())
    image = events.Images("plots/points")[-1]
    assert (image.step, image.width, image.height) == (6, *Image.open(folder / "plots" / "points.png").size)


@pytest.mark.slow
def test_mlflow_has_metrics_and_plots_of_a_resumed_run_in_one_run(resumed):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    folder = resumed("--logger", "mlflow")
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("capstones-toy")
    assert experiment.artifact_location == (folder / "mlflow").as_uri()
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "a" and run.info.status == "FINISHED"
    expected = {row["step"]: row["train/loss"] for row in metrics(folder) if "train/loss" in row}
    assert {each.step: each.value for each in client.get_metric_history(run.info.run_id, "train/loss")} == expected
    path = client.download_artifacts(run.info.run_id, "plots/points.png")
    assert Path(path).read_bytes() == (folder / "plots" / "points.png").read_bytes()
