"""Runs that are killed in the middle of an epoch and resumed end as if nothing had happened."""

from __future__ import annotations

import signal
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from commands import Life, same
from common.io.loggers import read_metrics

EPOCHS, STEPS = 2, 50  # steps in an epoch
LAST, BEFORE_LAST = (f"checkpoints/step-{EPOCHS * STEPS - back:08d}.ckpt" for back in (0, 5))
RUN = ["--max_epochs", f"{EPOCHS}", "--data.batch_size", "4", "--checkpoint_every", "5"]
RUN += ["--trainer.log_every_n_steps", "1", "--trainer.limit_test_batches", "0"]
CLASSIC = ["--data.val_size", "60", "--data.loader", "classic"]  # 200 training pictures, two workers


@pytest.fixture(scope="module")
def device_runs(command, picture_folder) -> tuple[Path, Path, Life]:
    """An uninterrupted run of the device loader with lookahead and growing pictures, and the same, killed twice."""
    flags = [*RUN, "--data.source", str(picture_folder), "--data.val_size", "60", "--model.lookahead", "true"]
    flags += ["--model.resolutions", "[[0, 20], [0.4, 24], [0.75, 32]]"]
    whole = command("train", "--name", "whole", *flags)
    life = Life(command, "killed", flags, [signal.SIGTERM, signal.SIGKILL])
    killed = life.live()
    whole.wait()
    return whole.runs / "whole", killed, life


@pytest.fixture(scope="module")
def classic_runs(command, picture_folder) -> tuple[Path, Path, Life]:
    """An uninterrupted run of the classic loader, and the same one stopped by kill -9."""
    flags = [*RUN, "--data.source", str(picture_folder), *CLASSIC]
    whole = command("train", "--name", "classic", *flags)
    life = Life(command, "classic-killed", flags, [signal.SIGKILL])
    killed = life.live()
    whole.wait()
    return whole.runs / "classic", killed, life


@pytest.fixture(params=["device", "classic"])
def runs(request) -> tuple[Path, Path, Life]:
    return request.getfixturevalue(f"{request.param}_runs")


def test_killed_in_the_middle_of_an_epoch(runs):
    _, _, life = runs
    assert len(life.resumed_from) == len(life.signals)
    assert all(step % STEPS for step in life.resumed_from), life.resumed_from
    assert all(before < after for before, after in pairwise([0, *life.resumed_from, EPOCHS * STEPS]))


def test_resumed_weights_are_bitwise_those_of_an_uninterrupted_run(runs):
    whole, killed = (torch.load(folder / LAST, weights_only=True) for folder in runs[:2])
    before = torch.load(runs[0] / BEFORE_LAST, weights_only=True)
    assert not same(whole["state_dict"], before["state_dict"]), "weights that stand still would prove nothing"
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "random_states", "global_step", "epoch"):
        assert same(whole[part], killed[part]), part


def test_resumed_slow_weights_are_bitwise_those_of_an_uninterrupted_run(device_runs):
    whole, killed = (torch.load(folder / LAST, weights_only=True) for folder in device_runs[:2])
    assert whole["slow_weights"] and same(whole["slow_weights"], killed["slow_weights"])


def test_resumed_figures_are_those_of_an_uninterrupted_run_step_by_step(runs):
    for figure in ("train/loss", "grad/norm", "lr-MuonSGD/filters", "val/loss"):
        curves = []
        for folder in runs[:2]:
            rows = read_metrics(folder / "metrics.csv")
            curves.append([(row["step"], row[figure]) for row in rows if figure in row])
        whole, killed = curves
        assert [step for step, _ in whole] == (
            [STEPS - 1, 2 * STEPS - 1] if figure == "val/loss" else list(range(EPOCHS * STEPS))
        )
        assert killed == whole, figure
