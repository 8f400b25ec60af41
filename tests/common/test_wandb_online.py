"""A run against a server that W&B's own client takes for its own, openwandb: killed, resumed and synced it stays one run."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shlex
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_wandb_failures import wait_until

from common.io.metrics import read_metrics
from common.io.wandb_server import stop_wandb

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("openwandb") is None, reason="needs pip install openwandb"),
]
KEY = "local0000000000000000000000000000000000000000"  # of its administrator


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[Path]:
    """A server of this test's own; its folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder, url = tmp_path / "server", f"http://127.0.0.1:{port}"
    serve = f"serve --host 127.0.0.1 --port {port} --data-dir".split()
    log = (tmp_path / "server.log").open("w")
    process = subprocess.Popen([sys.executable, "-m", "openwandb", *serve, folder], stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: answers(f"{url}/login"), 60)
        monkeypatch.setenv("WANDB_BASE_URL", url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        for name in ("INIT", "FINISH"):
            monkeypatch.setenv(f"WANDB_{name}_TIMEOUT", "60")  # it is slow, next to other tests
        stop_wandb()  # W&B reads the environment once
        yield folder
    finally:
        stop_wandb(0)
        process.terminate()
        process.wait(20)
        log.close()


def answers(url: str) -> bool:
    try:
        return urllib.request.urlopen(url, timeout=2).status == 200
    except OSError:
        return False


def history(server: Path) -> list[dict]:
    """Rows of the only run that the server has."""
    (path,) = server.rglob("wandb-history.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def curve(rows: list[dict], name: str, step: str = "trainer/global_step") -> list[tuple[float, float]]:
    return [(row[step], row[name]) for row in rows if name in row]


def test_run_and_its_continuation_are_one_run(server, train):
    flags = ("--name", "a", "--wandb", "--tags", "x,y", "--notes", "two words")
    first = train(*flags)
    second = train(*flags, "--resume", "auto", "--max_epochs", "3")
    for done in (first, second):
        assert done.code == 0, done.err
        lines = [line for line in done.out.splitlines() if line.startswith("W&B")]
        assert lines == [f"W&B: {os.environ['WANDB_BASE_URL']}/default/capstones-toy/runs/capstones-toy-a"] * 2
    rows, csv = history(server), read_metrics(second.run("a") / "metrics.csv")
    for name in ("train/loss", "val/accuracy"):
        assert curve(rows, name) == curve(csv, name, "step")
    assert "plots/points" in {key for row in rows for key in row}
    with contextlib.closing(sqlite3.connect(server / "openwandb.db")) as database:
        found = database.execute("SELECT tags_json, notes, state FROM runs").fetchall()
    assert found == [('["x", "y"]', "two words", "finished")]


def test_parts_that_were_logged_offline_are_synced_into_one_run(server, train, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    flags = ("--name", "a", "--wandb")
    assert train(*flags).code == 0
    done = train(*flags, "--resume", "auto", "--max_epochs", "3")
    command = done.out.splitlines()[-1].partition("`")[2].rstrip("`")
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_MODE"} | {"HOME": str(done.folder)}
    command = f"{shlex.quote(sys.executable)} -m {command}"
    subprocess.run(command, shell=True, cwd=done.folder, env=environment, check=True, timeout=120, stdin=subprocess.DEVNULL)
    rows, csv = history(server), read_metrics(done.run("a") / "metrics.csv")
    assert [row["_step"] for row in rows] == list(range(len(rows)))
    for name in ("train/loss", "val/accuracy"):
        assert curve(rows, name) == curve(csv, name, "step")
