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
def flags(pairs_folder) -> list[str]:
    return ["--data.source", str(pairs_folder), "--data.direction", "de-en", "--model.dropout", "0"]


@pytest.fixture(scope="module")
def two_and_one(command, flags):
    """The folders of a run of one process, and of one of two with half of the tokens each; in float64, without dropout."""
    exact = [*flags, "--precision", "64-true"]
    one = command("train", "--name", "one", *exact, "--data.max_tokens", "400")
    one.wait()
    command("train", "--name", "two", *exact, "--data.max_tokens", "200", "--devices", "2", "--strategy", "ddp").wait()
    return one.runs / "one", one.runs / "two"


def test_two_processes_train_like_one_with_twice_the_tokens(two_and_one):
    one, two = map(last_checkpoint, two_and_one)
    assert one["global_step"] == two["global_step"] > 10
    for key, value in one["state_dict"].items():
        limit = 1e-7 * float(value.abs().max())
        torch.testing.assert_close(
            two["state_dict"][key], value, rtol=0, atol=limit, msg=lambda text, key=key: f"{key}: {text}"
        )


def test_two_processes_score_every_sentence_once(two_and_one):
    one, two = (json.loads((folder / "summary.json").read_text()) for folder in two_and_one)
    assert two["devices"] == 2
    assert two["test"] == pytest.approx(one["test"], rel=1e-4)
    assert one["metadata"] == two["metadata"]
    curves = [[row["val/bleu"] for row in read_metrics(f / "metrics.csv") if "val/bleu" in row] for f in two_and_one]
    assert len(curves[0]) == EPOCHS and curves[1] == pytest.approx(curves[0], abs=1e-4)


def test_a_killed_run_resumes_bitwise_equal(command, pairs_folder):
    flags = ["--data.source", str(pairs_folder), "--data.direction", "de-en", "--data.max_tokens", "100"]
    flags += ["--checkpoint_every", "5", "--trainer.limit_test_batches", "0"]
    whole = command("train", "--name", "whole", *flags)
    life = Life(command, "killed", flags, [signal.SIGTERM, signal.SIGKILL])
    killed = life.live()
    whole.wait()
    a, b = last_checkpoint(whole.runs / "whole"), last_checkpoint(killed)
    steps = a["global_step"] // EPOCHS
    assert all(step % steps for step in life.resumed_from), "killed at an epoch's end: nothing was shown"
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "random_states", "global_step", "epoch"):
        assert same(a[part], b[part]), part


def test_a_run_leaves_its_pictures_and_translations(plain_run):
    for name in ("attention.png", "length.png", "curves.png"):
        assert (plain_run / "plots" / name).stat().st_size > 5000, name
    table = (plain_run / "plots" / "translations.md").read_text().splitlines()
    assert table[2] == "| de | en | translation | score |" and len(table) == 2 + 2 + 12
    summary = json.loads((plain_run / "summary.json").read_text())
    assert summary["metadata"]["signatures"]["bleu"].startswith("nrefs:1|case:mixed")


@pytest.mark.parametrize("network", ["recurrent", "transformer"])
def test_one_batch_can_be_learnt_by_heart(command, pairs_folder, network):
    flags = [
        "--data.source",
        str(pairs_folder),
        "--data.direction",
        "de-en",
        "--model.network",
        network,
        "--debug",
        "overfit",
    ]
    flags += ["--model.width", "64", "--model.hidden", "64", "--model.lr", "0.02", "--model.label_smoothing", "0"]
    assert "can be learnt by heart" in command("train", *flags).wait()


@pytest.mark.parametrize("network", ["recurrent", "transformer"])
def test_gradients_are_the_slopes_of_the_loss(command, pairs_folder, network):
    flags = [
        "--data.source",
        str(pairs_folder),
        "--data.direction",
        "de-en",
        "--model.network",
        network,
        "--debug",
        "gradients",
    ]
    assert "Autograd agrees" in command("train", *flags).wait()


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--data.direction", "de-fr"], "--data.direction de-fr"),
        (["--data.source", "nowhere/at/all"], "nowhere/at/all"),
        (["--model.network", "bigram"], "--model.network bigram"),
        (["--model.vocabularies", "[3, 3]"], "model.vocabularies"),
    ],
)
def test_bad_input_is_one_line(command, pairs_folder, flags, line):
    assert line in command("train", "--name", "bad", "--data.source", str(pairs_folder), *flags).error()
