"""Checkpoints with flipped bits, or without the states that a run is resumed from: refused, or as good as before."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
import torch

from common.errors import UserError
from common.io.checkpoints import AtomicCheckpointIO, load_module, read_checkpoint
from common.run import run
from tests.commands import same
from toy.module import ToyModule

FLIPS = 150
DIRECTORY = b"PK\x01\x02"  # signature of an entry in the central directory
ATTRIBUTES = 38  # of the entry, behind its signature: the bit of value 16 makes it a folder


def flip(path: Path, position: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


def change(path: Path, **states) -> None:
    """Rewrites a checkpoint with other states; those that are None are left out."""
    content = torch.load(path, weights_only=True) | states
    torch.save({key: value for key, value in content.items() if value is not None}, path)


def positions(content: bytes) -> list[tuple[int, int]]:
    """Positions and bits over the whole file, and all that decide whether an entry is a folder."""
    rng, found = random.Random(0), []
    start = content.find(DIRECTORY)
    while start >= 0:
        found.append((start + ATTRIBUTES, 4))
        start = content.find(DIRECTORY, start + 1)
    return found + [(rng.randrange(len(content)), rng.randrange(8)) for _ in range(FLIPS)]


@pytest.mark.parametrize("read", [read_checkpoint, AtomicCheckpointIO().load_checkpoint], ids=["read", "trainer"])
def test_each_flipped_bit_is_refused_or_changes_nothing(tmp_path, read):
    path = tmp_path / "x.ckpt"
    AtomicCheckpointIO().save_checkpoint({"state_dict": {"w": torch.arange(500.0), "n": torch.arange(9)}, "epoch": 3}, path)
    good, expected, refused = path.read_bytes(), read_checkpoint(path), 0
    flips = positions(good)
    for position, bit in flips:
        path.write_bytes(good)
        flip(path, position, bit)
        try:
            assert same(read(path), expected), (position, bit)
        except UserError as error:
            assert str(error) == f"checkpoint {path}: truncated or damaged" or "not a checkpoint" in str(error)
            refused += 1
    assert len(flips) / 2 < refused < len(flips), "both happen"


def test_resuming_falls_back_from_a_flipped_bit(copied, train):
    path = copied / "checkpoints" / "step-00000004.ckpt"
    weights = torch.load(path, weights_only=True)["state_dict"]["net.0.weight"]
    flip(path, path.read_bytes().find(weights.numpy().tobytes()) + 5, 3)
    done = train("--name", "full", "--resume", "auto", "--wandb", "false", alone=True)
    assert done.code == 0 and "step-00000004.ckpt: truncated or damaged; falling back to the one before" in done.out


def test_damaged_best_checkpoint_is_not_tested(train, monkeypatch):
    find = run.best_checkpoint

    def damaged(trainer, run_dir):
        path = Path(find(trainer, run_dir))
        flip(path, path.stat().st_size // 3, 0)
        return str(path)

    monkeypatch.setattr(run, "best_checkpoint", damaged)
    done = train("--name", "x", "--max_epochs", "1")
    path = "runs/toy/x/checkpoints/best-00000002.ckpt"
    assert done.error.startswith(f"checkpoint {path}: truncated or damaged: it is not tested; remove it, and --resume auto")
    assert not (done.run("x") / "summary.json").exists()
    (done.folder / path).unlink()
    monkeypatch.setattr(run, "best_checkpoint", find)
    assert train("--name", "x", "--resume", "auto", "--max_epochs", "1").code == 0


STRIPPED = {"optimizer_states": None, "lr_schedulers": None, "callbacks": None, "random_states": None}  # of weights alone


@pytest.mark.parametrize(
    "states, lacking",
    [
        (STRIPPED, "optimizer_states, random_states, callbacks"),
        ({"optimizer_states": []}, "optimizer_states"),
        ({"optimizer_states": [3]}, "loops or optimizer_states"),
        ({"loops": None}, "loops"),
        ({"loops": {"fit_loop": {}}}, "loops or optimizer_states"),
        ({"optimizer_states": [{"state": {0: {"momentum_buffer": torch.ones(9)}}}]}, "optimizer_states of these weights"),
    ],
)
def test_resuming_falls_back_from_a_checkpoint_without_states(copied, train, states, lacking):
    path = copied / "checkpoints" / "step-00000004.ckpt"
    change(path, **states)
    named = path.relative_to(copied.parents[2])
    line = f"checkpoint {named}: lacks what a run is resumed from: {lacking}"
    assert train("--resume", str(named)).error.startswith(line)
    assert load_module(path, ToyModule, "toy")[0].hparams["num_classes"] == 2, "prediction needs the weights alone"
    done = train("--name", "full", "--resume", "auto", "--wandb", "false", alone=True)
    assert done.code == 0 and line in done.out and "resuming runs/toy/full from step-00000002.ckpt" in done.out


@pytest.mark.parametrize(
    "states, line",
    [
        ({"lr_schedulers": [{}]}, r"has 1 lr_schedulers, and this run 0; resume from an earlier one with --resume FILE, or"),
        ({"optimizer_states": [{"state": {}, "param_groups": []}]}, r"its optimizer, callback or loop states do not fit .*"),
        ({"random_states": [{"torch": 3}]}, "its optimizer, callback or loop states do not fit this run: .*"),
    ],
)
def test_states_that_do_not_fit_are_one_line(copied, train, states, line):
    path = copied / "checkpoints" / "step-00000004.ckpt"
    change(path, **states)
    error = train("--name", "full", "--resume", "auto", "--max_epochs", "3", "--wandb", "false").error
    assert re.match(rf"checkpoint runs/toy/full/checkpoints/step-00000004.ckpt: {line}", error), error


def test_weights_alone_are_of_their_project(tmp_path):
    AtomicCheckpointIO("toy").save_checkpoint({"state_dict": {}}, tmp_path / "x.ckpt")
    assert read_checkpoint(tmp_path / "x.ckpt")["project"] == "toy"
