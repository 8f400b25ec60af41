"""Evaluation of a checkpoint: which data and options it takes, what it leaves alone, and its one-line errors."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from lightning.pytorch import Trainer
from toy_runs import Ended

from common.cli.evaluate import check_source, main
from common.compare.records import read_runs
from common.data.sources import Source, evaluated_splits
from common.errors import UserError
from common.io.checkpoints import AtomicCheckpointIO
from common.plots.captions import run_caption
from common.version import VERSION
from toy.data import ToyData
from toy.module import SavePlot, ToyModule
from toy.train import PROJECT
from trained import check_evaluation, checkpoint_of, results

NEWER = {"source": "sample", "val_size": "a tenth"}


@pytest.fixture
def evaluate(copied, tmp_path) -> Callable[..., Ended]:
    """Evaluates the best checkpoint of the full run, or a changed copy of it, in the folder with `runs/`."""

    def run(*flags: str, **changes: object) -> Ended:
        path = checkpoint_of(copied)
        if changes:
            content = torch.load(path, weights_only=True) | changes
            torch.save({name: value for name, value in content.items() if value is not ...}, path)
        with (
            contextlib.chdir(tmp_path),
            contextlib.redirect_stdout(io.StringIO()) as out,
            contextlib.redirect_stderr(io.StringIO()) as err,
        ):
            code = main(PROJECT, ["--checkpoint", str(path.relative_to(tmp_path)), "--accelerator", "cpu", *flags])
        return Ended(code, out.getvalue(), err.getvalue(), tmp_path)

    return run


def test_an_evaluation_repeats_the_run_and_changes_nothing_of_it(full_run, tmp_path):
    check_evaluation(PROJECT, full_run.run("full"), tmp_path)
    assert (tmp_path / "test" / "plots" / "points.png").is_file()


def test_captions_name_the_run_and_the_checkpoint(evaluate, copied, monkeypatch):
    captions = []

    def draw(self: SavePlot, trainer: Trainer, pl_module: ToyModule) -> None:
        captions.append(run_caption(self.folder, trainer.datamodule, "test"))

    monkeypatch.setattr(SavePlot, "on_test_epoch_end", draw)
    for flags in ([], ["--to", "elsewhere"]):
        assert evaluate(*flags).code == 0
    expected = f"run toy/full, {checkpoint_of(copied).name}, data sample (EMBEDDED SAMPLE, not the real data set), test"
    assert captions == [expected] * 2


def test_results_are_in_a_folder_of_the_run_for_each_data_and_split(evaluate, copied):
    before = read_runs([copied.parent])[0]
    done = evaluate("--split", "val")
    assert done.code == 0, done.err
    (folder,) = (copied / "evaluations").iterdir()
    assert folder.name == f"{checkpoint_of(copied).stem}-sample-val"
    assert done.out.splitlines()[-1] == f"results: {folder.relative_to(done.folder)} (plots, evaluation.json)"
    assert "toy on sample (EMBEDDED SAMPLE, not the real data set)" in done.out and "val/accuracy" in done.out
    found = results(folder)
    assert (found["split"], found["step"]) == ("val", json.loads((copied / "summary.json").read_text())["steps"])
    assert found["command"].startswith("python -m projects.toy.evaluate --checkpoint runs/toy/full/checkpoints/best-")
    assert read_runs([copied.parent])[0] == before, "no run of its own"


def test_a_checkpoint_alone_is_evaluated(evaluate, copied):
    """The data and the precision are in it; another machine has nothing else."""
    alone = copied.parents[2] / "elsewhere" / "mine.ckpt"
    alone.parent.mkdir()
    shutil.copyfile(checkpoint_of(copied), alone)
    expected = json.loads((copied / "summary.json").read_text())
    shutil.rmtree(copied)
    with contextlib.chdir(alone.parent), contextlib.redirect_stdout(io.StringIO()):
        assert main(PROJECT, ["--checkpoint", "mine.ckpt"]) == 0
    found = results(alone.parent / "evaluations" / "mine-sample-test")
    assert (found["metrics"], found["precision"]) == (expected["test"], expected["precision"])


def test_the_configuration_beside_an_old_checkpoint_says_what_it_does_not(evaluate, copied):
    old = {"datamodule_hyper_parameters": ..., "precision": ..., "version": ...}
    saved = yaml.safe_load((copied / "config.yaml").read_text())
    saved["data"]["val_size"] = 30
    (copied / "config.yaml").write_text(yaml.safe_dump(saved))
    assert evaluate("--to", "a", **old).code == 0
    assert results(copied.parents[2] / "a")["precision"] == "32-true"
    (copied / "config.yaml").unlink()
    assert "does not record its data; name them with --data.source" in evaluate("--to", "b").error
    assert evaluate("--to", "b", "--data.source", "sample").code == 0


def test_weights_in_double_precision_are_not_rounded(train, tmp_path):
    assert train("--name", "double", "--precision", "64-true", "--max_epochs", "1").code == 0
    check_evaluation(PROJECT, tmp_path / "runs" / "toy" / "double", tmp_path)


def test_auto_means_what_it_meant_to_the_run(evaluate, monkeypatch):
    monkeypatch.setattr("common.data.sources.dataset_is_cached", lambda hub_id: True)
    done = evaluate("--to", "a", datamodule_hyper_parameters={"source": "auto"})
    assert done.code == 0 and results(done.folder / "a")["data_source"] == "sample"


def test_a_flag_overrides_the_checkpoint(evaluate, copied):
    before = json.loads((copied / "summary.json").read_text())["test"]
    done = evaluate("--to", "a", "--model.mlp.activation", "tanh", "--precision", "64-true")
    found = results(done.folder / "a")
    assert found["precision"] == "64-true" and found["metrics"] != before
    module = ToyModule.load_from_checkpoint(checkpoint_of(copied), mlp={"activation": "tanh"}, weights_only=True)
    data = ToyData("sample")
    data.setup("test")
    inputs, labels = data.test
    expected = F.cross_entropy(module.eval().net(inputs), labels).item()
    assert found["metrics"]["test/loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "flags, changes, message",
    [
        (
            "--split val",
            {"datamodule_hyper_parameters": {"source": "sample", "val_size": 0}},
            "--split val: the data have no",
        ),
        ("--data.source x/y/z", {}, "data source x/y/z: no such folder"),
        ("--accelerator gpu", {}, "--accelerator gpu: no GPU"),
        ("--precision 3", {}, "Precision '3' is invalid"),
        ("--to runs/toy/full", {}, "--to runs/toy/full: a run folder"),
        ("", {"project": "gan"}, "belongs to gan, not to toy"),
        ("", {"version": "9.9", "hyper_parameters": {"lr": -1}}, "written by version 9.9 of this suite, this is"),
        ("", {"version": "9.9", "datamodule_hyper_parameters": NEWER}, "written by version 9.9 of this suite"),
        (
            "",
            {"datamodule_hyper_parameters": {"source": "pkg.mod:Name"}},
            "data.source names code, pkg.mod:Name; if you trust it",
        ),
        (
            "",
            {"datamodule_hyper_parameters": {"source": "a/folder"}, "data": {"source": "folder"}},
            "the data of its run, a/folder, are not here; name others with --data.source",
        ),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(evaluate, copied, flags, changes, message):
    assert message in evaluate(*flags.split(), **changes).error
    assert not (copied / "evaluations").exists()


def test_help_needs_no_checkpoint(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(PROJECT, ["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "python -m projects.toy.evaluate --checkpoint PATH [flags]" in text
    assert "--to FOLDER" in text and "--data.source" in text and "--model.mlp.hidden_dim" in text
    assert "--model.num_classes" not in text, "it follows from the data"


def test_without_a_checkpoint_the_line_says_so(capsys):
    assert main(PROJECT, []) == 2
    assert capsys.readouterr().err == "error: the following arguments are required: --checkpoint (see --help)\n"


@pytest.mark.parametrize(
    "names, chosen",
    [(["train"], "train"), (["validation", "train"], "validation"), (["train", "test", "validation"], "test")],
)
def test_a_source_that_is_evaluated_has_its_test_data_under_every_name(capsys, names, chosen):
    splits = {name: [name] for name in names}
    assert evaluated_splits(Source("folder", "x"), splits) == splits and not capsys.readouterr().out
    found = evaluated_splits(Source("folder", "x", test_only=True), splits)
    assert found == {name: [chosen] for name in ("train", "validation", "test")}
    what = "all of it is evaluated" if chosen == "train" else f"its {chosen} split is evaluated"
    assert capsys.readouterr().out == f"data source x: {what}\n"


def test_a_checkpoint_records_version_precision_and_the_options_of_its_data(full_run):
    saved = torch.load(checkpoint_of(full_run.run("full")), weights_only=True)
    assert (saved["version"], saved["precision"]) == (VERSION, "32-true")
    expected = {"source": "sample", "batch_size": 50, "val_size": 40}
    assert {key: saved["datamodule_hyper_parameters"][key] for key in expected} == expected
    data = ToyData.load_from_checkpoint(checkpoint_of(full_run.run("full")), weights_only=True)
    assert (data.batch_size, data.val_size, data.source_option) == (50, 40, "sample")


def test_a_training_from_python_saves_what_is_evaluated(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = Trainer(max_epochs=1, accelerator="cpu", plugins=[AtomicCheckpointIO("toy")], logger=False)
    data = ToyData("sample")
    trainer.fit(ToyModule(2), data)
    trainer.save_checkpoint("mine.ckpt")
    (metrics,) = trainer.test(datamodule=data, ckpt_path="mine.ckpt", verbose=False)
    assert main(PROJECT, ["--checkpoint", "mine.ckpt", "--accelerator", "cpu", "--to", "x"]) == 0
    assert (results(Path("x"))["metrics"], results(Path("x"))["precision"]) == (metrics, "32-true")


def test_the_sample_is_here_whatever_a_capstone_calls_it():
    named = {"data": {"source": "CartPole-v1"}}
    check_source("sample", named, Path("best.ckpt"))
    with pytest.raises(UserError, match="the data of its run, /no/folder, are not here"):
        check_source("/no/folder", named, Path("best.ckpt"))
