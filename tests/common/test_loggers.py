"""W&B's own file holds everything that a run logs, and W&B never hangs."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from common.errors import UserError
from common.io import loggers
from common.io.loggers import closing_wandb, wandb_logger
from common.io.metrics import read_metrics

# W&B: online or not


def test_malformed_key_is_one_line(wandb_server, monkeypatch, tmp_path):
    wandb_server()
    monkeypatch.setenv("WANDB_API_KEY", "short")
    with pytest.raises(UserError, match=r"--wandb: .*API key.*; set WANDB_MODE=offline") as caught:
        wandb_logger(tmp_path, "p", {}, {})
    assert "\n" not in str(caught.value)


def test_missing_wandb_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"--wandb: wandb cannot be imported \(.*\); reinstall it with `pip install wandb`"):
        wandb_logger(tmp_path, "p", {}, {})


def test_only_rank_0_has_a_wandb_run(monkeypatch, tmp_path, capsys):
    import wandb

    monkeypatch.setattr(loggers.rank_zero_only, "rank", 1)
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = wandb_logger(tmp_path, "p", {"val/loss": "min"}, {})
    logger.log_metrics({"val/loss": 1.0}, step=0)
    assert wandb.run is None and list(tmp_path.iterdir()) == [] and capsys.readouterr().out == ""


def test_disabled_wandb_writes_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with closing_wandb():
        wandb_logger(tmp_path, "p", {"val/loss": "min"}, {}).log_metrics({"val/loss": 1.0}, step=0)
    assert not list(tmp_path.rglob("*.wandb"))


# W&B: what is in its file


def records(path: Path) -> Iterator:
    """The records of a `.wandb` file: LevelDB's log format, blocks of 32 KiB after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        room = 32768 - at % 32768
        if room < 7:  # too little for a record's head: padding
            at += room
            continue
        size, kind = struct.unpack_from("<HB", data, at + 4)
        parts += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # the whole record, or its last part
            record = Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def ended(path: Path) -> list:
    """Its records; W&B's own process may still be writing them when the run has ended."""
    deadline = time.monotonic() + 30
    while True:
        found = list(records(path))
        if found and found[-1].WhichOneof("record_type") == "exit":
            return found
        assert time.monotonic() < deadline, f"the run in {path} was never ended"
        time.sleep(0.05)


def items(entries) -> dict:
    return {"/".join(entry.nested_key) or entry.key: json.loads(entry.value_json) for entry in entries}


class WandbFile:
    """A run, read back."""

    def __init__(self, run_folder: Path, mode: str = "offline-") -> None:
        (path,) = run_folder.glob(f"wandb/{mode}run-*/*.wandb")
        self.files_folder = path.parent / "files"
        self.history: list[dict] = []
        self.config: dict = {}
        self.summary: dict = {}
        self.files: list[str] = []
        for record in ended(path):
            kind = record.WhichOneof("record_type")
            if kind == "history":
                self.history.append(items(record.history.item))
            elif kind == "summary":
                self.summary |= items(record.summary.update)
            elif kind == "run":
                self.run = record.run
                self.config |= items(record.run.config.update)
            elif kind == "config":
                self.config |= items(record.config.update)
            elif kind == "files":
                self.files += [file.path for file in record.files.files]


def synced(out: str, cwd: Path = Path()) -> Path:
    """Folder that the last line of the output says how to upload."""
    command = re.search(r"with `(wandb sync .+)`$", out.strip())
    assert command, out
    return cwd / shlex.split(command[1])[-1]


@pytest.fixture(scope="module")
def logged(full_run) -> WandbFile:
    assert full_run.code == 0, full_run.err
    return WandbFile(full_run.run("full"))


def test_run_without_a_key_prints_that_it_is_offline(full_run):
    line = next(line for line in full_run.out.splitlines() if line.startswith("W&B"))
    assert line.startswith("W&B: offline, no API key")
    assert [path.suffix for path in synced(line, full_run.folder).glob("run-*")] == [".wandb"]


def test_wandb_run_is_finished_also_after_an_error(tmp_path, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    for error in (None, KeyboardInterrupt()):
        folder = tmp_path / type(error).__name__
        folder.mkdir()
        with contextlib.suppress(KeyboardInterrupt), closing_wandb():
            wandb_logger(folder, "p", {}, {})
            if error is not None:
                raise error
        assert wandb.run is None, "else the next run of this process would go on in this one"
        (path,) = folder.glob("wandb/offline-run-*/*.wandb")
        assert ended(path)[-1].exit.exit_code == (error is not None)


def test_wandb_variables_replace_the_runs_own_values(tmp_path, monkeypatch, capsys):
    values = {"PROJECT": "q", "NAME": "n", "RUN_ID": "i", "DIR": str(tmp_path / "w"), "MODE": "offline"}
    for name, value in values.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    (tmp_path / "w").mkdir()
    with closing_wandb():
        wandb_logger(tmp_path / "run", "p", {}, {})
    run = WandbFile(tmp_path / "w").run
    assert (run.project, run.display_name, run.run_id) == ("q", "n", "i")
    assert synced(capsys.readouterr().out).parent == tmp_path / "w" / "wandb"


def test_unknown_wandb_mode_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "garbage")
    with pytest.raises(UserError, match="WANDB_MODE 'garbage': use one of online, offline, disabled"):
        wandb_logger(tmp_path, "p", {}, {})


def test_wandb_run_of_any_name_has_an_id_of_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "offline")
    ids = set()
    for name in ("lr: 1", "lr# 1", "a b"):
        folder = tmp_path / name
        folder.mkdir()
        with closing_wandb():
            wandb_logger(folder, "p", {}, {})
        ids.add(WandbFile(folder).run.run_id)
    assert len(ids) == 3 and "p-a b" in ids
    assert synced(capsys.readouterr().out).parent == tmp_path / "a b" / "wandb"


def test_wandb_run_has_its_name_and_project(logged):
    assert (logged.run.project, logged.run.display_name) == ("capstones-toy", "full")


def test_the_whole_configuration_is_recorded(full_run, logged):
    written = yaml.safe_load((full_run.run("full") / "config.yaml").read_text())
    assert {key: logged.config[key] for key in written} == written
    assert logged.config["data/source"] == "sample"
    assert logged.config["seed"] == 3 and logged.config["trainer"]["precision"] == "32-true"


def test_the_history_has_what_metrics_csv_has(full_run, logged):
    rows = read_metrics(full_run.run("full") / "metrics.csv")
    history = [
        {"step" if key == "trainer/global_step" else key: value for key, value in row.items() if not key.startswith("_")}
        for row in logged.history
        if not any(key.startswith("plots/") for key in row)
    ]
    assert history == rows
    names = {key for row in logged.history for key in row}
    assert {"train/loss", "val/loss", "val/accuracy", "test/accuracy", "grad/norm", "perf/samples_per_second"} <= names
    assert any(name.startswith("lr-") for name in names) and any(name.startswith("act/dead/") for name in names)
    assert all("trainer/global_step" in row for row in logged.history)


def test_the_summary_keeps_the_best(logged):
    accuracies = [row["val/accuracy"] for row in logged.history if "val/accuracy" in row]
    losses = [row["val/loss"] for row in logged.history if "val/loss" in row]
    assert len(accuracies) == len(losses) == 2
    assert logged.summary["val/accuracy"] == {"max": max(accuracies)}
    assert logged.summary["val/loss"] == {"min": min(losses)}
    assert logged.summary["perf/train_seconds"] > 0


def test_plots_are_in_the_wandb_run(logged):
    names = {key.split("/")[1] for row in logged.history for key in row if key.startswith("plots/")}
    assert names == {"points", "curves"}
    images = [path for path in logged.files if path.endswith(".png")]
    assert len(images) == 2
    assert all((logged.files_folder / path).read_bytes().startswith(b"\x89PNG") for path in images)


def test_summary_keeps_the_best_where_it_is_not_the_last(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = wandb_logger(tmp_path, "p", {"val/accuracy": "max", "val/loss": "min"}, {"a": {"b": 1}})
    for step, (accuracy, loss) in enumerate([(0.1, 3.0), (0.9, 1.0), (0.5, 2.0)]):
        logger.log_metrics({"val/accuracy": accuracy, "val/loss": loss, "train/loss": loss}, step=10 * step)
    logger.experiment.finish()
    file = WandbFile(tmp_path)
    assert capsys.readouterr().out.startswith("W&B: offline, WANDB_MODE is offline")
    assert (file.summary["val/accuracy"], file.summary["val/loss"]) == ({"max": 0.9}, {"min": 1.0})
    assert file.summary["train/loss"] == 2.0
    assert [row["trainer/global_step"] for row in file.history] == [0, 10, 20]
    assert file.config["a"] == {"b": 1}
