"""Lock of a run folder: of several processes one trains in it, and no killed one is in the way of a resume."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from common.errors import UserError
from common.io.locks import lock_folder, lock_is_gone, locks_released
from common.io.run_dir import open_run_dir

LINE = "runs/toy/x exists; another process trains it: wait for its end, or choose another --name"


@pytest.fixture(autouse=True)
def _released():
    with locks_released():
        yield


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("resume", [None, "allow"])
def test_of_two_starts_at_one_moment_one_wins(tmp_path, monkeypatch, resume):
    monkeypatch.chdir(tmp_path)
    barrier, lines = threading.Barrier(8), []

    def start() -> None:
        barrier.wait()
        try:
            open_run_dir("toy", "x", resume, "sample")
        except UserError as error:
            lines.append(str(error))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lines == [LINE] * 7


STEP = "runs/toy/x/checkpoints/step-00000002.ckpt"


@pytest.mark.parametrize(
    "flags",
    [["--name", "x"], ["--name", "x", "--resume", "auto"], ["--name", "x", "--resume", "allow"], ["--resume", STEP]],
    ids=" ".join,
)
def test_run_that_another_process_trains_is_left_alone(train, flags):
    run = train("--name", "x", "--max_epochs", "1").run("x")
    before = files(run)
    assert lock_folder(run)
    assert train(*flags, "--max_epochs", "2").error == LINE and files(run) == before


def test_end_of_a_run_releases_its_lock(train):
    assert "data source" in train("--name", "x", "--data.source", "/no/such/folder").error
    run = train("--name", "x", "--max_epochs", "1").run("x")
    assert train("--name", "x", "--resume", "auto").code == 0
    assert lock_folder(run)


def test_lock_of_a_killed_process_is_free_at_once(tmp_path):
    """Also while the processes that it has forked still live, as the workers of a loader do for some seconds."""
    reader, writer = os.pipe()
    parent = os.fork()
    if parent == 0:
        lock_folder(tmp_path)
        worker = os.fork()
        if worker > 0:
            os.write(writer, b"%d\n" % worker)
        time.sleep(60)
        os._exit(0)
    worker = int(os.read(reader, 20))
    try:
        assert not lock_folder(tmp_path)
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        os.kill(worker, 0)  # it is alive
        assert lock_folder(tmp_path)
    finally:
        os.kill(worker, signal.SIGKILL)
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_file_system_without_locks_trains_without(train, monkeypatch, code):
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    assert train("--name", "x", "--max_epochs", "1").code == 0
    assert train("--name", "x").error == "runs/toy/x exists; choose another --name, or add --resume auto to continue it"


def test_removed_lock_is_noticed(tmp_path):
    assert not lock_is_gone(tmp_path)
    lock_folder(tmp_path)
    assert not lock_is_gone(tmp_path)
    (tmp_path / ".lock").unlink()
    assert lock_is_gone(tmp_path)
    (tmp_path / ".lock").touch()
    assert lock_is_gone(tmp_path), "it is another one"
