"""Checkpoint files are whole or not there, and a damaged one costs no more than the steps since the one before."""

from __future__ import annotations

import os
import time

import pytest
import torch

from common.errors import UserError
from common.io.checkpoints import (
    AtomicCheckpointIO,
    check_project,
    latest_valid_checkpoint,
    logged_steps,
    read_checkpoint,
    sorted_by_step,
)


def checkpoint(step: int = 1, project: str = "cifar10") -> dict:
    return {"state_dict": {"weight": torch.full((1000,), float(step))}, "global_step": step, "project": project}


def write(path, content, age: int = 0):
    """Writes a checkpoint that is `age` seconds old."""
    path.parent.mkdir(exist_ok=True)
    torch.save(content, path)
    made = time.time_ns() - age * 10**9
    os.utime(path, ns=(made, made))
    return path


def truncate(path, share: float = 0.5) -> None:
    stat = path.stat()
    os.truncate(path, int(stat.st_size * share))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


# writing


def test_what_is_written_is_read_back(folder):
    AtomicCheckpointIO().save_checkpoint(checkpoint(7), folder / "x.ckpt")
    again = read_checkpoint(folder / "x.ckpt")
    assert again["global_step"] == 7 and torch.equal(again["state_dict"]["weight"], torch.full((1000,), 7.0))
    assert [path.name for path in folder.iterdir()] == ["x.ckpt"]


class DiskFull:
    """`torch.save` that writes half of the file."""

    def __call__(self, content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")


def test_a_failure_leaves_the_old_file_and_nothing_else(folder, monkeypatch):
    AtomicCheckpointIO().save_checkpoint(checkpoint(1), folder / "x.ckpt")
    monkeypatch.setattr(torch, "save", DiskFull())
    for name in ("x.ckpt", "y.ckpt"):
        with pytest.raises(OSError, match="No space"):
            AtomicCheckpointIO().save_checkpoint(checkpoint(2), folder / name)
    assert [path.name for path in folder.iterdir()] == ["x.ckpt"]
    assert read_checkpoint(folder / "x.ckpt")["global_step"] == 1


def test_until_it_is_whole_and_on_the_disk_nobody_sees_it(folder, monkeypatch):
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


# reading


def test_a_missing_file_is_named(folder):
    with pytest.raises(UserError, match=r"nothing\.ckpt: no such file"):
        read_checkpoint(folder / "nothing.ckpt")


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_named(folder, share):
    path = write(folder / "x.ckpt", checkpoint())
    truncate(path, share)
    with pytest.raises(UserError, match=r"x\.ckpt: truncated or damaged"):
        read_checkpoint(path)


def test_a_file_of_another_kind_is_named(folder):
    for content in ([1, 2, 3], {"weights": torch.zeros(2)}):
        with pytest.raises(UserError, match=r"x\.ckpt: not a checkpoint of this suite"):
            read_checkpoint(write(folder / "x.ckpt", content))
    (folder / "x.ckpt").write_text("hello")
    with pytest.raises(UserError, match=r"x\.ckpt: truncated or damaged"):
        read_checkpoint(folder / "x.ckpt")


def test_code_in_a_file_is_not_run(folder):
    class Command:
        def __reduce__(self):
            return os.mkdir, (str(folder / "pwned"),)

    with pytest.raises(UserError, match="damaged"):
        read_checkpoint(write(folder / "x.ckpt", {"state_dict": Command()}))
    assert not (folder / "pwned").exists()


def test_another_projects_checkpoint_is_refused(folder):
    check_project(checkpoint(project="gan"), "gan", folder)
    with pytest.raises(UserError, match=r"x\.ckpt: belongs to gan, not to cifar10"):
        check_project(checkpoint(project="gan"), "cifar10", folder / "x.ckpt")
    with pytest.raises(UserError, match="belongs to no project of this suite, not to cifar10"):
        check_project({"state_dict": {}}, "cifar10", folder / "x.ckpt")


# the newest good one


def test_newest_comes_first_by_time_and_copies_of_the_best_last(folder):
    for name, age in [("step-00000100", 30), ("step-00000300", 20), ("step-00000200", 10), ("best-00000300", 0)]:
        write(folder / f"{name}.ckpt", checkpoint(), age)
    (folder / ".step-00000400.ckpt.17.tmp").touch()
    names = [path.stem for path in sorted_by_step(folder)]
    assert names == ["step-00000200", "step-00000300", "step-00000100", "best-00000300"]
    assert [path.stem for path in sorted_by_step(folder, "step-*.ckpt")] == names[:3]
    assert sorted_by_step(folder / "missing") == []


def test_a_good_newest_one_is_taken_without_a_word(folder):
    write(folder / "step-00000001.ckpt", checkpoint(1), 10)
    newest = write(folder / "step-00000002.ckpt", checkpoint(2))
    assert latest_valid_checkpoint(sorted_by_step(folder), "cifar10", pytest.fail) == newest


def test_truncated_ones_are_passed_over_and_named(folder):
    good = write(folder / "step-00000001.ckpt", checkpoint(1), 20)
    for step in (2, 3):
        truncate(write(folder / f"step-0000000{step}.ckpt", checkpoint(step), 10 - step))
    said: list[str] = []
    assert latest_valid_checkpoint(sorted_by_step(folder), "cifar10", said.append) == good
    assert [line.split(":")[0].rpartition("/")[2] for line in said] == ["step-00000003.ckpt", "step-00000002.ckpt"]
    assert all("falling back to the one before" in line for line in said)


def test_if_all_are_truncated_that_is_an_error(folder):
    for step in (1, 2):
        truncate(write(folder / f"step-0000000{step}.ckpt", checkpoint(step)))
    with pytest.raises(UserError, match=f"no good checkpoint to resume from in {folder}"):
        latest_valid_checkpoint(sorted_by_step(folder), "cifar10", lambda line: None)
    with pytest.raises(UserError, match=r"no good checkpoint to resume from$"):
        latest_valid_checkpoint([], "cifar10", lambda line: None)


def test_nobody_falls_back_from_another_projects_checkpoint(tmp_path):
    folder = tmp_path / "belongs to"  # in the path of every message
    write(folder / "step-00000001.ckpt", checkpoint(1, "cifar10"), 10)
    newest = write(folder / "step-00000002.ckpt", checkpoint(2, "gan"))
    with pytest.raises(UserError, match="belongs to gan"):
        latest_valid_checkpoint(sorted_by_step(folder), "cifar10", lambda line: None)
    truncate(newest)
    assert latest_valid_checkpoint(sorted_by_step(folder), "cifar10", lambda line: None).stem == "step-00000001"


def test_logged_steps_number_the_next_row_of_figures():
    for last, counted, steps in [(False, 4, 5), (True, 5, 5)]:  # Lightning counts inside an epoch only after saving
        loop = {
            "epoch_loop.state_dict": {"_batches_that_stepped": counted},
            "epoch_loop.batch_progress": {"is_last_batch": last},
        }
        assert logged_steps({"loops": {"fit_loop": loop}}) == steps
