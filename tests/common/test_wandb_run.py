"""W&B's own file holds everything that a run logs, and W&B never hangs."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from jsonargparse import Namespace
from PIL import Image
from wandb_reader import WandbFile, ended, only_part, parts, synced

from common.errors import UserError
from common.io import wandb_run as loggers
from common.io.loggers import log_table
from common.io.metrics import read_metrics
from common.io.wandb_run import closing_wandb, wandb_logger
from common.io.wandb_server import stop_wandb
from common.run.build import wandb_labels

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


@pytest.fixture(scope="module")
def logged(full_run) -> WandbFile:
    assert full_run.code == 0, full_run.err
    return only_part(full_run.run("full"))


def test_run_without_a_key_prints_that_it_is_offline(full_run):
    lines = full_run.out.splitlines()
    (folder,) = synced(lines[0], full_run.folder)
    assert lines[0].startswith("W&B: offline, no API key")
    assert f"files in {folder.relative_to(full_run.folder)}; upload later with" in lines[0]
    assert [path.suffix for path in folder.glob("run-*")] == [".wandb"]
    assert lines[-1].startswith("W&B: offline; upload with `wandb sync ") and synced(lines[-1], full_run.folder) == [folder]


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
        assert ended(path)[-1]["exit"]["exit_code"] == (error is not None)


def test_wandb_variables_replace_the_runs_own_values(tmp_path, monkeypatch, capsys):
    values = {"PROJECT": "q", "NAME": "n", "RUN_ID": "i", "DIR": str(tmp_path / "w"), "MODE": "offline"}
    for name, value in values.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    (tmp_path / "w").mkdir()
    with closing_wandb():
        wandb_logger(tmp_path / "run", "p", {}, {})
    run = only_part(tmp_path / "w").run
    assert (run["project"], run["display_name"], run["run_id"]) == ("q", "n", "i")
    assert synced(capsys.readouterr().out)[0].parent == tmp_path / "w" / "wandb"


LABELS = {"entity": "someone", "tags": ["a", "b c"], "notes": "two words", "run_group": "g"}


def test_wandb_variables_label_a_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name, value in {"ENTITY": "someone", "TAGS": "a,b c", "NOTES": "two words", "RUN_GROUP": "g"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    stop_wandb()  # which reads the environment once
    with closing_wandb():
        wandb_logger(tmp_path, "p", {}, {}, **wandb_labels(Namespace(tags=None, notes=None, group=None, recipe="r")))
    stop_wandb()
    run = only_part(tmp_path).run
    assert {name: run[name] for name in LABELS} == LABELS


@pytest.mark.parametrize("tags", ["a, b c", ["a", "b c"]])
def test_flags_label_a_run_whatever_the_variables_say(tmp_path, monkeypatch, tags):
    for name, value in {"MODE": "offline", "TAGS": "x", "NOTES": "y", "RUN_GROUP": "z"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    with closing_wandb():
        wandb_logger(tmp_path, "p", {}, {}, **wandb_labels(Namespace(tags=tags, notes="two words", group="g", recipe="r")))
    found = only_part(tmp_path).run
    assert all(found[name] == LABELS[name] for name in ("tags", "notes", "run_group"))


def test_runs_of_a_sweep_are_grouped_by_their_recipe(monkeypatch):
    config = Namespace(tags=None, notes=None, group=None, recipe="r")
    assert wandb_labels(config)["group"] is None
    monkeypatch.setenv("WANDB_SWEEP_ID", "s")
    assert wandb_labels(config)["group"] == "r"
    monkeypatch.setenv("WANDB_RUN_GROUP", "mine")
    assert wandb_labels(config)["group"] is None, "W&B reads the variable itself"


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
        ids.add(only_part(folder).run["run_id"])
    assert len(ids) == 3 and "p-a b" in ids
    assert synced(capsys.readouterr().out)[0].parent == tmp_path / "a b" / "wandb"


def test_wandb_run_has_its_name_and_project(logged):
    assert (logged.run["project"], logged.run["display_name"]) == ("capstones-toy", "full")


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
    names = {key.split("/")[1].split(".")[0] for row in logged.history for key in row if key.startswith("plots/")}
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
    file = only_part(tmp_path)
    assert capsys.readouterr().out.startswith("W&B: offline, WANDB_MODE is offline")
    assert (file.summary["val/accuracy"], file.summary["val/loss"]) == ({"max": 0.9}, {"min": 1.0})
    assert file.summary["train/loss"] == 2.0
    assert [row["trainer/global_step"] for row in file.history] == [0, 10, 20]
    assert file.config["a"] == {"b": 1}


def test_table_keeps_its_images_and_texts(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    image = torch.randint(0, 2, (3, 5, 4), dtype=torch.uint8)  # dark, as fractions of one would be bright
    with closing_wandb():
        logger = wandb_logger(tmp_path, "p", {}, {})
        log_table(SimpleNamespace(loggers=[logger]), "test/mistakes", ["image", "label"], [[image, "$ant"]])
    (kept,) = only_part(tmp_path).artifacts
    files = {each["path"]: each["local_path"] for each in kept["manifest"]["contents"]}
    table = json.loads(Path(files["test/mistakes.table.json"]).read_text())
    assert table["columns"] == ["image", "label"] and table["data"][0][1] == "$ant"
    path = files[table["data"][0][0]["path"]]
    assert torch.equal(torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1), image)


# a run in several parts


def test_parts_of_a_run_that_resumes_offline_join_on_the_steps(train, copied):
    """The full run has ended with step 4; this one is killed after step 8, and continues from step 6."""
    flags = ("--name", "full", "--wandb", "--seed", "3", "--resume")
    assert train(*flags, "auto", "--max_epochs", "4").code == 0
    done = train(*flags, str(copied / "checkpoints" / "step-00000006.ckpt"), "--max_epochs", "5")
    assert done.code == 0, done.err
    first, second, third = parts(copied)
    assert {part.run["run_id"] for part in (first, second, third)} == {"capstones-toy-full"}
    rows = [row for part in (first, second, third) for row in part.history]
    assert [row["_step"] for row in rows] == list(range(len(rows))), "W&B's server tells rows apart by it"
    assert all("trainer/global_step" in row for row in rows), "also those of plots"

    def curve(part: WandbFile, name: str) -> list[tuple[int, float]]:
        return [(row["trainer/global_step"], row[name]) for row in part.history if name in row]

    for name in ("train/loss", "val/accuracy"):
        csv = [(row["step"], row[name]) for row in read_metrics(copied / "metrics.csv") if name in row]
        ends = [curve(part, name) for part in (first, second, third)]
        assert ends[0] + [point for point in ends[1] if point[0] <= 6] + ends[2] == csv
        assert [point for point in ends[1] if point[0] > 6] == [point for point in ends[2] if point[0] <= 8], (
            "the same again"
        )
    assert synced(done.out, done.folder) == [part.files_folder.parent for part in (first, second, third)]
