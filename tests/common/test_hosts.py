"""Two hosts: network namespaces of this machine with a cable (veth) between them, and folders of their own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from test_launchers import TRAIN, Node, ended_well, wait_for, weights


def can_make_namespaces() -> bool:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    made = subprocess.run(["ip", "netns", "add", "capstones-try"], capture_output=True).returncode == 0
    subprocess.run(["ip", "netns", "delete", "capstones-try"], capture_output=True)
    return made


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not can_make_namespaces(), reason="needs root and network namespaces (iproute2)"),
]
ADDRESSES, PORT = ["10.77.0.1", "10.77.0.2"], "29500"  # in a namespace every port is free


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@pytest.fixture
def hosts():
    """Names of the two namespaces."""
    names = [f"capstones-{os.getpid()}-{i}" for i in range(2)]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            for device in ("lo", "cable"):
                ip("-n", name, "link", "set", device, "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name])


def launch(hosts: list[str], tmp_path: Path, launcher: str, *flags: str) -> list[Node]:
    """The same command on both hosts, each in its own folder."""
    started = []
    for rank, host in enumerate(hosts):
        variables = {"GLOO_SOCKET_IFNAME": "cable"}  # the host's name is of another network
        if launcher == "torchrun":
            where = ["--nnodes", "2", "--node_rank", str(rank), "--master_addr", ADDRESSES[0], "--master_port", PORT]
            args = ["-m", "torch.distributed.run", "--nproc_per_node", "1", *where, *TRAIN, *flags]
        else:
            args = [*TRAIN, "--num_nodes", "2", "--devices", "1", "--strategy", "ddp", *flags]
            variables |= {"NODE_RANK": str(rank), "MASTER_ADDR": ADDRESSES[0], "MASTER_PORT": PORT}
        prefix = ["ip", "netns", "exec", host]
        started.append(Node(tmp_path / f"host{rank}", tmp_path / f"cache{rank}", args, prefix, **variables))
    return started


LAUNCHERS = pytest.mark.parametrize("launcher", ["torchrun", "NODE_RANK"])


@LAUNCHERS
def test_two_hosts_make_one_folder_and_resume_bitwise(hosts, tmp_path, launcher):
    first, second = ended_well(launch(hosts, tmp_path, launcher))
    (run,) = (tmp_path / "host0" / "runs" / "toy").iterdir()
    assert "run folder" in first and "run folder" not in second and not list((tmp_path / "host1").rglob("*.ckpt"))
    ended_well(launch(hosts, tmp_path, launcher, "--name", run.name, "--resume", "auto", "--max_epochs", "4"))
    ended_well(launch(hosts, tmp_path, launcher, "--name", "whole", "--max_epochs", "4"))
    assert all(map(torch.equal, weights(run), weights(run.with_name("whole"))))


@LAUNCHERS
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("victim", [0, 1])
def test_a_host_that_is_stopped_ends_the_other_and_the_run_resumes(hosts, tmp_path, launcher, number, victim):
    flags = ["--max_epochs", "40", "--data.batch_size", "8", "--checkpoint_every", "5"]
    started = launch(hosts, tmp_path, launcher, "--name", "x", *flags)
    run = tmp_path / "host0" / "runs" / "toy" / "x"
    wait_for(lambda: any(run.glob("checkpoints/step-*.ckpt")), started[0])
    os.killpg(started[victim].process.pid, number)
    began = time.monotonic()
    ended = [node.end(60) for node in started]
    assert all(code != 0 for code, _ in ended) and time.monotonic() - began < 30, ended
    line = "has died" if number == signal.SIGKILL else "stopped by SIGTERM; state saved in"
    assert line in ended[1 - victim if number == signal.SIGKILL else 0][1], ended
    ended_well(launch(hosts, tmp_path, launcher, "--name", "x", *flags, "--resume", "auto"))
    ended_well(launch(hosts, tmp_path, launcher, "--name", "whole", *flags))
    assert all(map(torch.equal, weights(run), weights(run.with_name("whole"))))
