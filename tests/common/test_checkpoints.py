"""Checkpoints: atomic writing, plain hyper-parameters, checked loading, and the latest valid one."""

from __future__ import annotations

import os
import time
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from jsonargparse.typing import NonNegativeFloat, PositiveInt
from lightning.pytorch import LightningModule, Trainer

from common.errors import UserError
from common.io.checkpoints import (
    AtomicCheckpointIO,
    check_project,
    latest_valid_checkpoint,
    load_module,
    plain,
    read_checkpoint,
    sorted_by_step,
)
from common.options import as_dataclass
from common.version import VERSION

HERE = f"this is {VERSION}"


def checkpoint(step: int = 1, project: str = "cifar10") -> dict:
    counts, progress = {"_batches_that_stepped": step}, {"is_last_batch": True}
    return {
        "state_dict": {"weight": torch.full((1000,), float(step))},
        "global_step": step,
        "project": project,
        "optimizer_states": [{"state": {}}],
        "random_states": [{}],
        "callbacks": {},
        "loops": {"fit_loop": {"epoch_loop.state_dict": counts, "epoch_loop.batch_progress": progress}},
    }


def write(path, content, age: int = 0):
    """Writes a checkpoint that is `age` seconds old."""
    path.parent.mkdir(exist_ok=True)
    torch.save(content, path)
    made = time.time_ns() - age * 10**9
    os.utime(path, ns=(made, made))
    return path


def truncate(path, fraction: float = 0.5) -> None:
    stat = path.stat()
    os.truncate(path, int(stat.st_size * fraction))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


# writing


def test_written_checkpoint_is_read_back(folder):
    AtomicCheckpointIO().save_checkpoint(checkpoint(7), folder / "x.ckpt")
    again = read_checkpoint(folder / "x.ckpt")
    assert again["global_step"] == 7 and torch.equal(again["state_dict"]["weight"], torch.full((1000,), 7.0))
    assert [path.name for path in folder.iterdir()] == ["x.ckpt"]


class DiskFull:
    """`torch.save` on a full disk."""

    def __call__(self, content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")


def test_failed_write_keeps_the_old_file_and_leaves_no_other(folder, monkeypatch):
    AtomicCheckpointIO().save_checkpoint(checkpoint(1), folder / "x.ckpt")
    monkeypatch.setattr(torch, "save", DiskFull())
    for name in ("x.ckpt", "y.ckpt"):
        with pytest.raises(OSError, match="No space"):
            AtomicCheckpointIO().save_checkpoint(checkpoint(2), folder / name)
    assert [path.name for path in folder.iterdir()] == ["x.ckpt"]
    assert read_checkpoint(folder / "x.ckpt")["global_step"] == 1


def test_file_is_complete_and_synced_before_it_gets_its_name(folder, monkeypatch):
    saved, synced = torch.save, []

    def save(content, file):
        assert not list(folder.glob("*.ckpt"))
        saved(content, file)

    def fsync(number):
        assert not list(folder.glob("*.ckpt"))
        synced.append(os.fstat(number).st_size)

    monkeypatch.setattr(torch, "save", save)
    monkeypatch.setattr(os, "fsync", fsync)
    AtomicCheckpointIO().save_checkpoint(checkpoint(), folder / "x.ckpt")
    assert synced == [(folder / "x.ckpt").stat().st_size]


# hyper-parameters


@dataclass(frozen=True)
class CellConfig:
    """Options of a network, as a group of its own."""

    kind: str = "gru"
    dims: tuple[int, ...] = (8, 8)
    dropout: float = 0.0


class Classifier(LightningModule):
    """A module with an option of each kind."""

    def __init__(self, dim: PositiveInt = 2, lr: NonNegativeFloat = 0.1, cell: CellConfig = CellConfig(), name=None) -> None:
        super().__init__()
        cell = as_dataclass(CellConfig, cell)
        self.save_hyperparameters()
        self.net = torch.nn.Linear(dim, 3)


Point = namedtuple("Point", "x y")


@pytest.mark.parametrize(
    "value, expected",
    [
        (PositiveInt(3), 3),
        (NonNegativeFloat(0.5), 0.5),
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (True, True),
        (None, None),
        ("x", "x"),
        (np.str_("x"), "x"),
        (Path("a/b"), "a/b"),
        ([PositiveInt(1), (2, Path("a"))], [1, (2, "a")]),
        (Point(1, 2), (1, 2)),
        (OrderedDict(a=PositiveInt(1)), {"a": 1}),
        (CellConfig(dims=(PositiveInt(4),)), {"kind": "gru", "dims": (4,), "dropout": 0.0}),
    ],
)
def test_hyperparameters_are_saved_as_builtins(value, expected):
    def types(value):
        items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
        return type(value), [types(item) for item in items]

    assert plain(value) == expected and types(plain(value)) == types(expected)


def test_other_hyperparameters_stay_as_they_are():
    tensor = torch.zeros(2)
    assert plain({"classes": tensor})["classes"] is tensor


def save(path: Path, module: LightningModule, **changes) -> Path:
    """Checkpoint of `module` as Lightning saves it, with `changes`."""
    trainer = Trainer(accelerator="cpu", logger=False, plugins=[AtomicCheckpointIO()], enable_checkpointing=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(path)
    return write(path, torch.load(path, weights_only=True) | {"project": "toy"} | changes)


def test_module_is_loaded_with_its_options_and_weights(folder):
    module = Classifier(PositiveInt(4), NonNegativeFloat(0.2), CellConfig("lstm", (4,), dropout=0.1), name="x")
    loaded, saved = load_module(save(folder / "x.ckpt", module), Classifier, "toy")
    assert dict(loaded.hparams) == {"dim": 4, "lr": 0.2, "cell": CellConfig("lstm", (4,), dropout=0.1), "name": "x"}
    assert saved["hyper_parameters"]["cell"] == {"kind": "lstm", "dims": (4,), "dropout": 0.1}
    assert torch.equal(loaded.net.weight, module.net.weight) and not loaded.training


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"project": "gan"}, "belongs to gan, not to toy"),
        ({"hyper_parameters": {"width": 4}, "version": "9.9"}, f"written by version 9.9 of this suite, {HERE} .*'width'"),
        ({"hyper_parameters": {"cell": {"gates": 3}}}, f"written by version {VERSION} of this suite, {HERE} .*'gates'"),
        ({"hyper_parameters": {"dim": 3}}, f"written by version {VERSION} of .* load it with the code that wrote it"),
        ({"state_dict": {}}, f"written by version {VERSION} of .*Missing key"),
    ],
)
def test_checkpoint_that_does_not_fit_is_one_line(folder, changes, message):
    path = save(folder / "x.ckpt", Classifier(), **changes)
    with pytest.raises(UserError, match=rf"x\.ckpt: {message}") as caught:
        load_module(path, Classifier, "toy")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < len(str(path)) + 300


def test_damaged_or_unknown_checkpoint_is_one_line(folder):
    path = save(folder / "x.ckpt", Classifier())
    without = torch.load(path, weights_only=True)
    del without["hyper_parameters"], without["version"]
    with pytest.raises(UserError, match=r"written by a version before 0.2.0 .*'hyper_parameters'"):
        load_module(write(path, without), Classifier, "toy")
    truncate(path)
    with pytest.raises(UserError, match=r"x\.ckpt: truncated or damaged"):
        load_module(path, Classifier, "toy")


# reading


def test_missing_file_is_named(folder):
    with pytest.raises(UserError, match=r"nothing\.ckpt: no such file"):
        read_checkpoint(folder / "nothing.ckpt")


@pytest.mark.parametrize("fraction", [0, 0.01, 0.5, 0.99])
def test_truncated_file_is_named(folder, fraction):
    path = write(folder / "x.ckpt", checkpoint())
    truncate(path, fraction)
    with pytest.raises(UserError, match=r"x\.ckpt: truncated or damaged"):
        read_checkpoint(path)


def test_file_of_another_kind_is_named(folder):
    for content in ([1, 2, 3], {"weights": torch.zeros(2)}):
        with pytest.raises(UserError, match=r"x\.ckpt: not a checkpoint of this suite"):
            read_checkpoint(write(folder / "x.ckpt", content))
    (folder / "x.ckpt").write_text("hello")
    with pytest.raises(UserError, match=r"x\.ckpt: not a checkpoint; the files to read go before --checkpoint"):
        read_checkpoint(folder / "x.ckpt")


def test_code_in_a_checkpoint_is_not_executed(folder):
    class Command:
        def __reduce__(self):
            return os.mkdir, (str(folder / "pwned"),)

    with pytest.raises(UserError, match=r"holds Python objects .* may be code, and are not loaded"):
        read_checkpoint(write(folder / "x.ckpt", {"state_dict": Command()}))
    assert not (folder / "pwned").exists()


def test_checkpoint_of_another_project_is_refused(folder):
    check_project(checkpoint(project="gan"), "gan", folder)
    with pytest.raises(UserError, match=r"x\.ckpt: belongs to gan, not to cifar10"):
        check_project(checkpoint(project="gan"), "cifar10", folder / "x.ckpt")
    with pytest.raises(UserError, match="belongs to no project of this suite, not to cifar10"):
        check_project({"state_dict": {}}, "cifar10", folder / "x.ckpt")


# the latest valid one


def test_checkpoints_are_sorted_by_time_with_copies_of_the_best_last(folder):
    for name, age in [("step-00000100", 30), ("step-00000300", 20), ("step-00000200", 10), ("best-00000300", 0)]:
        write(folder / f"{name}.ckpt", checkpoint(), age)
    (folder / ".step-00000400.ckpt.17.tmp").touch()
    names = [path.stem for path in sorted_by_step(folder)]
    assert names == ["step-00000200", "step-00000300", "step-00000100", "best-00000300"]
    assert [path.stem for path in sorted_by_step(folder, "step-*.ckpt")] == names[:3]
    assert sorted_by_step(folder / "missing") == []


def test_valid_latest_checkpoint_is_taken_silently(folder, capsys):
    write(folder / "step-00000001.ckpt", checkpoint(1), 10)
    newest = write(folder / "step-00000002.ckpt", checkpoint(2))
    assert latest_valid_checkpoint(sorted_by_step(folder), "cifar10") == newest
    assert capsys.readouterr().out == ""


def test_truncated_checkpoints_are_skipped_and_named(folder, capsys):
    good = write(folder / "step-00000001.ckpt", checkpoint(1), 20)
    for step in (2, 3):
        truncate(write(folder / f"step-0000000{step}.ckpt", checkpoint(step), 10 - step))
    assert latest_valid_checkpoint(sorted_by_step(folder), "cifar10") == good
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0].rpartition("/")[2] for line in lines] == ["step-00000003.ckpt", "step-00000002.ckpt"]
    assert all("falling back to the one before" in line for line in lines)


def test_only_truncated_checkpoints_are_an_error(folder):
    for step in (1, 2):
        truncate(write(folder / f"step-0000000{step}.ckpt", checkpoint(step)))
    with pytest.raises(UserError, match=f"no valid checkpoint to resume from in {folder}"):
        latest_valid_checkpoint(sorted_by_step(folder), "cifar10")
    with pytest.raises(UserError, match=r"no valid checkpoint to resume from$"):
        latest_valid_checkpoint([], "cifar10")


def test_no_fallback_from_a_checkpoint_of_another_project(tmp_path):
    folder = tmp_path / "belongs to"  # in the path of every message
    write(folder / "step-00000001.ckpt", checkpoint(1, "cifar10"), 10)
    newest = write(folder / "step-00000002.ckpt", checkpoint(2, "gan"))
    with pytest.raises(UserError, match="belongs to gan"):
        latest_valid_checkpoint(sorted_by_step(folder), "cifar10")
    truncate(newest)
    assert latest_valid_checkpoint(sorted_by_step(folder), "cifar10").stem == "step-00000001"
