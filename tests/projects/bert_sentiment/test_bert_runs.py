"""Runs of the command line: two processes equal one, a killed run resumes bitwise equal, and pictures are drawn."""

from __future__ import annotations

import json
import signal

import pytest
import torch

from commands import Life, last_checkpoint, same
from common.io.loggers import read_metrics

EPOCHS = 2


@pytest.fixture(scope="module")
def two_and_one(command, flags):
    """The folders of a run of one process, and of one of two with half of the texts each; in float64, without dropout."""
    exact = [*flags, "--precision", "64-true", "--model.dropout", "0", "--data.balanced", "true"]
    one = command("train", "--name", "one", *exact, "--data.batch_size", "16")
    one.wait()
    command("train", "--name", "two", *exact, "--data.batch_size", "8", "--devices", "2", "--strategy", "ddp").wait()
    return one.runs / "one", one.runs / "two"


def test_two_processes_train_like_one_with_twice_the_texts(two_and_one):
    one, two = map(last_checkpoint, two_and_one)
    assert one["global_step"] == two["global_step"] == 34
    for key, value in one["state_dict"].items():
        limit = 1e-7 * float(value.abs().max()) + 1e-12  # keys have biases without an effect: rounding is all they learn
        torch.testing.assert_close(
            two["state_dict"][key], value, rtol=0, atol=limit, msg=lambda text, key=key: f"{key}: {text}"
        )


def test_two_processes_count_every_text_once(two_and_one):
    one, two = (json.loads((folder / "summary.json").read_text()) for folder in two_and_one)
    assert two["devices"] == 2
    assert one["metadata"]["texts"] == two["metadata"]["texts"] == 31
    assert two["test"] == pytest.approx(one["test"], rel=1e-4, abs=1e-6)
    curves = [[row["val/loss"] for row in read_metrics(f / "metrics.csv") if "val/loss" in row] for f in two_and_one]
    assert len(curves[0]) == EPOCHS and curves[1] == pytest.approx(curves[0], rel=1e-5)


def test_a_killed_run_resumes_bitwise_equal(command, flags):
    flags = [*flags, "--checkpoint_every", "3", "--data.batch_size", "5", "--trainer.limit_test_batches", "0"]
    whole = command("train", "--name", "whole", *flags)
    life = Life(command, "killed", flags, [signal.SIGTERM, signal.SIGKILL])
    killed = life.live()
    whole.wait()
    a, b = last_checkpoint(whole.runs / "whole"), last_checkpoint(killed)
    steps = a["global_step"] // EPOCHS
    assert all(step % steps for step in life.resumed_from), "killed at an epoch's end: nothing was shown"
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "random_states", "global_step", "epoch"):
        assert same(a[part], b[part]), part


def test_a_run_leaves_its_pictures_and_mistakes(plain_run):
    for name in ("attributions.png", "length.png", "confusion.png", "calibration.png", "curves.png"):
        assert (plain_run / "plots" / name).stat().st_size > 5000, name
    summary = json.loads((plain_run / "summary.json").read_text())
    table = (plain_run / "plots" / "mistakes.md").read_text().splitlines()
    mistakes = round((1 - summary["test"]["test/accuracy"]) * 31)
    assert table[0] == f"The surest of {mistakes} mistakes in 31 texts:" and len(table) == 4 + min(24, mistakes)
    assert table[2] == "| text | is | taken for | confidence |"
    assert summary["metadata"]["encoder"].startswith("checkpoint")


@pytest.mark.parametrize("switch", ["overfit", "gradients"])
def test_debug_switches(command, flags, switch):
    output = command("train", *flags, "--debug", switch, "--model.dropout", "0").wait()
    assert {"overfit": "can be learnt by heart", "gradients": "Autograd agrees"}[switch] in output


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--data.text_column", "review"], "--data.text_column review"),
        (["--data.source", "nowhere/at/all"], "nowhere/at/all"),
        (["--model.checkpoint", "someone/model"], "offline use a local folder"),
        (["--model.class_names", "[a,b]"], "model.class_names"),
    ],
)
def test_bad_input_is_one_line(command, texts_folder, flags, line):
    assert line in command("train", "--name", "bad", "--data.source", str(texts_folder), *flags).error()
