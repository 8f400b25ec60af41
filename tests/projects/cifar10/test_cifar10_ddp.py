"""Two processes train and measure like one process with twice the batch size."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import re
import signal
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from commands import CPU, free_port, last_checkpoint, start_server
from common.cli.main import main
from common.data.image_decoding import read_image
from common.errors import EXIT_PREEMPTED
from common.io.metrics import read_metrics
from projects.cifar10.batch_norm import BatchNorm2d
from projects.cifar10.inference import load
from projects.cifar10.train import PROJECT
from projects.cifar10.tta import predict_logits

EPOCHS, STEPS = 3, 3  # steps in an epoch
# learning rates at which a network this small learns
TINY = ["--model.speednet.block_channels", "[8, 8, 8]"]
TWO = ["--devices", "2", "--strategy", "ddp"]


# batch normalization


def norm_and_input(offset: float = 0.0) -> tuple[BatchNorm2d, Tensor, Tensor]:
    """A norm of four channels with a history, a batch (12, 4, 5, 3), and a direction to take the gradient along."""
    norm = BatchNorm2d(4, eps=1e-5, momentum=0.3)
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
        norm.running_mean.fill_(offset)
    return norm, torch.randn(12, 4, 5, 3) * torch.tensor([0.1, 1, 2, 5]).view(1, 4, 1, 1) + offset, torch.randn(12, 4, 5, 3)


def pass_through(norm: nn.Module, x: Tensor, along: Tensor) -> dict[str, Tensor]:
    """Output, gradients of (output * along).sum(), and state after one training step."""
    x = x.clone().requires_grad_()
    out = norm(x)
    (out * along).sum().backward()
    gradients = {"x": x.grad, "to weight": norm.weight.grad, "to bias": norm.bias.grad}
    return {"out": out.detach(), **gradients, **norm.state_dict()}


def textbook(norm: BatchNorm2d) -> nn.BatchNorm2d:
    plain = nn.BatchNorm2d(norm.num_features, norm.eps, norm.momentum)
    plain.load_state_dict(norm.state_dict())
    return plain


def test_batch_norm_of_one_process_is_that_of_torch():
    norm, x, along = norm_and_input()
    expected = pass_through(textbook(norm), x, along)
    for name, value in pass_through(norm, x, along).items():
        assert torch.equal(value, expected[name]), name
    norm.eval()
    plain = textbook(norm).eval()
    assert torch.equal(norm(x), plain(x))


def check_batch_norm(rank: int) -> None:
    """In one process of two, with 7 or 5 of the 12 images: batch norm is torch's on the whole batch."""
    for offset in (0.0, 1000.0):
        torch.manual_seed(0)
        norm, x, along = norm_and_input(offset)
        expected = pass_through(textbook(norm), x, along)
        shard = torch.arange(12).split([7, 5])[rank]
        got = pass_through(copy.deepcopy(norm), x[shard], along[shard])
        for name in ("to weight", "to bias"):  # each process has the part of its own images
            dist.all_reduce(got[name])
        tolerance = {"rtol": 1e-5, "atol": 2e-5} if offset == 0 else {"rtol": 1e-3, "atol": 1e-3}
        for name, value in got.items():
            whole = expected[name][shard] if name in ("out", "x") else expected[name]
            torch.testing.assert_close(value, whole, **tolerance, msg=lambda text, name=name: f"{name}: {text}")
        half = pass_through(copy.deepcopy(norm), x[shard].bfloat16(), along[shard])  # autocast
        assert half["out"].dtype == torch.bfloat16
        half = pass_through(copy.deepcopy(norm).bfloat16(), x[shard].bfloat16(), along[shard])
        assert half["out"].dtype == half["running_var"].dtype == torch.bfloat16
        double = copy.deepcopy(norm).double()
        expected = pass_through(textbook(norm).double(), x.double(), along.double())
        got = pass_through(double, x[shard].double(), along[shard].double())
        torch.testing.assert_close(got["out"], expected["out"][shard], rtol=1e-9, atol=1e-9)
    constant = BatchNorm2d(2, eps=1e-12)
    out = constant(torch.tensor([3.3, 1e3]).view(1, 2, 1, 1).expand(7, 2, 5, 5))
    assert torch.isfinite(out).all(), "a channel that is constant has a variance of 0, not a negative one"
    norm.eval()
    if rank == 0:  # evaluation talks to nobody, so that one process may do it alone
        torch.testing.assert_close(norm(x), textbook(norm).eval()(x))


# training


def train_rank(rank: int, cwd: Path, flags: list[str], port: int) -> None:
    """One process of two: checks batch norm, then trains in the same process group."""
    os.chdir(cwd)
    torch.set_num_threads(1)
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": str(port)}
    timeout = timedelta(seconds=120)
    dist.init_process_group("gloo", f"file://{cwd}/address", timeout, rank=rank, world_size=2)
    check_batch_norm(rank)
    (cwd / f"batch-norm-{rank}").touch()
    sys.exit(main(PROJECT, flags))


@pytest.fixture(scope="module")
def runs(reference_run, reference_flags, tmp_path_factory) -> tuple[Path, Path]:
    """Folders of a run of one process with batch size 40 and of a run of two with 20 each."""
    cwd = tmp_path_factory.mktemp("two")
    (cwd / "plain.yaml").write_text("seed: 0\n")
    flags = ["--config", "plain.yaml", *TINY, *CPU, *reference_flags, *TWO, "--name", "two", "--data.batch_size", "20"]
    start_server(cwd)
    context = multiprocessing.get_context("forkserver")
    port = free_port()
    processes = [context.Process(target=train_rank, args=(rank, cwd, flags, port)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    return reference_run.runs / "one", cwd / "runs" / "cifar10" / "two"


def test_batch_norm_over_two_processes_is_that_of_torch_on_the_whole_batch(runs):
    assert all((runs[1].parents[2] / f"batch-norm-{rank}").exists() for rank in range(2))


def test_weights_of_two_processes_are_those_of_one_with_twice_the_batch(runs):
    one, two = map(last_checkpoint, runs)
    for part in ("state_dict", "slow_weights"):
        assert one[part].keys() == two[part].keys()
        for key, value in one[part].items():
            limit = 1e-9 * float(value.abs().max())  # of a tensor's largest entry
            torch.testing.assert_close(two[part][key], value, rtol=0, atol=limit, msg=lambda text, key=key: f"{key}: {text}")


def test_two_processes_select_the_examples_that_one_would(runs):
    one, two = (last_checkpoint(run)["CIFAR10Data"] for run in runs)
    assert torch.equal(two["subset"], one["subset"]) and torch.equal(two["times_sampled"], one["times_sampled"])
    torch.testing.assert_close(two["losses"], one["losses"], rtol=1e-6, atol=1e-6)
    assert one["losses"].isfinite().sum() > len(one["subset"]), "epochs had different images"


def test_metrics_of_two_processes_are_those_of_one(runs):
    one, two = (read_metrics(run / "metrics.csv") for run in runs)
    for metric in ("val/loss", "val/accuracy", "grad/norm", "lr-MuonSGD/filters"):
        expected = [(row["step"], row[metric]) for row in one if metric in row]
        got = [(row["step"], row[metric]) for row in two if metric in row]
        assert len(expected) == (EPOCHS if metric.startswith("val/") else EPOCHS * STEPS)
        assert [step for step, _ in got] == [step for step, _ in expected]
        assert [value for _, value in got] == pytest.approx([value for _, value in expected], rel=1e-6), metric


def test_two_processes_count_every_test_image_once(runs, image_folder):
    files = sorted((image_folder / "test").rglob("*.png"))
    assert len(files) == 61, "an odd number: one process has an image more than the other"
    summary = json.loads((runs[1] / "summary.json").read_text())
    pipeline = load(runs[1] / "checkpoints" / summary["checkpoint"])
    (net,) = pipeline.nets
    images = torch.stack([read_image(file, 32) for file in files])
    labels = torch.tensor([pipeline.class_names.index(file.parent.name) for file in files])
    with torch.no_grad():
        plain = net(images)
    for suffix, logits in (("", plain), ("_tta", predict_logits(net, images, 2))):
        correct = int((logits.argmax(1) == labels).sum())
        assert 0 < correct < 61
        assert summary["test"][f"test/accuracy{suffix}"] == pytest.approx(correct / 61, abs=1e-6)
        assert summary["test"][f"test/loss{suffix}"] == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-5)
    assert summary["devices"] == 2


@pytest.mark.slow
def test_two_processes_stop_together_on_sigterm_and_go_on_as_if_nothing_had_happened(command, reference_flags):
    flags = [*reference_flags, *TWO, "--data.batch_size", "2", "--checkpoint_every", "4"]
    steps = 30  # in an epoch
    whole = command("train", "--name", "two-whole", *flags)
    whole.wait()
    stopped = command("train", "--name", "two-stopped", *flags)
    folder = stopped.cwd / "runs/cifar10/two-stopped"
    stopped.kill_when(lambda: any(folder.glob("checkpoints/step-*.ckpt")), signal.SIGTERM)
    stopped.wait(EXIT_PREEMPTED)
    output = command("train", "--name", "two-stopped", *flags, "--resume", "auto").wait()
    step = re.search(r"resuming \S+ from step-(\d+)\.ckpt", output)
    assert step and 0 < int(step[1]) < EPOCHS * steps and int(step[1]) % steps
    last = f"checkpoints/step-{EPOCHS * steps:08d}.ckpt"
    whole, killed = (torch.load(path / last, weights_only=True) for path in (whole.cwd / "runs/cifar10/two-whole", folder))
    for part in ("state_dict", "slow_weights"):
        assert all(torch.equal(value, killed[part][key]) for key, value in whole[part].items()), part
    assert len(killed["random_states"]) == 2
