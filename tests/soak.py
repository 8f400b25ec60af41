"""Soak test: `python -m tests.soak --kills 50 --seed 0 --victim run`; each run that is killed ends as if whole.

A life is a run of a capstone on the sample that is killed once and started again by the same command, with `--resume allow`.
At its end the last checkpoint, the test's metrics and those of every step must be those of a run without a kill, to the bit.

The victim is the process of a run, one of two ranks, or what has started these: Lightning's first process, torchrun's agent.
The moment is drawn: any, or while a checkpoint is written, or while plots are drawn.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from commands import environment, newest_checkpoint, same, start_forked

FLAGS = {
    "cifar10": {
        "model.speednet.block_channels": "[8, 8, 8]",
        "model.lr": "0.05",
        "model.head_lr": "1.0",
        "model.bias_lr": "0.05",
        "model.lookahead": "true",
        "data.batch_size": "128",
        "data.subset_fraction": "0.6",
        "max_epochs": "3",
    },
    "seq2seq": {
        "model.recurrent.embed_dim": "16",
        "model.recurrent.hidden_dim": "16",
        "data.vocab_size": "300",
        "model.decoding.max_length": "12",
        "data.max_tokens": "8000",
        "max_epochs": "2",
    },
    "bert_sentiment": {
        "model.checkpoint": "tiny",
        "data.batch_size": "64",
        "trainer.limit_train_batches": "40",
        "max_epochs": "2",
    },
    "gan": {
        "data.source": "ring8",
        "model.mlp.hidden_dim": "16",
        "data.steps_per_epoch": "30",
        "model.iterations_per_step": "2",
        "data.batch_size": "16",
        "model.n_critic": "2",
        "data.eval_samples": "500",
        "max_epochs": "2",
    },
    "policy_gradient": {
        "data.num_envs": "8",
        "data.num_steps": "16",
        "data.rollouts_per_epoch": "20",
        "data.eval_episodes": "4",
        "data.test_episodes": "6",
        "max_epochs": "2",
    },
}
COMMON = {
    "accelerator": "cpu",
    "precision": "32-true",
    "seed": "1",
    "checkpoint_every": "5",
    "trainer.log_every_n_steps": "1",
}
STATE = ("state_dict", "optimizer_states", "lr_schedulers", "random_states", "global_step", "epoch")
SECONDS = 300  # a run takes at most
END_SECONDS = 10  # in which all processes of a run end once one is killed; a stop by SIGTERM saves first
MOMENTS = ("any", "any", "checkpoint", "plots")
END_CODES = {signal.SIGTERM: 75, signal.SIGKILL: -9}


@dataclass
class Life:
    """Run that is killed once."""

    project: str
    launcher: str  # "python", "lightning" with two processes, "torchrun" with two
    victim: str  # "run", "rank" or "launcher"
    moment: str
    number: signal.Signals

    def __str__(self) -> str:
        return f"{self.project}, {self.launcher}, {self.number.name} to the {self.victim}, {self.moment} moment"


class Run:
    """Training command in a folder of its own, by which its processes are known.

    A run that resumes is forked from a server that has done the imports. Those that are killed are new interpreters: an
    order that depends on hashes would differ.
    """

    def __init__(self, folder: Path, cache: Path, project: str, launcher: str, resumes: bool = False) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "plain.yaml").write_text("seed: 0\n")
        self.folder, self.path = folder, folder / "runs" / project / "x"
        self.log = folder / f"log-{len(list(folder.glob('log-*')))}.txt"
        options = {"data.source": "sample", **COMMON, **FLAGS[project]}
        flags = [word for name, value in options.items() for word in (f"--{name}", value)]
        flags = ["--config", "plain.yaml", *flags, "--name", "x", "--resume", "allow"]
        train = ["-m", f"projects.{project}.train", *flags]
        if launcher == "lightning":
            train += ["--devices", "2", "--strategy", "ddp"]
        if launcher == "torchrun":
            with socket.create_server(("127.0.0.1", 0)) as server:
                port = str(server.getsockname()[1])
            train = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", port, *train]
        self.log.touch()
        if resumes and launcher == "python":
            self.process: Any = start_forked(train[1], flags, folder, environment(cache), self.log)
            return
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, *train],
                cwd=folder,
                env=environment(cache),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def has_begun(self) -> bool:
        """Whether the run has its folder."""
        text = self.log.read_text()
        return "run folder" in text or "resuming runs" in text

    def wait_for(self, condition: Callable[[], bool]) -> bool:
        """Waits until the condition holds; False if the run has ended before."""
        deadline = time.monotonic() + SECONDS
        while not condition():
            if self.process.poll() is not None:
                return False
            if time.monotonic() > deadline:
                raise AssertionError(f"hangs\n{self.log.read_text()}")
            time.sleep(0.002)
        return True

    def end(self, seconds: float = SECONDS) -> int:
        """Exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"does not end in {seconds} s\n{self.log.read_text()}") from None

    def processes(self) -> list[int]:
        """Processes of the run that are alive, the ranks among them."""
        return [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if self.is_own(entry)]

    def is_own(self, process: Path) -> bool:
        try:
            return (process / "cwd").readlink() == self.folder and "Z" not in state_of(process)
        except OSError:  # it has ended
            return False


def state_of(process: Path) -> str:
    """State of a process: Z once it has ended, and its parent has not asked for its exit code."""
    return (process / "stat").read_text().rpartition(")")[2].split()[0]


def wait_for_moment(run: Run, moment: str, duration: float, rng: random.Random) -> bool:
    """Waits for the moment of the kill; False if the run has ended before. `duration` is what a whole run takes."""
    if not run.wait_for(run.has_begun):
        return False
    if moment == "any":
        begun = time.monotonic()
        seconds = rng.uniform(0, duration)
        return run.wait_for(lambda: time.monotonic() > begun + seconds)
    if moment == "checkpoint":
        for _ in range(rng.randint(1, 6)):
            seen = [file.name for file in run.path.glob("checkpoints/step-*")]
            if not run.wait_for(lambda seen=seen: is_writing(run.path / "checkpoints", seen)):
                return False
        return True
    ready = run.wait_for(lambda: "training ended" in run.log.read_text())
    return ready and run.wait_for(lambda until=time.monotonic() + rng.uniform(0, 1): time.monotonic() > until)


def is_writing(folder: Path, seen: list[str]) -> bool:
    """Whether a checkpoint is being written, or has just been."""
    names = [path.name for path in folder.glob("*")]
    return any(name.endswith(".tmp") or (name.startswith("step-") and name not in seen) for name in names)


def choose_victim(run: Run, victim: str, rng: random.Random) -> int:
    """Process to be killed: the one that was started, or a random rank below it."""
    if victim in ("run", "launcher"):
        return run.process.pid
    ranks = [pid for pid in run.processes() if pid != run.process.pid]
    return rng.choice(ranks) if ranks else run.process.pid


def kill(run: Run, life: Life, rng: random.Random) -> None:
    """Kills the victim, and checks that all processes of the run end."""
    os.kill(choose_victim(run, life.victim, rng), life.number)
    killed = time.monotonic()
    code = run.end(60)
    while left := run.processes():
        limit = END_SECONDS if life.number == signal.SIGKILL else 60
        assert time.monotonic() < killed + limit, f"{life}: processes {left} live on\n{run.log.read_text()}"
        time.sleep(0.1)
    if life.victim == "run":
        assert code in (END_CODES[life.number], 0), f"{life}: exit code {code}\n{run.log.read_text()}"


def outcome(path: Path) -> dict[str, Any]:
    """What a finished run has computed."""
    checkpoint = torch.load(newest_checkpoint(path)[1], weights_only=True)
    with (path / "metrics.csv").open() as file:
        rows = [{k: float(v) for k, v in row.items() if v and not k.startswith("perf/")} for row in csv.DictReader(file)]
    summary = json.loads((path / "summary.json").read_text())
    best = [torch.load(file, weights_only=True)["state_dict"] for file in path.glob("checkpoints/best-*.ckpt")]
    leftovers = [file.name for file in path.rglob("*.tmp")]
    return {**{k: checkpoint[k] for k in STATE}, "rows": rows, "test": summary["test"], "best": best, "leftovers": leftovers}


def first_difference(rows: list[dict[str, float]], expected: list[dict[str, float]]) -> str:
    """First row of metrics that is not as expected."""
    pairs = itertools.zip_longest(rows, expected, fillvalue={})
    return next((f"{row} in place of {other}" for row, other in pairs if row != other), "")


def live(life: Life, folder: Path, cache: Path, whole: dict[str, Any], rng: random.Random) -> bool:
    """One life; False if the run had ended before the moment came. Raises AssertionError if anything was lost."""
    run = Run(folder, cache, life.project, life.launcher)
    if not wait_for_moment(run, life.moment, whole["seconds"], rng):
        assert run.end() == 0, run.log.read_text()
        return False
    kill(run, life, rng)
    again = Run(folder, cache, life.project, life.launcher, resumes=True)
    code = again.end()
    assert code == 0, f"{life}: resumed with exit code {code}\n{again.log.read_text()}"
    found = outcome(run.path)
    for part, value in found.items():
        text = f"{part} {first_difference(value, whole[part])}" if part == "rows" else part
        assert same(value, whole[part]), f"{life}: not as without a kill: {text}\n{again.log.read_text()}"
    return True


def soak(
    kills: int, seed: int, victim: str, projects: list[str], folder: Path, moments: tuple[str, ...] = MOMENTS
) -> Counter[str]:
    """Kills runs, and counts by project, signal and moment what was tried."""
    rng, tried, wholes = random.Random(seed), Counter[str](), {}
    cache, number = folder / "cache", 0
    while (done := tried["kills"]) < kills:
        project = projects[done % len(projects)]
        launcher = "python" if victim == "run" else rng.choice(["lightning", "torchrun"])
        if (project, launcher) not in wholes:
            run = Run(folder / f"whole-{project}-{launcher}", cache, project, launcher)
            run.wait_for(run.has_begun)
            begun = time.monotonic()
            assert run.end() == 0, run.log.read_text()
            wholes[project, launcher] = {"seconds": time.monotonic() - begun, **outcome(run.path)}
        number += 1
        signals = [signal.SIGKILL] if victim == "rank" else [signal.SIGKILL, signal.SIGTERM]
        life = Life(project, launcher, victim, rng.choice(MOMENTS), rng.choice(signals))
        if live(life, folder / f"life-{number}", cache, wholes[project, launcher], rng):
            tried.update(["kills", project, launcher, life.number.name, f"{life.moment} moment"])
            print(f"{tried['kills']}: {life}: equal", flush=True)
        else:
            tried["too late"] += 1
        shutil.rmtree(folder / f"life-{number}")
    return tried


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Kills runs, resumes them, and compares.")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--victim", choices=("run", "rank", "launcher"), default="run")
    parser.add_argument("--projects", nargs="+", choices=sorted(FLAGS), default=sorted(FLAGS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(dict(soak(options.kills, options.seed, options.victim, options.projects, Path(folder))))


if __name__ == "__main__":
    main()
