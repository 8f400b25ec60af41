"""Processes that run the command line for the capstones' tests: started, killed, resumed, and compared."""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from common.errors import EXIT_PREEMPTED

ROOT = Path(__file__).resolve().parents[1]
CPU = ["--accelerator", "cpu", "--precision", "32-true"]


def environment(cache: Path) -> dict[str, str]:
    """Environment of a command: one thread, no GPU, no hub, caches in `cache`, and no variables of another run."""
    other_runs = ("CAPSTONES_", "LOCAL_", "NODE_", "GROUP_", "RANK", "WORLD_", "MASTER_", "SLURM_", "TORCHELASTIC_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(other_runs)}
    return {
        **clean,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "CAPSTONES_CACHE": str(cache / "cache"),
        "HF_HOME": str(cache / "hf"),
        "HF_HUB_OFFLINE": "1",
    }


def start_fresh(module: str, flags: list[str], cwd: Path, env: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Starts `python -m module` in a new interpreter, with a session of its own."""
    with log.open("w") as output:
        command = [sys.executable, "-m", module, *flags]
        return subprocess.Popen(command, cwd=cwd, env=env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)


def start_forked(module: str, flags: list[str], cwd: Path, env: dict[str, str], log: Path) -> Forked:
    """The same as a fork of a server that has done the imports."""
    start_server(cwd.parent)
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=run_module, args=(module, flags, cwd, env, log))
    process.start()
    return Forked(process)


own_servers: set[int] = set()  # process ids


def start_server(cache: Path) -> None:
    """Starts the server of all forks, once, in place of one that has done other imports: the course's has."""
    server = multiprocessing.forkserver._forkserver  # type: ignore[attr-defined]
    if server._forkserver_pid is not None and server._forkserver_pid in own_servers:
        return
    server._stop()
    server.set_forkserver_preload(PRELOADED)
    before = dict(os.environ)
    try:
        os.environ.clear()
        os.environ |= environment(cache)  # what libraries read when imported; each process then has its own
        server.ensure_running()
        own_servers.add(server._forkserver_pid)
    finally:
        os.environ.clear()
        os.environ |= before


def run_module(module: str, flags: list[str], cwd: Path, env: dict[str, str], log: Path) -> None:
    """Target of a forked process: `python -m module`."""
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ |= env
    output = os.open(log, os.O_WRONLY | os.O_APPEND)  # which the processes of a training share
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = [module, *flags]
    sys.path.insert(0, str(cwd))
    runpy.run_module(module, run_name="__main__", alter_sys=True)


class Forked:
    """Forked process with the part of `subprocess.Popen` that is needed here."""

    def __init__(self, process: Any) -> None:
        self.process = process
        self.pid: int = process.pid

    def poll(self) -> int | None:
        """Exit code, or None while it runs."""
        return self.process.exitcode

    def wait(self, timeout: float) -> int:
        """Exit code, once it has ended."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout)
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        """Sends a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)


# what every command imports, which takes seconds: the server does it once; and what the course's answers need
PRELOADED = ["common.cli.main", "common.run.run", "torchvision", "matplotlib.figure", "foundations.worker"]


def free_port() -> int:
    """Port that no server of this machine listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def torchrun_variables(count: int) -> list[dict[str, str]]:
    """Environment variables that torchrun gives to each of `count` processes of one machine."""
    shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "GROUP_RANK": 0, "MASTER_ADDR": "127.0.0.1"}
    shared |= {"MASTER_PORT": free_port(), "TORCHELASTIC_RUN_ID": "tests"}
    return [{name: str(value) for name, value in {**shared, "RANK": i, "LOCAL_RANK": i}.items()} for i in range(count)]


class Command:
    """`python -m projects.<project>.<module>` with flags, in the folder `cwd`.

    Processes are forked from a server that has done the imports; with `fresh` it is a new interpreter, with a hash seed of
    its own. Of several `processes`, started as torchrun does it, `process` is rank zero.
    """

    def __init__(self, cwd: Path, project: str, module: str, *flags: str, fresh: bool = False, processes: int = 1) -> None:
        self.cwd = cwd
        self.runs = cwd / "runs" / project
        self.log = cwd / f"log-{time.monotonic_ns()}.txt"
        self.log.touch()
        name, start, variables = f"projects.{project}.{module}", start_fresh if fresh else start_forked, [{}]
        if processes > 1:
            flags, variables = (*flags, "--devices", str(processes), "--strategy", "ddp"), torchrun_variables(processes)
        self.process, *self.others = [
            start(name, list(flags), cwd, {**environment(cwd.parent), **extra}, self.log) for extra in variables
        ]

    def wait(self, expect: int = 0) -> str:
        """Output, once all of it has ended with the exit code `expect`."""
        codes = [process.wait(timeout=240) for process in (self.process, *self.others)]
        text = self.log.read_text()
        assert codes == [expect] * len(codes), f"exit codes {codes}\n{text}"
        return text

    def error(self) -> str:
        """The one line of an error, once it has ended with exit code 2."""
        output = self.wait(2)
        errors = [line for line in output.splitlines() if line.startswith("error:")]
        assert len(errors) == 1 and "Traceback" not in output, output
        return errors[0]

    def kill_when(self, ready: Callable[[], bool], number: int) -> None:
        """Sends the signal `number` once `ready()` is true; the process is stopped while that is checked."""
        deadline = time.monotonic() + 240
        killed = False
        while not killed:
            time.sleep(0.01)
            assert self.process.poll() is None, f"ended before it could be killed\n{self.log.read_text()}"
            assert time.monotonic() < deadline, f"never ready to be killed\n{self.log.read_text()}"
            if ready():
                self.process.send_signal(signal.SIGSTOP)
                time.sleep(0.05)
                if killed := ready():
                    self.process.send_signal(number)
                self.process.send_signal(signal.SIGCONT)


@contextmanager
def commands(cwd: Path, project: str, train_flags: list[str]) -> Iterator[Callable[..., Command]]:
    """Yields `start(module, *flags)`; all share the folder `cwd`, so every run needs a name of its own.

    Args:
        cwd: Working directory.
        project: Name of the capstone.
        train_flags: Flags of every `train`, in front of its own, and instead of the default recipe, which may change.
    """
    (cwd.parent / "plain.yaml").write_text("seed: 0\n")
    started: list[Command] = []

    def start(module: str, *flags: str, **options: Any) -> Command:
        settings = ["--config", "../plain.yaml", *train_flags] if module == "train" else []
        started.append(Command(cwd, project, module, *settings, *flags, **options))
        return started[-1]

    try:
        yield start
    finally:
        for process in (process for command in started for process in (command.process, *command.others)):
            if process.poll() is None:  # a failed test has left it running, with its children
                os.killpg(process.pid, signal.SIGKILL)


def same(left: Any, right: Any) -> bool:
    """Whether two nested structures hold bitwise equal tensors and equal values."""
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(value, right[key]) for key, value in left.items())
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right


def newest_checkpoint(run: Path) -> tuple[int, Path]:
    """Step and file of the latest checkpoint to resume from; step 0 if there is none."""
    return max(((int(path.stem[5:]), path) for path in run.glob("checkpoints/step-*.ckpt")), default=(0, run))


def last_checkpoint(run: Path) -> dict[str, Any]:
    """Latest checkpoint of a run, loaded."""
    return torch.load(newest_checkpoint(run)[1], weights_only=True)


def can_be_killed(run: Path, after: int) -> bool:
    """Whether there is a checkpoint of a step behind `after`, and the metrics of that step are written too."""
    step, path = newest_checkpoint(run)
    try:
        return step > after and (run / "metrics.csv").stat().st_mtime_ns > path.stat().st_mtime_ns
    except FileNotFoundError:  # later ones have replaced it in the meantime
        return False


def resumed_step(output: str) -> int:
    found = re.search(r"resuming \S+ from step-(\d+)\.ckpt", output)
    assert found, output
    return int(found[1])


class Life:
    """Run that is killed once by each of `signals`, each time a few steps later, and then runs to its end.

    Its first process is a new interpreter: an order that depends on hashes would differ in the processes that resume it.
    """

    def __init__(self, start: Callable[..., Any], name: str, flags: list[str], signals: list[int]) -> None:
        self.start, self.name, self.flags, self.signals = start, name, flags, signals
        self.resumed_from: list[int] = []

    def live(self) -> Path:
        """Runs, kills and resumes it; returns the run folder."""
        resume: list[str] = []
        step = 0
        for number in self.signals:
            command = self.start("train", "--name", self.name, *self.flags, *resume, fresh=not resume)
            run = command.runs / self.name
            command.kill_when(lambda run=run, step=step: can_be_killed(run, step + 5), number)
            output = command.wait(EXIT_PREEMPTED if number == signal.SIGTERM else -number)
            step, _ = newest_checkpoint(run)
            if resume:
                self.resumed_from.append(resumed_step(output))
            resume = ["--resume", "auto"]
        output = self.start("train", "--name", self.name, *self.flags, *resume).wait()
        self.resumed_from.append(resumed_step(output))
        return run
