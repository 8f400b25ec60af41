"""Launchers: torchrun and several nodes, with one folder and with folders of their own, as processes on this machine."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.commands import ROOT, environment, free_port

FLAGS = ["--data.source", "sample", "--accelerator", "cpu", "--precision", "32-true", "--seed", "1"]
TRAIN = ["-m", "toy.train", *FLAGS]


class Node:
    """A command in a folder, as another machine would run it; `prefix` is a command that runs it there."""

    def __init__(self, folder: Path, cache: Path, args: list[str], prefix: Sequence[str] = (), **variables: object) -> None:
        folder.mkdir(exist_ok=True)
        env = {**environment(cache), "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", **{k: str(v) for k, v in variables.items()}}
        self.process = subprocess.Popen(
            [*prefix, sys.executable, *args],
            cwd=folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def end(self, seconds: float = 90) -> tuple[int, str]:
        """Exit code and output; a command that hangs is killed."""
        try:
            out, _ = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            out, _ = self.process.communicate()
            raise AssertionError(f"hangs: {out}") from None
        return self.process.returncode, out


def torchrun(folders: list[Path], cache: Path, processes: int, *flags: str) -> list[Node]:
    """torchrun on each of the nodes, whose folders are `folders`."""
    port = free_port()
    command = ["-m", "torch.distributed.run", "--nnodes", str(len(folders)), "--nproc_per_node", str(processes)]
    return [
        Node(folder, cache, [*command, "--node_rank", str(rank), "--master_port", str(port), *TRAIN, *flags])
        for rank, folder in enumerate(folders)
    ]


def nodes(folders: list[Path], cache: Path, devices: int, *flags: str) -> list[Node]:
    """Lightning's own launcher on each of the nodes, whose folders are `folders`."""
    port = free_port()
    args = [*TRAIN, "--num_nodes", str(len(folders)), "--devices", str(devices), "--strategy", "ddp", *flags]
    return [
        Node(folder, cache, args, NODE_RANK=rank, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        for rank, folder in enumerate(folders)
    ]


LAUNCHERS = [
    pytest.param(torchrun, 1, 2, id="torchrun"),
    pytest.param(torchrun, 2, 1, id="torchrun-nodes"),
    pytest.param(nodes, 2, 1, id="NODE_RANK"),
    pytest.param(nodes, 2, 2, id="NODE_RANK-processes"),
]


def ended_well(started: list[Node]) -> list[str]:
    """Output of each node, all of which have ended with exit code 0."""
    ended = [node.end() for node in started]
    assert [code for code, _ in ended] == [0] * len(ended), ended
    return [out for _, out in ended]


def weights(folder: Path) -> list[torch.Tensor]:
    newest = max((folder / "checkpoints").glob("step-*.ckpt"))
    return list(torch.load(newest, weights_only=True)["state_dict"].values())


@pytest.mark.slow
@pytest.mark.parametrize("launch", [torchrun, nodes])
def test_nodes_with_disks_of_their_own_make_one_folder(tmp_path, launch):
    folders = [tmp_path / "a", tmp_path / "b"]
    first, second = ended_well(launch(folders, tmp_path, 1))
    (run,) = (folders[0] / "runs" / "toy").iterdir()
    assert (run / "summary.json").is_file() and not list(folders[1].rglob("*.*"))
    assert f"run folder runs/toy/{run.name}" in first and "run folder" not in second


@pytest.mark.slow
@pytest.mark.parametrize("separate", [False, True], ids=["one-disk", "own-disks"])
@pytest.mark.parametrize("launch, count, processes", LAUNCHERS)
def test_one_folder_one_config_and_a_resume_equal_to_no_interruption(tmp_path, launch, count, processes, separate):
    if separate and count == 1:
        pytest.skip("one node has one disk")
    folders = [tmp_path / f"node{i if separate else 0}" for i in range(count)]
    out = ended_well(launch(folders, tmp_path, processes, "--model.lr", "0.03"))  # the second node has no config.yaml
    (run,) = (folders[0] / "runs" / "toy").iterdir()
    others = [path for folder in folders[1:] if separate for path in folder.rglob("*") if path.is_file()]
    assert others == [], "only rank zero writes"
    assert (run / "config.yaml").is_file() and json.loads((run / "summary.json").read_text())["name"] == run.name
    assert "run folder" in out[0] and not any("run folder" in text for text in out[1:])
    ended_well(launch(folders, tmp_path, processes, "--name", "whole", "--model.lr", "0.03", "--max_epochs", "4"))
    ended_well(launch(folders, tmp_path, processes, "--name", run.name, "--resume", "auto", "--max_epochs", "4"))
    whole = folders[0] / "runs" / "toy" / "whole"
    assert all(map(torch.equal, weights(whole), weights(run)))
    steps = [[float(row["step"]) for row in csv.DictReader((path / "metrics.csv").open())] for path in (whole, run)]
    assert steps[0] == steps[1]


@pytest.mark.slow
@pytest.mark.parametrize("launch", [torchrun, nodes])
def test_a_stale_checkpoint_on_the_second_node_is_not_used(tmp_path, launch):
    folders = [tmp_path / "a", tmp_path / "b"]
    ended_well(launch(folders, tmp_path, 1, "--name", "x"))
    stale = folders[1] / "runs/toy/x/checkpoints/step-00000001.ckpt"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"an old file")
    ended_well(launch(folders, tmp_path, 1, "--name", "x", "--resume", "auto", "--max_epochs", "3"))


@pytest.mark.slow
@pytest.mark.parametrize("launch", [torchrun, nodes])
@pytest.mark.parametrize(
    "flags, message",
    [
        (["--name", "gone", "--resume", "auto"], "has no checkpoint"),
        (["--data.source", "missing/folder"], "no such folder"),
    ],
)
def test_bad_input_ends_all_with_one_line(tmp_path, launch, flags, message):
    began = time.monotonic()
    ended = [node.end() for node in launch([tmp_path / "a", tmp_path / "b"], tmp_path, 1, *flags)]
    lines = [line for _, out in ended for line in out.splitlines() if line.startswith("error: ")]
    assert lines and message in lines[0] and "Traceback" not in "".join(out for _, out in ended if launch is nodes), ended
    if launch is nodes:
        assert [code for code, _ in ended] == [2, 2]
    assert time.monotonic() - began < 60


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["child", "parent"])
def test_where_one_process_dies_the_other_ends_in_a_line_that_names_it(tmp_path, victim):
    args = [
        *TRAIN,
        "--devices",
        "2",
        "--strategy",
        "ddp",
        "--name",
        "x",
        "--max_epochs",
        "100000",
        "--checkpoint_every",
        "5",
    ]
    node = Node(tmp_path / "a", tmp_path, args)
    run = tmp_path / "a" / "runs" / "toy" / "x"
    wait_for(lambda: any(run.glob("checkpoints/step-*.ckpt")), node)
    (child,) = [pid for pid in children(node.process.pid) if b"toy.train" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(child if victim == "child" else node.process.pid, signal.SIGKILL)
    died = time.monotonic()
    code, out = node.end(10)
    wait_for(lambda: not is_alive(child), node)
    assert time.monotonic() - died < 10
    line = "process 1 of the run has died (SIGKILL)" if victim == "child" else "the process that started it has died"
    assert code == (1 if victim == "child" else -9) and line in out, out


def wait_for(condition, node: Node) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline and node.process.poll() in (None, 1, -9)
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("launch, count, processes", LAUNCHERS[:3])
def test_sigterm_to_the_launchers_ends_all_ranks_after_saving(tmp_path, launch, count, processes):
    folder, flags = tmp_path / "a", ["--max_epochs", "40", "--data.batch_size", "8", "--checkpoint_every", "5"]
    run = folder / "runs" / "toy" / "cut"
    started = launch([folder] * count, tmp_path, processes, "--name", "cut", *flags)
    wait_for(lambda: any(run.glob("checkpoints/step-*.ckpt")), started[0])
    for node in started:
        node.process.terminate()
    ended = [node.end(60) for node in started]
    assert any("stopped by SIGTERM; state saved in" in out for _, out in ended), ended
    assert launch is torchrun or {code for code, _ in ended} == {75}
    left = [command_of(process) for process in Path("/proc").glob("[0-9]*")]
    assert not [command for command in left if "toy.train" in command and " cut " in command], "no orphans"
    ended_well(launch([folder] * count, tmp_path, processes, "--name", "cut", "--resume", "auto", *flags))
    ended_well(launch([folder] * count, tmp_path, processes, "--name", "whole", *flags))
    assert all(map(torch.equal, weights(run), weights(run.with_name("whole"))))


def command_of(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""
