"""A run that is killed in the middle of an epoch and resumed ends as if nothing had happened.

One run has it all: the device path, progressive resizing, hard-example selection and Lookahead. The position of the
DataLoader path after a resume is tested in `test_cifar10_data.py`.
"""

from __future__ import annotations

import shutil
import signal
from itertools import pairwise
from pathlib import Path

import pytest

from commands import Life, last_checkpoint, same
from common.cli.main import main
from common.io.metrics import read_metrics
from projects.cifar10.train import PROJECT

EPOCHS, STEPS = 2, 31  # steps in an epoch: 124 of 207 images, four by four. No checkpoint of every fifth step ends an epoch
RUN = ["--max_epochs", f"{EPOCHS}", "--data.batch_size", "4", "--data.val_size", "53", "--checkpoint_every", "5"]
RUN += ["--trainer.log_every_n_steps", "1", "--trainer.limit_test_batches", "0", "--model.lookahead", "true"]
RUN += ["--model.progressive_resizing", "[[0, 16], [0.5, 20], [0.75, 24]]", "--data.subset_fraction", "0.6"]


@pytest.fixture(scope="module")
def runs(command, image_folder) -> tuple[Path, Path, Life]:
    """An uninterrupted run, and the same, killed (SIGTERM is tested in `tests/common/test_resume_checkpoints.py`)."""
    flags = [*RUN, "--data.source", str(image_folder)]
    whole = command("train", "--name", "whole", *flags)
    life = Life(command, "killed", flags, [signal.SIGKILL])
    killed = life.live()
    whole.wait()
    return whole.runs / "whole", killed, life


def test_killed_in_the_middle_of_an_epoch(runs):
    _, _, life = runs
    assert len(life.resumed_from) == len(life.signals)
    assert all(step % STEPS for step in life.resumed_from), life.resumed_from
    assert all(before < after for before, after in pairwise([0, *life.resumed_from, EPOCHS * STEPS]))


def test_resumed_state_is_bitwise_that_of_an_uninterrupted_run(runs):
    whole, killed = map(last_checkpoint, runs[:2])
    assert whole["global_step"] == EPOCHS * STEPS
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "random_states", "global_step", "epoch"):
        assert same(whole[part], killed[part]), part
    assert whole["slow_weights"] and same(whole["slow_weights"], killed["slow_weights"])
    losses = whole["CIFAR10Data"]["losses"]
    assert losses.isfinite().sum() > 124, "the second epoch had other images than the first"
    assert same(whole["CIFAR10Data"], killed["CIFAR10Data"])


def test_a_resume_with_one_more_image_is_refused(runs, image_folder, tmp_path, monkeypatch, capsys):
    grown = tmp_path / image_folder.name
    shutil.copytree(image_folder, grown)
    first = next(grown.glob("train/*/*.png"))
    shutil.copy(first, first.with_name("new.png"))
    monkeypatch.chdir(runs[0].parents[2])
    flags = ["--config", str(runs[0] / "config.yaml"), "--name", "whole", "--resume", "auto", "--max_epochs", "3"]
    assert main(PROJECT, [*flags, "--data.source", str(grown)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "the data has changed since: train examples: 207 then, 208 now. Restore" in error


def test_resumed_metrics_are_those_of_an_uninterrupted_run_step_by_step(runs):
    for metric in ("train/loss", "grad/norm", "lr-MuonSGD/filters", "val/loss"):
        curves = []
        for folder in runs[:2]:
            rows = read_metrics(folder / "metrics.csv")
            curves.append([(row["step"], row[metric]) for row in rows if metric in row])
        whole, killed = curves
        ends = [STEPS * epoch for epoch in range(1, EPOCHS + 1)]
        assert [step for step, _ in whole] == (ends if metric == "val/loss" else list(range(1, EPOCHS * STEPS + 1)))
        assert len({value for _, value in whole}) > 1, "metrics that stand still would prove nothing"
        assert killed == whole, metric
