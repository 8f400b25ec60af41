"""Two processes train and measure like one process with twice the batch."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from common.data.images import read_image
from common.errors import EXIT_PREEMPTED
from common.io.loggers import read_metrics
from projects.cifar10.inference import predict_logits
from projects.cifar10.predict import load_network

EPOCHS, STEPS = 2, 5  # steps in an epoch
LAST = f"checkpoints/step-{EPOCHS * STEPS:08d}.ckpt"
TWO = ["--devices", "2", "--strategy", "ddp", "--data.batch_size", "20"]


@pytest.fixture(scope="module")
def runs(command, plain_flags) -> tuple[Path, Path]:
    """The folders of a run of one process with a batch of 40 and of a run of two with 20 each.

    In float64: else rounding would now and then choose another of two pixels as a pool's maximum.
    """
    flags = [*plain_flags, "--precision", "64-true"]
    one = command("train", "--name", "one-process", *flags, "--data.batch_size", "40")
    one.wait()
    command("train", "--name", "two-processes", *flags, *TWO).wait()
    folder = one.cwd / "runs" / "cifar10"
    return folder / "one-process", folder / "two-processes"


def test_weights_of_two_processes_are_those_of_one_with_twice_the_batch(runs):
    one, two = (torch.load(folder / LAST, weights_only=True)["state_dict"] for folder in runs)
    assert one.keys() == two.keys()
    for key, value in one.items():
        limit = 1e-9 * float(value.abs().max())  # of a tensor's largest entry
        torch.testing.assert_close(two[key], value, rtol=0, atol=limit, msg=lambda text, key=key: f"{key}: {text}")


def test_figures_of_two_processes_are_those_of_one(runs):
    one, two = (read_metrics(folder / "metrics.csv") for folder in runs)
    for figure in ("val/loss", "val/accuracy", "grad/norm", "lr-MuonSGD/filters"):
        expected = [(row["step"], row[figure]) for row in one if figure in row]
        got = [(row["step"], row[figure]) for row in two if figure in row]
        assert len(expected) == (EPOCHS if figure.startswith("val/") else EPOCHS * STEPS)
        assert [step for step, _ in got] == [step for step, _ in expected]
        assert [value for _, value in got] == pytest.approx([value for _, value in expected], rel=1e-6), figure


def test_two_processes_count_every_test_picture_once(runs, picture_folder):
    files = sorted((picture_folder / "test").rglob("*.png"))
    assert len(files) == 61, "an odd number: one process has a picture more than the other"
    summary = json.loads((runs[1] / "summary.json").read_text())
    net, names = load_network(runs[1] / "checkpoints" / summary["checkpoint"])
    images = torch.stack([read_image(file, 32) for file in files])
    labels = torch.tensor([names.index(file.parent.name) for file in files])
    logits = predict_logits(net, images, 2)
    right = int((logits.argmax(1) == labels).sum())
    assert 0 < right < 61
    assert summary["test"]["test/accuracy"] == pytest.approx(right / 61, abs=1e-6)
    assert summary["test"]["test/loss"] == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-5)
    plain = int((net(images).argmax(1) == labels).sum())
    assert summary["test"]["test/accuracy_plain"] == pytest.approx(plain / 61, abs=1e-6)
    assert summary["devices"] == 2


@pytest.mark.slow
def test_two_processes_stop_together_on_sigterm_and_go_on_as_if_nothing_had_happened(command, plain_flags):
    flags = [*plain_flags, *TWO, "--data.batch_size", "2", "--checkpoint_every", "5"]
    steps = 50  # in an epoch
    whole = command("train", "--name", "two-whole", *flags)
    whole.wait()
    stopped = command("train", "--name", "two-stopped", *flags)
    folder = stopped.cwd / "runs/cifar10/two-stopped"
    stopped.kill_when(lambda: any(folder.glob("checkpoints/step-*.ckpt")), signal.SIGTERM)
    stopped.wait(EXIT_PREEMPTED)
    output = command("train", "--name", "two-stopped", *flags, "--resume", "auto").wait()
    step = re.search(r"resuming \S+ from step-(\d+)\.ckpt", output)
    assert step and 0 < int(step[1]) < EPOCHS * steps and int(step[1]) % steps
    last = f"checkpoints/step-{EPOCHS * steps:08d}.ckpt"
    whole, killed = (torch.load(path / last, weights_only=True) for path in (whole.cwd / "runs/cifar10/two-whole", folder))
    for part in ("state_dict", "slow_weights"):
        assert all(torch.equal(value, killed[part][key]) for key, value in whole[part].items()), part
    assert len(killed["random_states"]) == 2
