"""What the CIFAR-10 tests share: one thread, a small folder of pictures, and runs of the command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from common.rendered import CLASS_NAMES, render_images

ROOT = Path(__file__).resolve().parents[3]
WIDTHS = [8, 8, 8]
# rates at which a network this small learns
TINY = ["--model.widths", str(WIDTHS), "--model.head_lr", "1.0", "--model.bias_lr", "0.05"]
CPU = ["--accelerator", "cpu", "--precision", "32-true"]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def picture_folder(tmp_path_factory) -> Path:
    """260 training and 61 test pictures as `split/<class name>/<number>.png`."""
    root = tmp_path_factory.mktemp("pictures")
    for seed, (split, count) in enumerate({"train": 260, "test": 61}.items()):
        images, labels = render_images(count, seed)
        for i, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            path = root / split / CLASS_NAMES[label] / f"{i:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return root


class Command:
    """`python -m projects.cifar10.<module>` with flags, in a folder of its own."""

    def __init__(self, cwd: Path, module: str, *flags: str) -> None:
        self.cwd = cwd
        self.log = cwd / f"log-{time.monotonic_ns()}.txt"
        other_runs = ("CAPSTONES_", "LOCAL_", "NODE_", "WORLD_", "SLURM_")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(other_runs)}
        env = {
            **clean,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "CAPSTONES_CACHE": str(cwd.parent / "cache"),
            "HF_HOME": str(cwd.parent / "hf"),
            "HF_HUB_OFFLINE": "1",
        }
        with self.log.open("w") as log:
            settings = ["--config", "../plain.yaml", *TINY, *CPU] if module == "train" else []
            command = [sys.executable, "-m", f"projects.cifar10.{module}", *settings, *flags]
            self.process = subprocess.Popen(
                command, cwd=cwd, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def wait(self, expect: int = 0) -> str:
        """Its output, once it has ended with the exit code `expect`."""
        code = self.process.wait(timeout=240)
        text = self.log.read_text()
        assert code == expect, f"exit code {code}\n{text}"
        return text

    def kill_when(self, ready: Callable[[], bool], number: int) -> None:
        """Sends the signal `number` at a moment when `ready()` is true: the process stands still while that is asked."""
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


# SGD: Muon's bfloat16 turns the last bit of a gradient into the third digit of a step, and no two sums agree to the last bit
PLAIN_RUN = ["--max_epochs", "2", "--data.val_size", "60", "--trainer.log_every_n_steps", "1"]
PLAIN_RUN += ["--model.optimizer", "sgd", "--model.lr", "0.03", "--model.lookahead", "true"]


@pytest.fixture(scope="session")
def command(tmp_path_factory) -> Iterator[Callable[..., Command]]:
    """Starts `command(module, *flags)`; all share one folder, so every run needs a name of its own."""
    cwd = tmp_path_factory.mktemp("commands")
    (cwd.parent / "plain.yaml").write_text("seed: 0\n")  # in place of the default recipe, which may change
    started: list[Command] = []

    def start(module: str, *flags: str) -> Command:
        started.append(Command(cwd, module, *flags))
        return started[-1]

    yield start
    for command in started:  # what a failed test has left running, with the processes that it has started
        if command.process.poll() is None:
            os.killpg(command.process.pid, signal.SIGKILL)


@pytest.fixture(scope="session")
def plain_run(command, picture_folder) -> Command:
    """A finished run of one process: `runs/cifar10/one`, two epochs of five steps of 40 pictures each."""
    run = command("train", "--name", "one", "--data.source", str(picture_folder), *PLAIN_RUN, "--data.batch_size", "40")
    run.wait()
    return run


@pytest.fixture(scope="session")
def plain_flags(picture_folder) -> list[str]:
    """The flags of `plain_run` but for its name and batch."""
    return ["--data.source", str(picture_folder), *PLAIN_RUN]
