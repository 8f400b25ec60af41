"""Any number of processes: one training, also where sizes do not divide and where the number changes at a resume."""

from __future__ import annotations

import random
import signal

import pytest
import torch

from commands import can_be_killed, commands, last_checkpoint
from common.errors import EXIT_PREEMPTED

ROWS = 199  # of which 39 are held out: 160 for training is too even, so five have an empty cell
FLAGS = ["--accelerator", "cpu", "--precision", "64-true", "--max_epochs", "4", "--checkpoint_every", "1"]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    generator, path = random.Random(0), tmp_path_factory.mktemp("table") / "train.csv"
    rows = [[generator.gauss(0, 1) for _ in range(4)] for _ in range(ROWS)]
    path.write_text("a,b,c,target\n" + "".join(",".join(map(str, row)) + "\n" for row in rows))
    return path


@pytest.fixture
def start(tmp_path, table):
    (tmp_path / "here").mkdir()
    with commands(tmp_path / "here", "blank", [*FLAGS, "--data.source", str(table), "--model.hidden_dim", "8"]) as start:
        yield start


def assert_equal_weights(left, right):
    for key, value in left["state_dict"].items():
        torch.testing.assert_close(right["state_dict"][key], value, rtol=1e-10, atol=1e-12, msg=lambda text, key=key: key)


@pytest.mark.parametrize("accumulate", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_two_processes_and_accumulated_batches_of_unequal_sizes_equal_one(start, accumulate):
    several = ["--trainer.accumulate_grad_batches", str(accumulate), "--model.weight_decay", "0"]
    pair = start("train", "--name", "two", *several, "--data.batch_size", "7", processes=2)
    one = start("train", "--name", "one", *several, "--data.batch_size", "14")
    assert "2 x 7" in pair.wait() and one.wait()
    states = [last_checkpoint(one.runs / name) for name in ("one", "two")]
    assert states[0]["global_step"] == states[1]["global_step"] > 4
    assert_equal_weights(*states)


@pytest.mark.parametrize("before, after", [(1, 2), (2, 1), (2, 3), (3, 2)])
@pytest.mark.slow
def test_a_resume_with_other_processes_goes_on_with_the_same_batches(start, before, after):
    batch = ["--data.batch_size", "10"]
    whole = start("train", "--name", "whole", *batch, processes=before)
    whole.wait()
    killed = start("train", "--name", "cut", *batch, processes=before)
    run = killed.runs / "cut"
    killed.kill_when(lambda: can_be_killed(run, 3), signal.SIGTERM)
    killed.wait(EXIT_PREEMPTED)
    output = start("train", "--name", "cut", "--resume", "auto", *batch, processes=after).wait()
    assert f"resuming with {after} processes instead of {before}: batches stay as they are" in output
    assert_equal_weights(last_checkpoint(run), last_checkpoint(whole.runs / "whole"))
