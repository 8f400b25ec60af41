"""Runs of the command line: two processes equal one, a killed run resumes bitwise equal, and plots are drawn."""

from __future__ import annotations

import csv
import json
import signal
from typing import Any

import pytest
import torch
from PIL import Image

from commands import Life, can_be_killed, last_checkpoint, newest_checkpoint, same
from common.cli.evaluate import main as evaluate
from common.errors import EXIT_PREEMPTED
from common.io.metrics import read_metrics
from projects.gan.inference import load, sample_latents
from projects.gan.module import GANModule
from projects.gan.train import PROJECT
from trained import check_evaluation, check_load, checkpoint_of, global_state

IMAGES = ["--model.network", "resnet", "--model.resnet.channels", "8", "--model.latent_dim", "8", "--data.batch_size", "20"]
IMAGES += ["--data.eval_samples", "60", "--model.iterations_per_step", "1", "--model.instance_noise_std", "0"]


@pytest.fixture(scope="module")
def two_and_one(command, tiny_run):
    """Folders of a run of one process, and of one of two with half of the samples each; in float64."""
    exact = [*tiny_run, "--precision", "64-true"]
    one = command("train", "--name", "one", *exact)
    one.wait()
    command("train", "--name", "two", *exact, "--data.batch_size", "8", processes=2).wait()
    return one.runs / "one", one.runs / "two"


def test_two_processes_train_both_networks_like_one_with_twice_the_samples(two_and_one):
    one, two = map(last_checkpoint, two_and_one)
    assert one["global_step"] == two["global_step"] == 24, "training steps alone count"
    assert one["state_dict"].keys() == two["state_dict"].keys()
    for key, value in one["state_dict"].items():
        limit = 1e-8 * float(value.abs().max())
        torch.testing.assert_close(
            two["state_dict"][key], value, rtol=0, atol=limit, msg=lambda text, key=key: f"{key}: {text}"
        )


def test_two_processes_evaluate_every_sample_once(two_and_one):
    one, two = (json.loads((folder / "summary.json").read_text()) for folder in two_and_one)
    assert two["devices"] == 2 and one["monitor"] == two["monitor"] == "val/total_variation"
    assert two["test"] == pytest.approx(one["test"], rel=1e-6, abs=1e-9)
    name = "val/total_variation"
    curves = [[row[name] for row in read_metrics(folder / "metrics.csv") if name in row] for folder in two_and_one]
    assert len(curves[0]) == 2 and curves[1] == pytest.approx(curves[0], rel=1e-6)


def test_losses_penalties_and_discriminator_metrics_are_logged_in_every_step(two_and_one):
    rows = read_metrics(two_and_one[0] / "metrics.csv")
    names = ["d_loss", "g_loss", "r1", "r2", "gp", "accuracy_real", "accuracy_fake", "logit_gap"]
    for name in [*(f"train/{name}" for name in names), "grad/generator", "grad/discriminator"]:
        assert sum(name in row for row in rows) == 24, name


def plain_builtins(value: Any) -> bool:
    """Whether a nest holds nothing but builtins."""
    if type(value) is dict:
        return all(map(plain_builtins, value.values()))
    if type(value) in (list, tuple):
        return all(map(plain_builtins, value))
    return value is None or type(value) in (bool, int, float, str)


def test_hyperparameters_of_a_checkpoint_are_builtins_and_build_the_module_again(two_and_one):
    checkpoint = last_checkpoint(two_and_one[0])  # by torch.load(weights_only=True)
    options = dict(checkpoint["hyper_parameters"])
    assert plain_builtins(options), options
    expected = {"mlp": {"hidden_dim": 16, "num_layers": 3, "fourier_octaves": 6, "num_latent_codes": 256}}
    expected |= {"latent_dim": 4, "n_critic": 2, "gp_weight": 0.5, "betas": (0.4, 0.9), "num_classes": 8}
    assert {name: options[name] for name in expected} == expected
    pipeline = load(newest_checkpoint(two_and_one[0])[1])
    assert same(pipeline.module.state_dict(), {k: v.float() for k, v in checkpoint["state_dict"].items()})


@pytest.mark.slow
def test_a_killed_run_resumes_bitwise_equal(command, tiny_run):
    flags = [*tiny_run, "--checkpoint_every", "3", "--data.steps_per_epoch", "80", "--trainer.limit_test_batches", "0"]
    whole = command("train", "--name", "whole", *flags)
    life = Life(command, "killed", flags, [signal.SIGKILL])
    killed = life.live()
    whole.wait()
    a, b = last_checkpoint(whole.runs / "whole"), last_checkpoint(killed)
    assert all(step % 80 for step in life.resumed_from), "killed at an epoch's end: nothing was shown"
    assert len(a["optimizer_states"]) == 2 and any(key.startswith("ema_generator.") for key in a["state_dict"])
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
        assert same(a[part], b[part]), part


@pytest.mark.slow
@pytest.mark.parametrize("before, after", [(2, 1), (1, 2)])
def test_a_resume_with_other_processes_goes_on_with_the_same_batches(command, tiny_run, before, after):
    flags = [*tiny_run, "--precision", "64-true", "--data.batch_size", "8", "--checkpoint_every", "3"]
    flags += ["--data.steps_per_epoch", "40", "--trainer.limit_test_batches", "0"]
    names = [f"{kind}-{before}" for kind in ("whole", "cut")]
    whole = command("train", "--name", names[0], *flags, processes=before)
    whole.wait()
    killed = command("train", "--name", names[1], *flags, processes=before)
    run = killed.runs / names[1]
    killed.kill_when(lambda: can_be_killed(run, 5), signal.SIGTERM)
    killed.wait(EXIT_PREEMPTED)
    step, _ = newest_checkpoint(run)
    assert step % 40, "killed at an epoch's end: nothing was shown"
    resumed = command("train", "--name", names[1], "--resume", "auto", *flags, processes=after).wait()
    assert f"resuming with {after} process" in resumed
    for key, value in last_checkpoint(whole.runs / names[0])["state_dict"].items():
        limit = 1e-8 * float(value.abs().max())
        other = last_checkpoint(run)["state_dict"][key]
        torch.testing.assert_close(other, value, rtol=0, atol=limit, msg=lambda text, key=key: f"{key}: {text}")


def test_a_run_of_points_leaves_curves_samples_and_an_animation(command, two_and_one):
    plots = two_and_one[0] / "plots"
    for name in ("curves.png", "samples.png"):
        assert (plots / name).stat().st_size > 5000, name
    with Image.open(plots / "training.gif") as animation:
        assert animation.n_frames == 2
    checkpoint = newest_checkpoint(two_and_one[0])[1]
    output = command("generate", "--checkpoint", str(checkpoint), "--count", "30", "--output", "points.png").wait()
    table, plot = output.split()
    rows = list(csv.reader((two_and_one[0].parents[2] / table).open()))
    assert rows[0] == ["x", "y"] and len(rows) == 31
    assert (two_and_one[0].parents[2] / plot).stat().st_size > 5000


@pytest.mark.slow
def test_a_run_of_images_is_measured_in_named_features_and_plots(command, image_folder):
    flags = [*IMAGES, "--data.source", str(image_folder), "--max_epochs", "1", "--model.conditional", "true"]
    run = command("train", "--name", "images", *flags, "--model.loss", "hinge")
    output = run.wait()
    folder = run.runs / "images"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["metadata"]["features"] == "pixels at 8 x 8" and summary["monitor"] == "val/frechet_distance"
    note = "60 evaluation samples for 192 features: the Fréchet distance's covariances are singular"
    assert summary["metadata"]["note"] == note and output.count(note) == 1
    names = ("frechet_distance", "kernel_distance", "precision", "recall", "density", "coverage")
    assert set(summary["test"]) >= {f"test/{name}" for name in names} and summary["test"]["test/frechet_distance"] > 0
    for name in ("interpolation", "truncation", "nearest_neighbors", "samples"):
        assert (folder / "plots" / f"{name}.png").stat().st_size > 2000, name
    checkpoint = ["--checkpoint", str(newest_checkpoint(folder)[1])]
    star = ["--class_name", "star", "--interpolate", "--columns", "3", "--truncation", "0.7"]
    command("generate", *checkpoint, *star, "--count", "3", "--each", "--output", "one.png").wait()
    with Image.open(run.cwd / "one-0002.png") as image:
        assert image.size == (32, 32)
    assert "it was trained on checkerboard, crescent" in command("generate", *checkpoint, "--class_name", "dog").error()


@pytest.mark.parametrize(
    ("switch", "line"), [("overfit", "The network can overfit one batch"), ("gradients", "Autograd agrees")]
)
def test_debug_switches(command, switch, line):
    flags = ["--data.source", "ring8", "--data.batch_size", "8", "--model.lr", "0.01", "--model.mlp.hidden_dim", "64"]
    assert line in command("train", *flags, "--model.iterations_per_step", "1", "--debug", switch).wait()


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--data.source", "ring9x/at/all"], "ring9x/at/all"),
        (
            [*IMAGES, "--data.source", "sample", "--model.features", "inception", "--model.features_checkpoint", "no"],
            "inception",
        ),
        (["--data.source", "sample"], "use dcgan or resnet, see recipes/images.yaml"),
        (["--data.source", "ring8", "--trainer.gradient_clip_val", "1.0"], "gradient clipping"),
        (["--model.loss", "minimax"], "model.loss"),
    ],
)
def test_bad_input_is_one_line(command, flags, line):
    assert line in command("train", "--name", "bad", *flags).error()


def test_an_evaluation_repeats_the_test_of_the_run(two_and_one, tmp_path):
    check_evaluation(PROJECT, two_and_one[0], tmp_path)


def test_a_checkpoint_generates_from_python(two_and_one, tmp_path):
    generator = check_load(load, GANModule, checkpoint_of(two_and_one[0]), tmp_path)
    before, samples = global_state(), generator(501, seed=3)
    z = sample_latents(501, generator.latent_dim, 3)
    torch.testing.assert_close(samples, torch.cat([generator.generate(row[None]) for row in z]))
    assert generator(0).shape == (0, 2) and not torch.equal(generator(501, seed=4), samples)
    assert global_state() == before


def test_points_are_not_evaluated_on_images(two_and_one, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    args = ["--checkpoint", str(checkpoint_of(two_and_one[0])), "--accelerator", "cpu"]
    assert evaluate(PROJECT, [*args, "--data.source", "sample"]) == 2
    assert capsys.readouterr().err == "error: --data.source sample: these are images; the checkpoint generates points\n"
