"""Faults of the disk: system calls that fail at any point of a run, a full, read-only or removed folder; nothing is lost."""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from commands import ROOT, environment, newest_checkpoint, same, start_fresh
from common.io.disk import disk_error, named
from common.io.metrics import read_metrics
from toy.module import ToyModule

RUN = ["--max_epochs", "2", "--checkpoint_every", "1", "--data.batch_size", "30"]  # four steps
SUMMARIZED = ("test", "best_validation", "checkpoint", "epochs", "steps")


class Faults:
    """Fault injection: a system call that changes a file below `folder` fails with `code`.

    Args:
        folder: The folder.
        at: Which call: its number, or a pattern of what is in `calls`.
        code: The error. A full disk (ENOSPC) still renames and removes files.
        lasting: Whether all calls after it fail as well.
    """

    def __init__(self, folder: Path, at: int | str, code: int, lasting: bool = False) -> None:
        self.folder, self.at, self.code, self.lasting = folder, at, code, lasting
        self.calls: list[str] = []
        self.failed = False

    def check(self, name: str, path: Any, target: str | None = None) -> None:
        """Counts the call, and raises OSError if it is to fail."""
        inside = not isinstance(path, int) and Path(path).absolute().is_relative_to(self.folder)
        if not inside or (self.code == errno.ENOSPC and name in ("replace", "unlink")):
            return
        self.calls.append(f"{name} {re.sub('[0-9]+', 'N', Path(path).name)}")
        due = len(self.calls) == self.at if isinstance(self.at, int) else bool(re.match(self.at, self.calls[-1]))
        if self.lasting if self.failed else due:
            self.failed = True
            names = [] if name in ("write", "fsync") else [os.fspath(path), None, target]
            raise OSError(self.code, os.strerror(self.code), *names)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Puts itself in front of `open`, of the files that it opens, and of the calls of `os`."""
        faults, opened, fsync = self, io.open, os.fsync

        class File(io.FileIO):
            def write(self, data: Any) -> int:
                faults.check("write", self.name)
                return super().write(data)

        def open_file(file: Any, mode: str = "r", buffering: int = -1, encoding=None, errors=None, newline=None, *args: Any):
            if isinstance(file, int) or not set(mode) & set("wax+"):
                return opened(file, mode, buffering, encoding, errors, newline, *args)
            faults.check("open", file)
            raw = File(file, mode.replace("b", "").replace("t", ""))
            buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding or "utf-8", errors, newline)

        def sync(descriptor: int) -> None:
            faults.check("fsync", Path(f"/proc/self/fd/{descriptor}").readlink())
            fsync(descriptor)

        monkeypatch.setattr(io, "open", open_file)
        monkeypatch.setattr(builtins, "open", open_file)
        monkeypatch.setattr(os, "fsync", sync)
        for name in ("open", "replace", "rename", "unlink", "mkdir"):
            monkeypatch.setattr(os, name, self.counted(name, getattr(os, name)))

    def counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(path: Any, *args: Any, **options: Any) -> Any:
            if name != "open" or args[0] & os.O_CREAT:
                self.check(name, path, os.fspath(args[0]) if name in ("replace", "rename") else None)
            return function(path, *args, **options)

        return counted


@pytest.fixture
def whole(train) -> Path:
    """Folder of a run without a fault."""
    return train(*RUN, "--name", "whole").run("whole")


def continue_by(line: str, train: Callable[..., Any]) -> Path:
    """Run folder of the run "x", after it was continued as the line of its fault says."""
    flags = re.search(r", and continue with --name x (.*)", line)
    again = train(*RUN, "--name", "x", *(shlex.split(flags[1]) if flags else []))
    assert again.code == 0, (line, again.err)
    return again.run("x")


def assert_equal_runs(run: Path, whole: Path, line: str = "") -> None:
    """Weights bitwise, results, and metrics; without the rows of the step before the fault, which may be in no file yet."""
    (step, path), (last, reference) = newest_checkpoint(run), newest_checkpoint(whole)
    assert step == last and same(weights(path), weights(reference)), line
    rows, expected = metrics(run), metrics(whole)
    rows = [row for number, row in enumerate(rows) if row not in rows[:number]]  # a write that fails may have written
    missing = {row["step"] for row in expected if row not in rows}
    assert [row for row in expected if row in rows] == rows and len(missing) < 2, line
    summaries = [json.loads((path / "summary.json").read_text()) for path in (run, whole)]
    assert same(*[{key: summary[key] for key in SUMMARIZED} for summary in summaries]), line
    assert not list(run.rglob("*.tmp")), line


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def metrics(run: Path) -> list[dict[str, float]]:
    """Rows of metrics.csv, without the throughput."""
    return [{key: row[key] for key in row if not key.startswith("perf/")} for row in read_metrics(run / "metrics.csv")]


def fail_and_continue(train: Callable[..., Any], faults: Faults, whole: Path) -> str:
    """Line about the fault of a run; its end is compared with that of `whole`, if need be after it was continued."""
    with pytest.MonkeyPatch.context() as patched:
        faults.install(patched)
        done = train(*RUN, "--name", "x")
    if done.code == 0:
        line = next((line for line in done.out.splitlines() if "not drawn" in line), "")
        assert bool(line) or not faults.lasting or not faults.failed
    else:
        line = done.error
        assert os.strerror(faults.code) in line
        continue_by(line, train)
    assert_equal_runs(done.run("x"), whole, line)
    return line


@pytest.mark.parametrize(
    "call, code, message",
    [
        ("mkdir checkpoints", errno.ENOSPC, "run folder runs/toy/x cannot be written: No space left on device; free space"),
        (r"open \.lock", errno.EACCES, "run folder runs/toy/x cannot be written: Permission denied; choose another --name"),
        ("open metrics.csv", errno.EACCES, "runs/toy/x/metrics.csv: Permission denied; make it writable, and continue"),
        (r"write \.step-N", errno.ENOSPC, "runs/toy/x/checkpoints/step-00000001.ckpt: No space left on device; free space"),
        (r"write \.config.yaml", errno.ENOSPC, "runs/toy/x/config.yaml: No space left on device; free space, and continue"),
        ("write metrics.csv", errno.ENOSPC, "runs/toy/x/metrics.csv: No space left on device; free space, and continue"),
        ("unlink attempts.json", errno.EIO, ""),
        (r"fsync \.best-N", errno.EIO, "runs/toy/x/checkpoints/best-00000002.ckpt: Input/output error; check the disk, and"),
        (r"replace \.step-N", errno.EROFS, "runs/toy/x/checkpoints/step-00000001.ckpt: Read-only file system; make it"),
        ("unlink step-N", errno.EIO, "runs/toy/x/checkpoints/step-00000001.ckpt: Input/output error; check the disk, and"),
        ("write points.png", errno.ENOSPC, "points.png: not drawn: .*No space left on device"),
        (
            "open .*summary.json",
            errno.EDQUOT,
            "runs/toy/x/.*summary.json.*: Disk quota exceeded; free space, and",
        ),
    ],
)
def test_call_that_fails_is_one_line_and_costs_nothing(train, tmp_path, whole, call, code, message):
    assert re.match(message, fail_and_continue(train, Faults(tmp_path / "runs/toy/x", call, code), whole))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("code, lasting", [(errno.EIO, False), (errno.ENOSPC, True)])
def test_each_call_of_a_run_may_fail(train, tmp_path, whole, code, lasting):
    at, faults = 0, Faults(tmp_path / "runs/toy/x", 0, code)
    while at <= len(faults.calls):  # in the last run none fails
        at += 1
        faults = Faults(tmp_path / "runs/toy/x", at, code, lasting)
        fail_and_continue(train, faults, whole)
        shutil.rmtree(tmp_path / "runs/toy/x")
    assert at > 50


# real file systems


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    """Context in which something is mounted at `folder`; skips the test where that takes rights that the user lacks."""
    folder.mkdir(exist_ok=True)
    if subprocess.run(["mount", *options, str(folder)], capture_output=True).returncode:
        pytest.skip("may not mount")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("size", [4, 12, 40, 60, 80], ids="{}k".format)
def test_full_disk_is_one_line_and_the_run_continues(train, tmp_path, whole, size):
    run = tmp_path / "runs" / "toy" / "x"
    with mounted(run, "-t", "tmpfs", "-o", f"size={size}k", "tmpfs"):
        line = train(*RUN, "--name", "x").error
        assert re.match("runs/toy/x.*: No space left on device; free space, and continue with --name x --resume a", line)
        subprocess.run(["mount", "-o", "remount,size=4m", str(run)], check=True)
        assert_equal_runs(continue_by(line, train), whole)


def at_the_second_epoch(monkeypatch: pytest.MonkeyPatch, action: Callable[[], Any]) -> None:
    """Calls `action` in the middle of the next run."""

    def on_train_epoch_start(module: ToyModule) -> None:
        if module.current_epoch == 1:
            action()

    monkeypatch.setattr(ToyModule, "on_train_epoch_start", on_train_epoch_start)


def test_disk_that_becomes_read_only_is_one_line_and_the_run_continues(train, tmp_path, whole, monkeypatch):
    run = tmp_path / "runs" / "toy" / "x"
    with ExitStack() as stack, monkeypatch.context() as patched:
        read_only = mounted(run, "--bind", "-o", "ro", str(run))  # over the folder itself
        at_the_second_epoch(patched, lambda: stack.enter_context(read_only))
        line = train(*RUN, "--name", "x").error
        refused = train(*RUN, "--name", "x", "--resume", "auto").error
    assert refused == "run folder runs/toy/x cannot be written: Read-only file system; make it writable"
    assert re.match("runs/toy/x/.*: Read-only file system; make it writable, and continue with --name x --resume auto", line)
    assert_equal_runs(continue_by(line, train), whole)


def test_run_folder_that_is_removed_is_one_line(train, tmp_path, monkeypatch):
    run = tmp_path / "runs" / "toy" / "x"
    at_the_second_epoch(monkeypatch, lambda: shutil.rmtree(run))
    assert train(*RUN, "--name", "x").error.startswith("runs/toy/x was removed while it was trained; put it back")
    assert not run.exists(), "nothing comes in its place"


def test_run_folder_that_is_another_run_s_now_is_left_alone(train, tmp_path, monkeypatch):
    run = tmp_path / "runs" / "toy" / "x"
    at_the_second_epoch(monkeypatch, lambda: [shutil.rmtree(run), run.mkdir(), (run / ".lock").touch()])
    assert train(*RUN, "--name", "x").error.startswith("runs/toy/x was removed while it was trained")
    assert [path.name for path in run.iterdir()] == [".lock"]


def test_run_folder_that_is_a_file_is_one_line(train, tmp_path):
    (tmp_path / "runs" / "toy").mkdir(parents=True)
    (tmp_path / "runs" / "toy" / "x").touch()
    for flags in ([], ["--resume", "allow"]):
        line = train("--name", "x", *flags).error
        assert line == "run folder runs/toy/x cannot be written: Not a directory; choose another --name"


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_file_size_limit_is_one_line_and_the_run_continues(train, whole):
    with largest_file(10_000):
        line = train(*RUN, "--name", "x").error
    assert re.match("runs/toy/x/checkpoints/step-00000001.ckpt: File too large; allow larger files .*--resume allow$", line)
    assert_equal_runs(continue_by(line, train), whole)


# errors of the disk and bugs


def test_error_of_torch_save_has_the_reason_behind_it(tmp_path):
    with largest_file(1000), pytest.raises(RuntimeError, match="inline_container") as caught:
        torch.save({"x": torch.zeros(10_000)}, tmp_path / "x")
    assert disk_error(caught.value) == "a checkpoint cannot be written; free space"

    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError) as full, named(Path("x")):
        torch.save({"x": torch.zeros(10_000)}, Full())
    assert disk_error(full.value) == "x: No space left on device; free space"


def test_error_of_a_library_in_rust_is_the_system_s():
    error = Exception("Error while serializing: I/O error: No space left on device (os error 28)")  # of safetensors
    assert disk_error(error) == "No space left on device; free space"
    with pytest.raises(OSError) as caught, named(Path("x")):
        raise error
    assert disk_error(caught.value) == "x: No space left on device; free space"


@pytest.mark.parametrize(
    "error", [FileNotFoundError(2, "x", "a"), PermissionError(13, "x", "runs/toy/y/a"), OSError("x")], ids=repr
)
def test_bug_keeps_its_traceback(train, monkeypatch, error):
    def fail() -> None:
        raise error

    at_the_second_epoch(monkeypatch, fail)
    with pytest.raises(type(error)):
        train(*RUN, "--name", "x")
    assert disk_error(RuntimeError("x")) is None


def test_folder_for_temporary_files_that_is_full_is_one_line():
    error = FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")
    assert disk_error(error) == "No usable temporary directory found in ['/tmp']; free space, or set TMPDIR"


PRINTS = """
import sys
from common.cli.command import report_errors
sys.exit(report_errors(lambda: print("x")))
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_into_a_full_file_is_one_line(unbuffered):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", PRINTS], env=env, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (2, "error: standard output: No space left on device; free space\n")


@pytest.mark.slow
def test_other_processes_end_with_rank_zero(tmp_path):
    flags = [
        "--data.source",
        "sample",
        "--accelerator",
        "cpu",
        "--precision",
        "32-true",
        "--devices",
        "2",
        "--strategy",
        "ddp",
    ]
    env = {**environment(tmp_path), "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    log = tmp_path / "log.txt"
    with largest_file(10_000):
        process = start_fresh("toy.train", [*flags, *RUN, "--name", "x"], tmp_path, env, log)
    assert process.wait(120) == 2, log.read_text()
    assert "checkpoints/step-00000001.ckpt: File too large; allow" in log.read_text() and "Traceback" not in log.read_text()
    deadline = time.monotonic() + 10
    while any(b"toy.train" in (path / "cmdline").read_bytes() for path in in_session(process.pid)):
        assert time.monotonic() < deadline, "a process hangs"
        time.sleep(0.2)


def in_session(session: int) -> list[Path]:
    """Processes of a session, in /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, its_session = (path / "stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(its_session) == session and state != "Z":
            found.append(path)
    return found
