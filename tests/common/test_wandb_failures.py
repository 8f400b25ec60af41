"""A run goes on, and loses seconds, whatever W&B's server does; what has not been uploaded can be uploaded later."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy_runs import TINY
from wandb_reader import only_part, records, synced
from wandb_stub import KEY, WandbServer

from commands import ROOT, environment
from common.errors import EXIT_PREEMPTED, UserError
from common.io import wandb_run as loggers
from common.io.wandb_run import closing_wandb, has_upload_errors, wandb_logger
from common.io.wandb_server import stop_wandb

REGISTERED = "UpsertBucket"  # the operation after which a run is registered


def service() -> Any:
    """W&B's background process."""
    from wandb.sdk import wandb_setup

    return wandb_setup.singleton()._connection._proc._process


def log_run(folder: Path, meanwhile: Any = None) -> None:
    """A run that logs five steps, and calls `meanwhile` after the first."""
    with closing_wandb():
        logger = wandb_logger(folder, "p", {"loss": "min"}, {"a": 1})
        for step in range(5):
            logger.log_metrics({"loss": float(step)}, step=step)
            if step == 0 and meanwhile is not None:
                meanwhile()


def steps(folder: Path, mode: str = "") -> list[int]:
    """Steps in the history of W&B's run in `folder`."""
    return [row["trainer/global_step"] for row in only_part(folder, mode).history]


def uploaded(server: WandbServer) -> list[int]:
    """Steps in the history that the server has."""
    return [row["trainer/global_step"] for row in server.history]


def test_healthy_server_gets_everything_and_its_url_is_printed_first_and_last(wandb_server, tmp_path, capsys):
    server = wandb_server()
    log_run(tmp_path, lambda: print("meanwhile"))
    line = f"W&B: {server.url}/e/p/runs/p-{tmp_path.name}"
    assert capsys.readouterr().out.splitlines() == [line, "meanwhile", line]
    assert steps(tmp_path) == uploaded(server) == [0, 1, 2, 3, 4]
    assert {"UpsertBucket", "CreateRunFiles", "/upload/wandb-summary.json"} <= set(server.requests)
    assert not any("otel" in request for request in server.requests), "no telemetry"


def test_server_that_falls_sick_before_the_run_is_registered(wandb_server, tmp_path, capsys):
    wandb_server("html", healthy=1)
    log_run(tmp_path)
    line, _ = capsys.readouterr().out.splitlines()
    assert re.match("W&B: offline, Failed to get resume status .*; upload later with `wandb sync .*/offline-run-", line)
    assert steps(tmp_path, "offline-") == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("mode", ["401", "403", "404"])
def test_run_that_the_server_rejects_is_one_line(wandb_server, tmp_path, mode):
    wandb_server(mode, healthy=1)
    with pytest.raises(UserError, match=rf"--wandb: .* returned error {mode}.*; set WANDB_MODE=offline") as caught:
        log_run(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", ["401", "html", "hang"])
def test_upload_that_does_not_finish_can_be_done_later(wandb_server, monkeypatch, tmp_path, capsys, mode):
    monkeypatch.setattr(loggers, "MAX_DELAY", 5.0)  # half a second for the end
    wandb_server(mode, healthy=REGISTERED)
    log_run(tmp_path)
    _, line, _ = capsys.readouterr().out.splitlines()
    assert line.startswith("W&B: the upload has not finished; upload what is kept later with `wandb sync --include-online ")
    assert synced(line)[0].name.startswith("run-") and steps(tmp_path) == [0, 1, 2, 3, 4]


def test_run_goes_on_after_wandbs_process_has_died(wandb_server, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(loggers.ENVIRONMENT, "WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL", "0.1")
    wandb_server()
    log_run(tmp_path, lambda: (time.sleep(0.5), service().kill(), service().wait()))
    (file,) = tmp_path.rglob("run-*/*.wandb")
    assert any(record["type"] == "history" for record in records(file))
    _, first, last, _ = capsys.readouterr().out.splitlines()
    assert re.match(r"W&B: logging has stopped \(.+\); metrics.csv has it all", first)
    assert last.startswith("W&B: the upload has not finished")


def test_wandbs_process_that_hangs_is_killed_at_the_end(wandb_server, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(loggers, "MAX_DELAY", 5.0)
    wandb_server()
    processes = []
    began = time.perf_counter()
    log_run(tmp_path, lambda: processes.append(service()) or os.kill(service().pid, signal.SIGSTOP))
    assert time.perf_counter() - began < 5
    assert processes[0].poll() == -signal.SIGKILL
    assert "W&B: the upload has not finished" in capsys.readouterr().out


def test_process_of_another_rank_asks_nobody(wandb_server, monkeypatch, tmp_path):
    server = wandb_server("hang")
    monkeypatch.setattr(loggers.rank_zero_only, "rank", 1)
    log_run(tmp_path)
    assert server.requests == []


def test_errors_after_which_wandb_still_uploads_are_none(tmp_path):
    (tmp_path / "logs").mkdir()
    log = tmp_path / "logs" / "debug-internal.log"
    assert not has_upload_errors(tmp_path)
    log.write_text(
        '{"level":"ERROR","msg":"api: HTTP error","status":500}\n{"level":"INFO","msg":"filestream: fatal error"}\n'
    )
    assert not has_upload_errors(tmp_path)


# whole runs


@pytest.fixture
def seconds(train, monkeypatch):
    """Seconds of a run with `flags`, after one without W&B."""

    def run(*flags: str) -> tuple[Any, float]:
        began = time.perf_counter()
        done = train("--name", f"run{began}", *flags)
        return done, time.perf_counter() - began

    with monkeypatch.context() as offline:  # what is imported and built once
        offline.setenv("WANDB_MODE", "offline")
        run("--wandb", "--max_epochs", "1")
    stop_wandb()
    return run


@pytest.mark.slow
@pytest.mark.parametrize("healthy", [0, 1, REGISTERED])
@pytest.mark.parametrize("mode", ["hang", "drip", "reset", "500", "503", "429", "html", "json"])
def test_sick_server_costs_a_run_ten_seconds_at_most(wandb_server, seconds, mode, healthy):
    wandb_server(mode, healthy)
    _, without = seconds()
    done, taken = seconds("--wandb")
    assert done.code == 0, done.err
    assert taken < without + 10.5
    lines = [line for line in done.out.splitlines() if line.startswith("W&B")]
    assert lines and list(synced("\n".join(lines), done.folder)[0].glob("*.wandb")), done.out
    assert (done.folder / re.search(r"run folder (\S+)", done.out)[1] / "summary.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["401", "403", "nobody"])
def test_rejected_key_ends_the_command_at_once(wandb_server, seconds, mode):
    wandb_server(mode)
    done, taken = seconds("--wandb")
    assert "rejects the API key" in done.error and taken < 10


@pytest.mark.slow
@pytest.mark.parametrize("mode, healthy", [("html", 1), ("hang", REGISTERED)])
def test_command_of_the_line_uploads_the_run(wandb_server, monkeypatch, tmp_path, capsys, mode, healthy):
    wandb_server(mode, healthy)
    log_run(tmp_path)
    command = re.search("`wandb (.+?)`", capsys.readouterr().out)[1]
    server = wandb_server()
    subprocess.run(
        f"{shlex.quote(sys.executable)} -m wandb {command}",
        shell=True,
        env=os.environ | {"HOME": str(tmp_path)},
        check=True,
        timeout=120,
    )
    assert uploaded(server) == [0, 1, 2, 3, 4]


STOPS = [(signal.SIGTERM, "hang", 1), (signal.SIGINT, "hang", 1)]  # while the run is registered
STOPS += [(signal.SIGTERM, mode, REGISTERED) for mode in ("hang", "drip", "500", "reset")]
STOPS += [(signal.SIGINT, "hang", REGISTERED), (signal.SIGKILL, "hang", REGISTERED)]


@pytest.mark.slow
@pytest.mark.parametrize("number, mode, healthy", STOPS)
def test_stopped_run_does_not_wait_for_a_sick_server(tmp_path, number, mode, healthy):
    log = tmp_path / "log.txt"
    command = [sys.executable, "-m", "toy.train", *TINY, "--wandb", "--max_epochs", "100000", "--checkpoint_every", "5"]
    with WandbServer(mode, healthy) as server:
        env = environment(tmp_path) | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
        env |= {"HOME": str(tmp_path), "WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
        with log.open("w") as output:
            process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=output, stderr=subprocess.STDOUT)
        wait_until(lambda: server.is_sick and (healthy == 1 or any(tmp_path.rglob("step-*.ckpt"))), 200)
        process.send_signal(number)
        if number != signal.SIGKILL:  # the rest is the end of the interpreter
            said = "stopped by SIGTERM" if number == signal.SIGTERM else "upload has not finished"
            wait_until(lambda: said in log.read_text() or process.poll() is not None, 10)
        code = process.wait(40)
        wait_until(lambda: not any(is_child(path, process.pid) for path in Path("/proc").glob("[0-9]*")), 3)
    out = log.read_text()
    assert number == signal.SIGINT or code == (EXIT_PREEMPTED if number == signal.SIGTERM else -signal.SIGKILL)
    assert "Traceback" not in out, out
    assert healthy == 1 or any(tmp_path.rglob("*.wandb"))
    assert healthy == 1 or number == signal.SIGKILL or "W&B: the upload has not finished" in out


def wait_until(ready: Callable[[], bool], seconds: float) -> None:
    """Waits until `ready()`, at most so many seconds."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_child(folder: Path, pid: int) -> bool:
    """Whether the process of a folder of /proc is W&B's of the process `pid`."""
    try:
        return f"--pid\0{pid}\0" in (folder / "cmdline").read_text()
    except OSError:
        return False
