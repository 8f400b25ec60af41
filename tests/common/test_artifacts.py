"""A checkpoint that was uploaded to W&B is used by its name like one on this machine; what stands in the way is one line."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from wandb_reader import only_part

from common.errors import UserError
from common.io import artifacts
from common.io.artifacts import download_checkpoint, local_checkpoint, log_checkpoint
from common.io.checkpoints import load_module, read_checkpoint
from common.io.metrics import read_metrics
from common.io.wandb_run import closing_wandb, wandb_logger
from toy.module import ToyModule


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch, tmp_path):
    """No download of another test is known; this one's are in its own folder."""
    download_checkpoint.cache_clear()
    monkeypatch.chdir(tmp_path)


def upload(run_path: Path, checkpoint: Path) -> None:
    """Uploads a checkpoint as the artifact model-p-<name of the run>."""
    with closing_wandb():
        logger = wandb_logger(run_path, "p", {}, {})
        log_checkpoint(logger.experiment, checkpoint, run_path / "config.yaml", {})


@pytest.fixture
def run_path(tmp_path) -> Path:
    """A run folder with a configuration and something that looks like a checkpoint."""
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "config.yaml").write_text("seed: 0\n")
    (tmp_path / "r" / "x.ckpt").write_text("weights")
    return tmp_path / "r"


def test_uploaded_checkpoint_is_loaded_and_resumed_like_the_one_in_the_run_folder(train, wandb_server, copied):
    server = wandb_server()
    (best,) = copied.glob("checkpoints/best-*.ckpt")
    upload(copied, best)
    name = "wandb:e/p/model-p-full:best"
    module, _ = load_module(Path(name), ToyModule, "toy")
    expected = read_checkpoint(best)["state_dict"]
    assert all(torch.equal(value, expected[key]) for key, value in module.state_dict().items())
    assert local_checkpoint(name).is_relative_to("artifacts/e/p"), "where no artifact of another project is"

    rows = []
    for number, resume in enumerate((name, str(best))):  # each with the configuration beside it
        done = train("--resume", resume, "--name", f"b{number}", "--max_epochs", "4", alone=True)
        assert done.code == 0, done.err
        rows.append([row for row in read_metrics(done.run(f"b{number}") / "metrics.csv") if "train/loss" in row])
    losses = [[(row["step"], row["train/loss"]) for row in each] for each in rows]
    assert losses[0] == losses[1] and losses[0][-1][0] == 8
    assert server.requests.count("ArtifactMembershipByName") == 1


@pytest.mark.slow
def test_run_uploads_its_best_checkpoint(train, wandb_server):
    server = wandb_server()
    done = train("--name", "a", "--wandb", "--wandb_artifact")
    assert done.code == 0, done.err
    (best,) = done.run("a").glob("checkpoints/best-*.ckpt")
    found = server.artifacts["model-capstones-toy-a"]
    assert found["type"] == "model" and f'"step":{int(best.stem[5:])}' in found["metadata"]
    uploads = {path: body for path, body in server.uploads.items() if path.startswith("/artifact/")}
    assert uploads["/artifact/model-capstones-toy-a/checkpoints/" + best.name] == best.read_bytes()
    assert "W&B: checkpoint wandb:e/p/model-capstones-toy-a:best" in done.out.splitlines()


def test_offline_run_keeps_the_checkpoint_for_later(monkeypatch, run_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    upload(run_path, run_path / "x.ckpt")
    (artifact,) = only_part(run_path).artifacts
    assert (artifact["name"], artifact["type"]) == ("model-p-r", "model") and "best" in artifact["aliases"]
    paths = {entry["path"]: entry["local_path"] for entry in artifact["manifest"]["contents"]}
    assert paths["checkpoints/x.ckpt"] == str(run_path / "x.ckpt"), "wherever `wandb sync` is called"


def no_wandb(monkeypatch: Any, start: Any, folder: Path) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)


def no_server(monkeypatch: Any, start: Any, folder: Path) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")


def offline(monkeypatch: Any, start: Any, folder: Path) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")


def hanging(monkeypatch: Any, start: Any, folder: Path) -> None:
    monkeypatch.setattr(artifacts, "ANSWER_SECONDS", 0.5)
    start("hang", healthy="GetDefaultEntity")


def no_artifact(monkeypatch: Any, start: Any, folder: Path) -> None:
    start()


def no_checkpoint(monkeypatch: Any, start: Any, folder: Path) -> None:
    start()
    upload(folder, folder / "config.yaml")


LINES = {
    no_wandb: r"wandb cannot be imported \(.*\); reinstall it with `pip install wandb`",
    no_server: r"http://127.0.0.1:9 cannot be reached \(.*\)",
    offline: "WANDB_MODE is offline",
    hanging: "W&B's server has not answered in time; try again later",
    no_artifact: "artifact membership 'model-p-r:best' not found in 'e/p'",
    no_checkpoint: "holds 0 checkpoints; name an artifact of train --wandb_artifact",
}


@pytest.mark.parametrize("obstacle", [*LINES, None], ids=lambda obstacle: getattr(obstacle, "__name__", "no_key"))
def test_what_stands_in_the_way_is_one_line(monkeypatch, wandb_server, run_path, obstacle):
    if obstacle is not None:
        obstacle(monkeypatch, wandb_server, run_path)
    began = time.perf_counter()
    with pytest.raises(UserError) as caught:
        local_checkpoint("wandb:e/p/model-p-r:best")
    line = LINES.get(obstacle, r"no API key \(set WANDB_API_KEY or run `wandb login`\)")
    assert re.fullmatch(f"wandb:e/p/model-p-r:best: {line}", str(caught.value))
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize("name", ["wandb:x", "wandb:p/a:best", "wandb:e/p/a", "wandb:e/p/a/b:best", "wandb:"])
def test_name_that_is_none_is_one_line_before_anybody_is_asked(train, name):
    assert train("--resume", name).error == f"{name}: name it as wandb:ENTITY/PROJECT/ARTIFACT:ALIAS"
    assert not Path("runs").exists()


def test_upload_needs_a_run_of_wandb(train):
    for flag in (["--wandb_artifact"], ["--tags=a,b"], ["--notes", "x"], ["--group", "g"]):
        name = flag[0].partition("=")[0]
        assert train(*flag).error == f"{name}: there is no run of W&B that it is for; add --wandb"


def test_server_that_hangs_while_the_checkpoint_is_uploaded_costs_ten_seconds(run_path, monkeypatch, wandb_server, capsys):
    wandb_server("hang", healthy="UpsertBucket")
    monkeypatch.setattr("common.io.wandb_run.MAX_DELAY", 5.0)
    monkeypatch.setattr(artifacts, "UPLOAD_SECONDS", 0.5)
    began = time.perf_counter()
    upload(run_path, run_path / "x.ckpt")
    assert time.perf_counter() - began < 5
    _, reason, unfinished, _ = capsys.readouterr().out.splitlines()
    assert reason == "W&B: the checkpoint is not uploaded yet: its server is slow"
    assert unfinished.startswith("W&B: the upload has not finished")
