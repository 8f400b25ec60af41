"""Runs of the command line: two processes equal one, a killed run resumes bitwise equal, and pictures are drawn."""

from __future__ import annotations

import csv
import json
import signal

import pytest
import torch
from PIL import Image

from commands import Life, last_checkpoint, newest_checkpoint, same
from common.io.loggers import read_metrics

PICTURES = ["--model.width", "8", "--model.noise", "8", "--data.batch_size", "20", "--data.eval_samples", "60"]


@pytest.fixture(scope="module")
def two_and_one(command, game):
    """The folders of a run of one process, and of one of two with half of the samples each; in float64."""
    exact = [*game, "--precision", "64-true"]
    one = command("train", "--name", "one", *exact, "--data.batch_size", "16")
    one.wait()
    command("train", "--name", "two", *exact, "--data.batch_size", "8", "--devices", "2", "--strategy", "ddp").wait()
    return one.runs / "one", one.runs / "two"


def test_two_processes_train_both_players_like_one_with_twice_the_samples(two_and_one):
    one, two = map(last_checkpoint, two_and_one)
    assert one["global_step"] == two["global_step"] == 24, "the generator's steps alone count"
    assert one["state_dict"].keys() == two["state_dict"].keys()
    for key, value in one["state_dict"].items():
        limit = 1e-8 * float(value.abs().max())
        torch.testing.assert_close(
            two["state_dict"][key], value, rtol=0, atol=limit, msg=lambda text, key=key: f"{key}: {text}"
        )


def test_two_processes_measure_every_sample_once(two_and_one):
    one, two = (json.loads((folder / "summary.json").read_text()) for folder in two_and_one)
    assert two["devices"] == 2
    assert two["test"] == pytest.approx(one["test"], rel=1e-6, abs=1e-9)
    curves = [[row["val/distance"] for row in read_metrics(f / "metrics.csv") if "val/distance" in row] for f in two_and_one]
    assert len(curves[0]) == 2 and curves[1] == pytest.approx(curves[0], rel=1e-6)


def test_the_health_of_the_game_is_logged_in_every_step_also_where_no_penalty_is_due(two_and_one):
    rows = read_metrics(two_and_one[0] / "metrics.csv")
    names = ["accuracy_real", "accuracy_fake", "logit_gap", "penalty_r1", "penalty_r2", "penalty_gradient_penalty"]
    for name in [*(f"train/{name}" for name in names), "grad/generator", "grad/discriminator"]:
        assert sum(name in row for row in rows) == 24, name


def test_a_killed_run_resumes_bitwise_equal(command, game):
    flags = [*game, "--checkpoint_every", "3", "--data.epoch_steps", "150", "--trainer.limit_test_batches", "0"]
    whole = command("train", "--name", "whole", *flags)
    life = Life(command, "killed", flags, [signal.SIGTERM, signal.SIGKILL])
    killed = life.live()
    whole.wait()
    a, b = last_checkpoint(whole.runs / "whole"), last_checkpoint(killed)
    assert all(step % 150 for step in life.resumed_from), "killed at an epoch's end: nothing was shown"
    assert len(a["optimizer_states"]) == 2 and any(key.startswith("averaged.") for key in a["state_dict"])
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
        assert same(a[part], b[part]), part


def test_a_run_of_points_leaves_curves_samples_and_a_film(command, two_and_one):
    plots = two_and_one[0] / "plots"
    for name in ("curves.png", "samples.png"):
        assert (plots / name).stat().st_size > 5000, name
    with Image.open(plots / "film.gif") as film:
        assert film.n_frames == 2
    checkpoint = newest_checkpoint(two_and_one[0])[1]
    output = command("sample", "--checkpoint", str(checkpoint), "--count", "30", "--output", "points.png").wait()
    table, picture = output.split()
    rows = list(csv.reader((two_and_one[0].parents[2] / table).open()))
    assert rows[0] == ["x", "y"] and len(rows) == 31
    assert (two_and_one[0].parents[2] / picture).stat().st_size > 5000


def test_a_run_of_pictures_is_measured_in_named_features_and_draws(command, picture_folder):
    flags = [*PICTURES, "--data.source", str(picture_folder), "--max_epochs", "1", "--model.conditional", "true"]
    run = command("train", "--name", "pictures", *flags, "--model.network", "resnet", "--model.loss", "hinge")
    run.wait()
    folder = run.runs / "pictures"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["metadata"]["features"] == "pixels at 8 x 8"
    assert summary["test"]["test/distance"] == summary["test"]["test/frechet"] > 0
    assert set(summary["test"]) >= {f"test/{name}" for name in ("kernel", "precision", "recall", "density", "coverage")}
    for name in ("interpolation", "truncation", "neighbours", "samples"):
        assert (folder / "plots" / f"{name}.png").stat().st_size > 2000, name
    checkpoint = ["--checkpoint", str(newest_checkpoint(folder)[1])]
    star = ["--class_name", "star", "--interpolate", "--columns", "3", "--truncation", "0.7"]
    command("sample", *checkpoint, *star, "--count", "3", "--each", "--output", "one.png").wait()
    with Image.open(run.cwd / "one-0002.png") as image:
        assert image.size == (32, 32)
    assert "its classes are checkerboard, crescent" in command("sample", *checkpoint, "--class_name", "dog").error()


@pytest.mark.parametrize("switch", ["overfit", "gradients"])
def test_debug_switches(command, switch):
    flags = [
        "--data.source",
        "ring8",
        "--data.batch_size",
        "8",
        "--model.r1",
        "0.1",
        "--model.lr",
        "0.01",
        "--model.width",
        "64",
    ]
    output = command("train", *flags, "--debug", switch).wait()
    expected = {"overfit": "can be learnt by heart", "gradients": "Autograd agrees"}
    assert expected[switch] in output


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--data.source", "ring9x/at/all"], "ring9x/at/all"),
        (["--data.source", "sample", "--model.features", "inception", "--model.features_checkpoint", "no.pth"], "inception"),
        (
            ["--data.source", "sample", "--model.network", "mlp"],
            "use one of dcgan, sndcgan, resnet (the data are pictures, see recipes",
        ),
        (["--data.source", "ring8", "--trainer.gradient_clip_val", "1.0"], "gradient clipping"),
    ],
)
def test_bad_input_is_one_line(command, flags, line):
    assert line in command("train", "--name", "bad", *flags).error()
