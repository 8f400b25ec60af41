"""What a machine without a GPU cannot show, in one command of at most eight minutes on any CUDA machine.

`python -m benchmarks.gpu` writes `results/gpu.json`:

1. every capstone on its sample, a few steps from start to summary: that it runs at all, and its memory;
2. host syncs in the training steps of CIFAR-10's default recipe that are not logged, as CUDA itself reports them;
3. a training step of that recipe by the Trainer and by a plain PyTorch loop, and the images a second of its data path;
4. the same step with `--compile true`.

Needs torch and lightning; a part that needs another package says so and is left out. `--accelerator cpu` is a dry run, which
writes nothing.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from benchmarks.results import write_result
from common.cli.command import OneLineParser, report_errors
from common.errors import UserError
from common.nn.device import choose_device, default_precision, device_name
from common.trainer import should_log

LIMIT = 470.0  # seconds; a part that is not done by then is ended and left out
FEW_STEPS = ["--max_epochs", "1", "--trainer.limit_train_batches", "12", "--trainer.log_every_n_steps", "4"]
FEW_STEPS += [
    "--trainer.limit_val_batches",
    "2",
    "--trainer.limit_test_batches",
    "2",
    "--trainer.check_val_every_n_epoch",
    "1",
]
SAMPLE = ["--data.source", "sample"]
# capstone and flags of each end-to-end run
RUNS: dict[str, tuple[str, list[str]]] = {
    "blank": ("blank", []),
    "cifar10": ("cifar10", SAMPLE),
    "seq2seq": ("seq2seq", SAMPLE),
    "seq2seq transformer": ("seq2seq", [*SAMPLE, "--config", "recipes/transformer.yaml"]),
    "bert_sentiment": ("bert_sentiment", [*SAMPLE, "--model.checkpoint", "tiny"]),
    "gan": ("gan", []),
    "gan images": ("gan", SAMPLE),
    "policy_gradient": ("policy_gradient", ["--data.eval_episodes", "4", "--data.test_episodes", "4"]),
}


class Steps(Callback):
    """Seconds of the training steps that are not logged, and the host syncs in them that CUDA reports.

    Args:
        count_syncs: Whether to have CUDA report each host sync, which costs time.
    """

    WARMUP = 4  # first steps, in which memory is allocated and algorithms are chosen

    def __init__(self, count_syncs: bool = False) -> None:
        self.count_syncs = count_syncs
        self.seconds: list[float] = []
        self.syncs: list[int] = []
        self.start = 0.0
        self.caught = contextlib.ExitStack()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.measured = not should_log(trainer) and batch_idx >= self.WARMUP
        if self.measured and self.count_syncs:
            self.found = self.caught.enter_context(warnings.catch_warnings(record=True))
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
        self.start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self.measured:
            return
        if self.count_syncs:
            torch.cuda.set_sync_debug_mode("default")
            self.syncs.append(sum("synchroniz" in str(warning.message) for warning in self.found))
            self.caught.close()
        elif pl_module.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self.start)


def project_of(name: str) -> Any:
    """Capstone of a name."""
    return importlib.import_module(f"projects.{name}.train").PROJECT


def run(name: str, flags: list[str], *callbacks: Callback) -> None:
    """Runs a capstone's training command in a temporary folder, without output."""
    from common.cli.main import start

    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        start(project_of(name), [*flags, "--name", "gpu"], callbacks)


def end_to_end(accelerator: str, name: str, flags: list[str]) -> dict[str, float]:
    """Seconds of a short run from start to summary, and the GPU memory it took at most, in MiB."""
    if cuda := choose_device(accelerator).type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    run(name, ["--accelerator", accelerator, "--devices", "1", *FEW_STEPS, *flags])
    memory = {"peak_memory_mib": torch.cuda.max_memory_allocated() / 2**20} if cuda else {}
    return {"seconds": time.perf_counter() - start, **memory}


def host_syncs(accelerator: str, source: str) -> dict[str, Any]:
    """Host syncs in CIFAR-10's unlogged training steps, as `torch.cuda.set_sync_debug_mode` reports them."""
    if choose_device(accelerator).type != "cuda":
        raise ModuleNotFoundError("CUDA, which alone reports them")
    steps = Steps(count_syncs=True)
    run("cifar10", ["--accelerator", accelerator, "--devices", "1", "--data.source", source, *FEW_STEPS], steps)
    return {"steps": len(steps.syncs), "most_in_a_step": max(steps.syncs)}


def plain_loop(accelerator: str, source: str) -> dict[str, float]:
    """A training step by the Trainer and by a plain loop, alternately; see `benchmarks.cifar10`."""
    from benchmarks.cifar10 import step_overhead

    return step_overhead(source, accelerator, 40 if choose_device(accelerator).type == "cuda" else 6)


def images_a_second(accelerator: str, source: str) -> dict[str, float]:
    """Augmented images a second of the device's loader and of a DataLoader, alternately; see `benchmarks.cifar10`."""
    from benchmarks.cifar10 import data_path

    device = choose_device(accelerator)
    workers = min(8, os.cpu_count() or 1) if device.type == "cuda" else 1
    return data_path(source, device, 3 if device.type == "cuda" else 1, workers)


def compiled(accelerator: str, source: str) -> dict[str, float]:
    """Median of an unlogged training step of CIFAR-10 without and with `--compile true`, in ms."""
    medians = {}
    flags = ["--accelerator", accelerator, "--devices", "1", "--data.source", source, "--model.progressive_resizing", "[]"]
    for name, option in [("plain_step_ms", "false"), ("compiled_step_ms", "true")]:
        steps = Steps()
        run("cifar10", [*flags, *FEW_STEPS, "--trainer.limit_train_batches", "60", "--compile", option], steps)
        medians[name] = 1000 * sorted(steps.seconds)[len(steps.seconds) // 2]
    return medians


def parts(accelerator: str, source: str) -> dict[str, Callable[[], dict[str, Any]]]:
    """What is measured, in order; each part by its name."""
    chosen: dict[str, Callable[[], dict[str, Any]]] = {
        f"end to end: {label}": partial(end_to_end, accelerator, name, flags) for label, (name, flags) in RUNS.items()
    }
    more = {"host syncs": host_syncs, "plain loop": plain_loop, "data path": images_a_second, "compile": compiled}
    return chosen | {name: partial(part, accelerator, source) for name, part in more.items()}


class OutOfTime(BaseException):
    """The time is over; no handler of a part's exceptions may keep it."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Context that ends with `OutOfTime` after so many seconds."""

    def stop(*args: Any) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def measure(accelerator: str, source: str, only: list[str]) -> dict[str, Any]:
    """Results of the parts, those with a word of `only` in their name alone; prints each, and what is left out and why."""
    results: dict[str, Any] = {}
    begin = time.perf_counter()
    for name, part in parts(accelerator, source).items():
        if only and not any(word in name for word in only):
            continue
        try:
            with time_limit(begin + LIMIT - time.perf_counter()):
                results[name] = part()
        except OutOfTime:
            results[name] = {"left_out": f"{LIMIT:.0f} seconds are over"}
        except ModuleNotFoundError as error:
            results[name] = {"left_out": f"needs {error.name or error}"}
        except UserError as error:
            results[name] = {"error": str(error)}
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in results[name].items()), flush=True)
    return results


def main(args: list[str] | None = None) -> int:
    """Measures, and on CUDA writes the result."""
    parser = OneLineParser(description="The capstones on a GPU: at most eight minutes, results/gpu.json.")
    parser.add_argument("--data", default="sample", help="CIFAR-10, as train's --data.source (default: sample).")
    parser.add_argument("--accelerator", default="gpu", choices=("cpu", "gpu"), help="cpu is a dry run.")
    parser.add_argument("--only", nargs="*", default=[], metavar="WORD", help="Parts with one of these words in their name.")
    options = parser.parse_args(args)
    device = choose_device(options.accelerator)
    print(f"{device_name(device)}, {default_precision(options.accelerator)}")
    results = measure(options.accelerator, options.data, options.only)
    if device.type == "cuda":
        print(write_result("gpu", {"device": device_name(device), "data": options.data, **results}))
    return 1 if any("error" in result for result in results.values()) else 0


if __name__ == "__main__":
    raise SystemExit(report_errors(main))
