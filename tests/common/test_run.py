"""Training run: what it writes, what it resumes from, and its one-line errors."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from common.cli.parser import CapstoneCLI
from common.compare.records import read_runs
from common.io.metrics import read_metrics
from common.io.run_dir import unique_name
from toy.train import PROJECT

# the run folder


def test_a_plot_that_fails_costs_no_result(train, monkeypatch):
    def fail(rows, path, *options):
        assert (path.parent.parent / "summary.json").is_file(), "the summary is written first"
        raise ValueError("no ink")

    monkeypatch.setattr("common.run.summary.draw_curves", fail)
    done = train("--name", "a", "--max_epochs", "1")
    assert done.code == 0 and "curves.png: not drawn: no ink\n" in done.out and "test/accuracy" in done.out


def test_the_summary_has_the_path_of_a_file(train, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.csv").write_text("x\n1\n2\n")
    assert train("--name", "a", "--max_epochs", "1", "--data.source", "a/x.csv").code == 0
    summary = json.loads((tmp_path / "runs" / "toy" / "a" / "summary.json").read_text())
    assert (summary["data_source"], summary["data_path"]) == ("x.csv", str(tmp_path / "a" / "x.csv"))


def test_markup_in_the_name_of_the_data_is_printed_as_it_is(train, monkeypatch):
    monkeypatch.setattr("toy.data.ToyData.source_label", "[/b] :smile:")
    done = train("--name", "a", "--max_epochs", "1")
    assert done.code == 0 and "toy on [/b] :smile:" in done.out


def test_run_writes_everything_into_its_directory(full_run):
    assert full_run.code == 0 and full_run.err == ""
    folder = full_run.run("full")
    assert {path.name for path in folder.iterdir()} == {
        ".lock",
        "checkpoints",
        "config.yaml",
        "metrics.csv",
        "plots",
        "summary.json",
        "wandb",
    }
    assert sorted(path.stem for path in (folder / "plots").glob("*.png")) == ["curves", "points"]
    steps = [path.name for path in (folder / "checkpoints").glob("step-*")]
    assert sorted(steps) == ["step-00000002.ckpt", "step-00000004.ckpt"]
    assert [path.name for path in full_run.folder.iterdir() if path.name != "cache"] == ["runs"], "and nothing elsewhere"


def test_summary_has_every_metric(full_run):
    folder = full_run.run("full")
    summary = json.loads((folder / "summary.json").read_text())
    rows = read_metrics(folder / "metrics.csv")
    validations = [row for row in rows if "val/accuracy" in row]
    best = max(validations, key=lambda row: row["val/accuracy"])
    (tested,) = [row for row in rows if "test/accuracy" in row]
    assert summary["test"] == pytest.approx({name: value for name, value in tested.items() if name.startswith("test/")})
    assert summary["best_validation"] == {key: best[key] for key in ("val/accuracy", "val/loss", "step")}
    (kept,) = (folder / "checkpoints").glob("best-*")
    assert summary["checkpoint"] == kept.name == f"best-{best['step']:08.0f}.ckpt"
    module, *_ = CapstoneCLI(PROJECT, ["--config", str(folder / "config.yaml")]).request().build()
    assert summary["parameters"] == sum(p.numel() for p in module.parameters())
    assert torch.load(kept, weights_only=True)["state_dict"].keys() == module.state_dict().keys()
    expected = {
        "project": "toy",
        "name": "full",
        "data_source": "sample",
        "data_path": None,
        "recipe": "sample",
        "seed": 3,
        "epochs": 2,
        "steps": 4,
        "devices": 1,
        "precision": "32-true",
    }
    assert {key: summary[key] for key in expected} == expected
    assert summary["command"].startswith("python -m projects.toy.train --data.source sample")
    assert "--name full --wandb --seed 3" in summary["command"]
    assert summary["wall_seconds"] >= summary["train_seconds"] > 0 and summary["samples_per_second"] > 0
    assert re.fullmatch(r"None|[0-9a-f]{12}\+?", str(summary["git_commit"])) and "thread" in summary["device"]
    assert summary["versions"]["torch"] == torch.__version__ and {"python", "lightning"} <= summary["versions"].keys()


def test_run_appears_in_comparisons(full_run):
    summary = json.loads((full_run.run("full") / "summary.json").read_text())
    (record,), errors = read_runs([full_run.folder / "runs"])
    assert errors == [] and (record.project, record.name, record.source, record.seed) == ("toy", "full", "sample", 3)
    assert (record.monitor, record.mode, record.settings["model.mlp.hidden_dim"]) == ("val/accuracy", "max", 8)
    assert record.metrics == {**summary["test"], **{k: v for k, v in summary["best_validation"].items() if k != "step"}}
    assert record.curve_name == "val/accuracy" and [step for step, _ in record.curve] == [2.0, 4.0]
    assert max(value for _, value in record.curve) == record.metrics["val/accuracy"]


def test_closing_table_has_the_metrics_and_the_next_commands(full_run):
    summary = json.loads((full_run.run("full") / "summary.json").read_text())
    assert "toy on sample (EMBEDDED SAMPLE, not the real data set)" in full_run.out
    assert "training ended after epoch 2: --max_epochs 2 is reached" in full_run.out.splitlines()
    for name, value in summary["test"].items():
        assert re.search(rf"{name} +│ +{value:.4f} ", full_run.out)
    checkpoint = f"runs/toy/full/checkpoints/{summary['checkpoint']}"
    assert full_run.out.splitlines()[-6:-1] == [  # before the line of W&B
        "run folder: runs/toy/full (plots/index.html, metrics.csv, config.yaml, summary.json)",
        "again:      python -m projects.toy.train --config runs/toy/full/config.yaml",
        "resume:     python -m projects.toy.train --name full --resume auto --max_epochs N",
        f"evaluate:   python -m projects.toy.evaluate --checkpoint {checkpoint}",
        f"use:        python -m projects.toy.predict FILE --checkpoint {checkpoint}",
    ]


def weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / f"step-{step:08d}.ckpt", weights_only=True)["state_dict"]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_saved_configuration_repeats_the_run(full_run, train):
    again = train("--config", str(full_run.run("full") / "config.yaml"), "--name", "again", "--wandb", "false", alone=True)
    assert again.code == 0, again.err
    assert same(weights(again.run("again"), 4), weights(full_run.run("full"), 4))
    one, other = (json.loads((run / "summary.json").read_text()) for run in (again.run("again"), full_run.run("full")))
    assert {key: one[key] for key in ("test", "recipe", "seed")} == {key: other[key] for key in ("test", "recipe", "seed")}
    saved = [yaml.safe_load((run / "config.yaml").read_text()) for run in (again.run("again"), full_run.run("full"))]
    assert saved[0] | {"wandb": True} == saved[1]
    other_seed = train("--name", "other", "--seed", "4")
    assert not same(weights(other_seed.run("other"), 4), weights(full_run.run("full"), 4))


# names


def test_runs_without_a_name_get_different_ones(train):
    for _ in range(2):
        assert train("--max_epochs", "1").code == 0
    done = train("--max_epochs", "1", "--config", "recipes/wide.yaml")
    names = sorted(path.name for path in (done.folder / "runs" / "toy").iterdir())
    assert len(names) == 3
    assert all(re.fullmatch(r"sample-\d{8}-\d{6}(-2)?", name) for name in names[:2])
    assert re.fullmatch(r"wide-\d{8}-\d{6}", names[2])


def test_runs_that_begin_in_the_same_second_get_different_names(tmp_path):
    assert [unique_name(tmp_path / "runs", "x") for _ in range(3)] == ["x", "x-2", "x-3"]


@pytest.mark.parametrize(
    "name, line",
    [
        ("", "--name '': not a folder's name"),
        (".", r"--name '\.': not a folder's name"),
        ("..", r"--name '\.\.': not a folder's name"),
        (" a", "--name ' a': not a folder's name"),
        ("a\nb", r"--name 'a\\nb': not a folder's name"),
        ("\udcff", r"argument '--name=\\udcff': not UTF-8"),
        ("-a", "--name '-a': not a folder's name; use letters, digits and the like, a letter or digit first"),
        ("x" * 300, r"--name 'x{20}'\.\.\.: too long; use at most 100 characters"),
        ("../outside", r"--name '\.\./outside': a run's name is one folder below runs/PROJECT; use a name without slashes"),
        ("/tmp/outside", "--name '/tmp/outside': a run's name is one folder"),
        ("a/b", "--name 'a/b': a run's name is one folder"),
    ],
)
def test_name_is_one_folder(train, tmp_path, name, line):
    assert re.match(line, train(f"--name={name}").error)
    assert list(tmp_path.iterdir()) == []


def test_name_that_follows_from_the_recipe_is_one_folder(train, tmp_path):
    assert train("--recipe", "../x").error.startswith("the name that follows from the recipe, '../x-")
    assert list(tmp_path.iterdir()) == []


def test_run_folder_that_cannot_be_created_is_one_line(train, tmp_path):
    (tmp_path / "runs").touch()
    for flags in (["--name", "x"], []):
        assert re.match(r"run folder runs/toy/\S+ cannot be written: Not a directory", train(*flags).error)


def test_checkpoint_outside_of_a_run_folder_needs_a_name(copied, train, tmp_path):
    (tmp_path / "a").mkdir()
    shutil.copy(copied / "checkpoints" / "step-00000002.ckpt", tmp_path / "a" / "x.ckpt")
    before = snapshot(tmp_path)
    assert train("--resume", "a/x.ckpt").error.startswith("--resume a/x.ckpt: its folder is not a run's checkpoints/; add")
    assert snapshot(tmp_path) == before
    assert train("--resume", "a/x.ckpt", "--name", "new").code == 0


def test_printed_commands_are_quoted(train, monkeypatch):
    done = train("--name", "it's mine", "--max_epochs", "1")
    assert done.code == 0, done.err
    words = {line.split()[0]: shlex.split(line)[4:] for line in done.out.splitlines()[-4:]}
    summary = json.loads((done.run("it's mine") / "summary.json").read_text())
    assert words["again:"] == ["--config", "runs/toy/it's mine/config.yaml"]
    assert words["resume:"][:2] == ["--name", "it's mine"]
    assert words["evaluate:"] == ["--checkpoint", f"runs/toy/it's mine/checkpoints/{summary['checkpoint']}"]
    assert words["use:"] == ["FILE", "--checkpoint", f"runs/toy/it's mine/checkpoints/{summary['checkpoint']}"]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_name_in_use_is_refused_and_nothing_is_lost(copied, train):
    before = snapshot(copied)
    line = "runs/toy/full exists; choose another --name, or add --resume auto to continue it"
    assert train("--name", "full").error == line
    (copied.parent / "other" / "checkpoints").mkdir(parents=True)
    shutil.copy(copied / "checkpoints" / "step-00000002.ckpt", copied.parent / "other" / "checkpoints")
    assert train("--name", "full", "--resume", "runs/toy/other/checkpoints/step-00000002.ckpt").error == line
    assert snapshot(copied) == before


def test_a_run_leaves_no_variable_for_processes_that_are_started_later(train):
    before = dict(os.environ)
    assert train("--max_epochs", "1").code == 0
    assert {name for name in os.environ if name not in before and name.startswith("CAPSTONES_")} <= {"CAPSTONES_SAMPLE"}


def test_failed_start_leaves_its_name_free(train, tmp_path):
    (tmp_path / "empty").mkdir()
    for source in ("empty", "/no/such/folder"):
        assert "data source" in train("--name", "mine", "--data.source", source).error
    assert not list(tmp_path.glob("runs/*/*"))
    assert train("--name", "mine", "--max_epochs", "1").code == 0


def test_failed_start_keeps_what_was_in_its_folder(train, tmp_path):
    for name, file in (("a", "config.yaml"), ("b", "plots/notes.txt")):
        (tmp_path / "runs" / "toy" / name / file).parent.mkdir(parents=True)
        (tmp_path / "runs" / "toy" / name / file).write_text("mine")
        assert "data source" in train("--name", name, "--data.source", "/no/such/folder").error
        assert (tmp_path / "runs" / "toy" / name / file).read_text() == "mine"


# resuming


def test_longer_run_continues_where_the_run_ended(copied, train):
    done = train("--name", "full", "--resume", "auto", "--max_epochs", "3", "--wandb", "false", alone=True)
    assert done.code == 0 and "resuming runs/toy/full from step-00000004.ckpt" in done.out
    rows = read_metrics(copied / "metrics.csv")
    assert [row["step"] for row in rows if "train/loss" in row] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in rows if "test/loss" in row] == [6]
    summary = json.loads((copied / "summary.json").read_text())
    assert (summary["epochs"], summary["steps"], summary["recipe"], summary["seed"]) == (3, 6, "sample", 3)


def test_run_in_a_moved_directory_keeps_its_best(train):
    run = train("--name", "old").run("old")
    before = json.loads((run / "summary.json").read_text())
    run = run.rename(run.with_name("new"))
    done = train("--name", "new", "--resume", "auto", alone=True)
    assert done.code == 0, done.err
    after = json.loads((run / "summary.json").read_text())
    assert {key: after[key] for key in ("test", "checkpoint")} == {key: before[key] for key in ("test", "checkpoint")}


def truncate(path: Path) -> None:
    stat = path.stat()
    os.truncate(path, stat.st_size // 2)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("how", ["auto", "runs/toy/full/checkpoints/step-00000004.ckpt"])
def test_truncated_checkpoint_falls_back_to_the_one_before(full_run, copied, train, how):
    truncate(copied / "checkpoints" / "step-00000004.ckpt")
    done = train("--name", "full", "--resume", how, "--wandb", "false", alone=True)
    assert done.code == 0, done.err
    assert "step-00000004.ckpt: truncated or damaged; falling back to the one before" in done.out
    assert "resuming runs/toy/full from step-00000002.ckpt" in done.out
    assert same(weights(copied, 4), weights(full_run.run("full"), 4)), "bitwise equal to the whole run"


def test_only_truncated_checkpoints_are_one_line(copied, train):
    before = snapshot(copied)
    for path in (copied / "checkpoints").iterdir():
        truncate(path)
    done = train("--name", "full", "--resume", "auto")
    assert done.error == "no valid checkpoint to resume from in runs/toy/full/checkpoints"
    assert done.out.count("truncated or damaged") == 3
    assert before.keys() == snapshot(copied).keys()


def test_checkpoint_of_another_project_is_refused(copied, train):
    path = copied / "checkpoints" / "step-00000004.ckpt"
    torch.save(torch.load(path, weights_only=True) | {"project": "gan"}, path)
    for how in (["--resume", "auto", "--name", "full"], ["--resume", str(path)]):
        assert re.fullmatch(r"checkpoint .*step-00000004\.ckpt: belongs to gan, not to toy", train(*how).error)


def test_checkpoint_of_another_network_is_refused(copied, train):
    line = train("--name", "full", "--resume", "auto", "--model.mlp.hidden_dim", "9", "--max_epochs", "3").error
    assert re.match(r"checkpoint .*step-00000004\.ckpt: not of the network that --model describes: size mismatch", line)


@pytest.mark.parametrize(
    "attribute, value, change",
    [
        ("split_sizes", {"train": 61, "val": 40}, "train examples: 60 then, 61 now"),
        ("split_sizes", {"train": 60}, "val examples: 40 then, none now"),
        (
            "class_names",
            ["a", "b", "c", "d"],
            "class 0: none then, a now; class 1: none then, b now; class 2: .* c now; ...",
        ),
    ],
)
def test_changed_data_is_refused_and_nothing_is_lost(copied, train, monkeypatch, attribute, value, change):
    before = snapshot(copied)
    monkeypatch.setattr(f"toy.data.ToyData.{attribute}", value, raising=False)
    line = train("--name", "full", "--resume", "auto", "--max_epochs", "3").error
    assert re.match(rf"checkpoint .*step-00000004\.ckpt: the data has changed since: {change}\. Restore the data", line)
    assert "or train anew with another --name and without --resume" in line
    assert snapshot(copied) == before


def test_data_of_another_source_is_refused(copied, train, tmp_path):
    (tmp_path / "x.csv").write_text("x\n1\n")
    line = train("--name", "full", "--resume", "auto", "--data.source", "x.csv").error
    assert "the data has changed since: source: sample then, x.csv now. Restore" in line


# bad input


@pytest.mark.parametrize(
    "flags, line",
    [
        (["--bogus", "3"], r"Unrecognized arguments: --bogus 3 \(see --help\)"),
        (["--config", "missing.yaml"], "--config missing.yaml: no such file"),
        (["--data.source", "/no/such/folder"], "data source /no/such/folder: no such folder; give a folder"),
        (["--data.source", "someone/points"], "data source someone/points: no such folder, and the hub cannot be"),
        (["--data.source", "empty"], "data source empty: .*data files"),
        (["--data.source", "texts"], "data source texts: needs a column x"),
        (["--data.val_size", "5000"], "--data.val_size 5000"),
        (["--devices", "0"], "--devices 0: no device to train on"),
        (["--devices", "-2"], "devices"),
        (["--accelerator", "gpu"], "--accelerator gpu: no GPU was found on this machine; use --accelerator cpu"),
        (["--accelerator", "abacus"], "abacus.*Available names are"),
        (["--accelerator", "tpu"], "."),
        (["--strategy", "luck"], "invalid strategy name"),
        *((["--strategy", name], f"--strategy {name}: open files.*; use ddp") for name in ("ddp_spawn", "ddp_fork")),
        (["--strategy", "ddp_notebook"], "--strategy ddp_notebook: open files of a run cannot be passed to processes"),
        *((["--strategy", name], f"--strategy {name}: each process must hold") for name in ("fsdp", "deepspeed_stage_2")),
        (["--trainer.strategy", "FSDPStrategy", "--devices", "2"], "."),
        (["--precision", "bf16-mixed"], "--precision bf16-mixed: this processor has no bfloat16; use 32-true"),
        (["--model.mlp.activation", "gelu"], r"model\.mlp\.activation.*gelu"),
        (["--model.mlp.hidden_dim", "0"], r"model\.mlp\.hidden_dim.*0"),
        (["--patience", "1", "--data.val_size", "0"], "--patience: there is no validation set to be patient about"),
        (["--patience", "1", "--trainer.limit_val_batches", "0"], "--patience: there is no validation set"),
        (["--trainer.val_check_interval", "9999"], r"--trainer.val_check_interval: .*\(9999\) must be less than"),
        (["--trainer.overfit_batches", "1"], "--trainer.overfit_batches: every epoch has its own order; use --debug"),
        (["--trainer.default_root_dir", "x"], "--trainer.default_root_dir: a run's files are in runs/PROJECT/NAME"),
        (["--resume", "auto"], "--resume auto: of which run\\? add --name"),
        (
            ["--resume", "auto", "--name", "none"],
            "--resume auto: runs/toy/none has no checkpoint; check --name, or start it with --",
        ),
        (["--resume", "missing.ckpt"], r"--resume missing\.ckpt: no such checkpoint; use a \.ckpt file, or auto with"),
    ],
)
def test_bad_input_is_one_line(train, monkeypatch, tmp_path, flags, line):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("common.nn.device.has_bfloat16", lambda kind: False)
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    for split in ("train", "test"):
        (tmp_path / "texts" / f"{split}.csv").write_text("text\nhello\n")
    assert re.match(f".*{line}", train(*flags).error)
    assert not list(tmp_path.rglob("*.ckpt"))
    assert not list(tmp_path.glob("runs/*/*")), "a start that failed leaves no folder"


def test_non_finite_loss_stops_the_run_before_it_reaches_the_weights(train):
    done = train("--name", "boom", "--model.lr", "1e38", "--checkpoint_every", "1", "--max_epochs", "3")
    line = r"stopped before step (\d+): the loss is (?:nan|inf); the last good checkpoint is (\S+\.ckpt)\. "
    number, name = re.match(line, done.error).groups()
    step, path = int(number), done.folder / name
    assert path.name == f"step-{step - 1:08d}.ckpt"
    assert all(value.isfinite().all() for value in torch.load(path, weights_only=True)["state_dict"].values())
    assert path == max((done.run("boom") / "checkpoints").glob("step-*"))


# settings


def test_early_stopping_and_the_test_of_the_best(train):
    done = train("--name", "patient", "--patience", "1", "--max_epochs", "12")
    assert ": val/accuracy has not improved in 1 validations" in done.out
    assert done.code == 0, done.err
    folder = done.run("patient")
    accuracies = [row["val/accuracy"] for row in read_metrics(folder / "metrics.csv") if "val/accuracy" in row]
    first_without_gain = next(i for i in range(1, len(accuracies)) if accuracies[i] <= max(accuracies[:i]))
    assert len(accuracies) == first_without_gain + 1 < 12
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["epochs"] == len(accuracies)
    assert summary["best_validation"]["val/accuracy"] == max(accuracies)
    assert summary["checkpoint"] == f"best-{2 * (accuracies.index(max(accuracies)) + 1):08d}.ckpt"


@pytest.mark.parametrize("off", [["--trainer.limit_val_batches", "0"], ["--data.val_size", "0"]])
def test_without_validation_the_last_weights_are_tested(train, off):
    done = train("--name", "x", *off)
    assert done.code == 0, done.err
    summary = json.loads((done.run("x") / "summary.json").read_text())
    assert (summary["best_validation"], summary["checkpoint"]) == ({}, "step-00000004.ckpt")
    assert math.isfinite(summary["test"]["test/loss"])
    checkpoints = sorted(path.name for path in (done.run("x") / "checkpoints").iterdir())
    assert checkpoints == ["step-00000002.ckpt", "step-00000004.ckpt"]


def test_the_test_can_be_left_out(train):
    done = train("--name", "x", "--trainer.limit_test_batches", "0")
    assert done.code == 0, done.err
    assert json.loads((done.run("x") / "summary.json").read_text())["test"] == {}


def test_training_can_be_left_out(train):
    done = train("--name", "x", "--max_epochs", "0")
    assert done.code == 0, done.err
    summary = json.loads((done.run("x") / "summary.json").read_text())
    assert (summary["steps"], summary["checkpoint"]) == (0, None)
    assert "resume:" not in done.out and "again:" in done.out


def test_dry_run_writes_nothing(train):
    done = train("--fast_dev_run", "--name", "x")
    assert done.code == 0 and "nothing is written" in done.out
    assert list(done.folder.iterdir()) == []


def test_precision_left_unset_is_chosen_and_printed(train, monkeypatch):
    accelerators = []
    monkeypatch.setattr("common.run.run.default_precision", lambda kind: accelerators.append(kind) or "bf16-mixed")
    done = train("--accelerator", "cpu", "--data.source", "sample", "--fast_dev_run", alone=True)
    assert accelerators == ["cpu"] and "1 x cpu, precision bf16-mixed" in done.out
    assert "1 x cpu, precision 32-true" in train("--fast_dev_run").out


def test_fallback_to_the_sample_is_announced(train, monkeypatch):
    done = train("--name", "x", "--data.source", "auto", "--max_epochs", "1")
    assert done.out.startswith("NOTE: someone/toy is neither cached nor reachable; training on the embedded SAMPLE")
    assert "toy on sample (EMBEDDED SAMPLE, not the real data set)" in done.out
    assert json.loads((done.run("x") / "summary.json").read_text())["data_source"] == "sample"
    assert yaml.safe_load((done.run("x") / "config.yaml").read_text())["data"]["source"] == "auto"


def test_loggers_and_callbacks_of_the_user_are_kept(train, tmp_path):
    (tmp_path / "own.yaml").write_text(
        """
trainer:
  max_epochs: 1
  log_every_n_steps: 1
  logger: {class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: mine, name: x, version: ""}}
  callbacks: [{class_path: lightning.pytorch.callbacks.ModelCheckpoint, init_args: {dirpath: mine, filename: last}}]
"""
    )
    done = train("--config", "own.yaml", "--name", "x")
    assert done.code == 0, done.err
    assert read_metrics(tmp_path / "mine/x/metrics.csv") == read_metrics(done.run("x") / "metrics.csv")
    assert (tmp_path / "mine/last.ckpt").is_file()


CALLBACKS = "lightning.pytorch.callbacks"


@pytest.mark.parametrize("value", ["simple", "{class_path: lightning.pytorch.profilers.SimpleProfiler}"])
def test_profiler_reports_into_the_run_folder(train, tmp_path, value):
    (tmp_path / "own.yaml").write_text(f"trainer: {{profiler: {value}, max_epochs: 1}}")
    done = train("--config", "own.yaml", "--name", "x")
    assert done.code == 0, done.err
    assert "run_training_epoch" in (done.run("x") / "fit-profiler.txt").read_text()


def test_single_plugin_and_single_callback_are_used(train, tmp_path):
    plugin = "{class_path: lightning.pytorch.plugins.environments.LightningEnvironment}"
    callback = f"{{class_path: {CALLBACKS}.ModelCheckpoint, init_args: {{dirpath: mine, filename: last}}}}"
    (tmp_path / "own.yaml").write_text(f"trainer: {{plugins: {plugin}, callbacks: {callback}, max_epochs: 1}}")
    done = train("--config", "own.yaml", "--name", "x")
    assert done.code == 0, done.err
    assert (tmp_path / "mine/last.ckpt").is_file()


@pytest.mark.parametrize("kind", ["EarlyStopping", "ModelCheckpoint"])
def test_callback_of_a_missing_metric_is_one_line(train, tmp_path, kind):
    (tmp_path / "own.yaml").write_text(
        f"trainer: {{callbacks: [{{class_path: {CALLBACKS}.{kind}, init_args: {{monitor: val/none}}}}]}}"
    )
    assert "val/none" in train("--config", "own.yaml", "--name", "x").error


def test_monitored_metric_may_depend_on_the_data(train):
    project = replace(PROJECT, monitor=lambda data: {"sample": "val/loss"}[data.source_label], mode="min")
    done = train("--name", "x", "--patience", "5", project=project)
    assert done.code == 0, done.err
    summary = json.loads((done.run("x") / "summary.json").read_text())
    losses = [row["val/loss"] for row in read_metrics(done.run("x") / "metrics.csv") if "val/loss" in row]
    assert (summary["monitor"], summary["best_validation"]["val/loss"]) == ("val/loss", min(losses))


# the end of the training

STOPPER = ["--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "val/loss"]


@pytest.mark.parametrize(
    "flags, line",
    [
        (["--max_steps", "3"], "2: --max_steps 3 is reached"),
        (["--trainer.max_time", "00:00:00:00"], "0: --trainer.max_time is reached"),
        ([*STOPPER, "--trainer.callbacks.stopping_threshold", "9"], "1: val/loss has passed its stopping_threshold 9"),
        (
            [*STOPPER, "--trainer.callbacks.divergence_threshold", "0.1"],
            "1: val/loss has passed its divergence_threshold 0.1",
        ),
        (
            ["--max_epochs", "-1", "--trainer.min_epochs", "1", "--patience", "1"],
            r"\d: val/accuracy has not improved in 1 vali.*",
        ),
    ],
)
def test_reason_of_the_end_is_said(train, flags, line):
    done = train("--name", "a", *flags)
    ended = next(each for each in done.out.splitlines() if each.startswith("training ended"))
    assert re.fullmatch(f"training ended after epoch {line}", ended), ended


def test_epoch_of_the_end_is_that_of_the_last_step(train):
    for flags, epochs in [
        (["--max_steps", "3"], 2),  # the first step of the second epoch
        (["--max_steps", "3", "--resume", "auto"], 2),  # nothing is left to do
        (["--max_steps", "5", "--max_epochs", "9", "--resume", "auto"], 3),
        (["--max_steps", "6", "--max_epochs", "9", "--resume", "auto"], 3),
        (["--max_steps", "6", "--max_epochs", "9", "--resume", "auto"], 3),
    ]:
        done = train("--name", "a", *flags)
        assert f"training ended after epoch {epochs}: --max_steps {flags[1]} is reached" in done.out.splitlines()
        assert json.loads((done.run("a") / "summary.json").read_text())["epochs"] == epochs
