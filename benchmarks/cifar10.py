"""Our CIFAR-10 run beside what people write instead; both sides in turn, in one process.

`python -m benchmarks.cifar10 --data ../shared/data/cifar10` measures, and writes `results/cifar10-benchmark.json`:

1. the step of a Trainer run, with every callback and logger that `train` has, against a plain PyTorch loop;
2. the device loader against a DataLoader with torchvision v2 transforms doing the same augmentation in 2 workers;
3. the time of the default recipe to its accuracy against textbook ResNet-18 training.

Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks.results import read_result, write_result
from benchmarks.twin import Twin, wait
from common.cli.parser import CapstoneCLI
from common.nn.device import default_precision, device_name, keep_freed_memory
from common.run.run import run
from projects.cifar10.data import CIFAR10Data, DeviceLoader
from projects.cifar10.module import CIFAR10Module
from projects.cifar10.networks import resize
from projects.cifar10.train import PROJECT

TEXTBOOK_EPOCHS = 200  # of recipes/resnet18.yaml: the schedule that ResNet-18's published 96 % belongs to


class PlainTwin(Twin):
    """A plain loop with its own network, optimizer and schedule, and a second loader of the same data."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Builds the twin."""
        assert isinstance(pl_module, CIFAR10Module)
        self.module = CIFAR10Module(**pl_module.hparams)
        self.module.net.load_state_dict(pl_module.net.state_dict())
        self.module.net.to(pl_module.device)
        self.module.trainer = trainer  # for the length of the schedule and the point of training
        parts = self.module.configure_optimizers()
        self.optimizer, self.scheduler = parts["optimizer"], parts["lr_scheduler"]["scheduler"]
        self.batches = forever(trainer.datamodule)  # type: ignore[attr-defined]
        self.autocast = trainer.precision != "32-true"

    def plain_step(self, device: torch.device) -> None:
        """What people write by hand."""
        images, labels, _ = next(self.batches)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.autocast):
            images = resize(images, self.module.current_resolution(images.shape[-1]))
            loss = self.module.compute_loss((images, labels))
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)


def forever(data: CIFAR10Data) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Training batches without end."""
    loader = DeviceLoader(data)
    while True:
        yield from loader


def step_overhead(source: str, accelerator: str, steps: int) -> dict[str, float]:
    """The median step of the Trainer against the twin's, over the default recipe's schedule drawn together to `steps`."""
    twin = PlainTwin(warmup=3)
    arguments = ["--data.source", source, "--accelerator", accelerator, "--name", "benchmark", "--max_steps", str(steps)]
    arguments += ["--trainer.limit_test_batches", "0", "--trainer.limit_val_batches", "0"]
    cli = CapstoneCLI(PROJECT, arguments)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        run(cli, extra_callbacks=[twin])
    return {**twin.figures(), "ratio_of_totals": sum(twin.trainer_seconds) / sum(twin.plain_seconds)}


class TransformedDataset(Dataset[tuple[Tensor, int]]):
    """The textbook data path: one uint8 picture at a time through torchvision v2."""

    def __init__(self, images: Tensor, labels: Tensor, pad: int) -> None:
        self.images, self.labels = images, labels.tolist()
        self.transform = v2.Compose([v2.RandomCrop(32, padding=pad, padding_mode="reflect"), v2.RandomHorizontalFlip()])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


def data_paths(source: str, device: torch.device, rounds: int, workers: int = 2) -> dict[str, float]:
    """Augmented pictures a second of both paths, as they arrive in the training loop on `device`."""
    data = CIFAR10Data(source, val_size=0)
    data.prepare_data()
    data.setup("fit")
    data.train = data.train.to(device)
    data.mean_color = data.mean_color.to(device)
    textbook = DataLoader(
        TransformedDataset(data.train.images.cpu(), data.train.labels.cpu(), data.augmentation.pad),
        data.batch_size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=True,
        pin_memory=device.type == "cuda",
    )
    device_loader = DeviceLoader(data)
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(rounds + 1):
        start, count = time.perf_counter(), 0
        for images, _labels, _index in device_loader:
            count += len(images)
        wait(device)
        ours.append(count / (time.perf_counter() - start))
        batches = iter(textbook)
        for _ in range(2 * workers):  # what the workers have made ready while they start does not count
            next(batches)
        start, count = time.perf_counter(), 0
        for images, _labels in batches:
            count += len(images.to(device))
        wait(device)
        theirs.append(count / (time.perf_counter() - start))
    ours, theirs = ours[1:], theirs[1:]  # the first round warms up
    return {
        "rounds": rounds,
        "workers": workers,
        "ours_images_per_second": statistics.median(ours),
        "dataloader_images_per_second": statistics.median(theirs),
        "ratio": statistics.median(a / b for a, b in zip(ours, theirs, strict=True)),
    }


def resnet18_epoch(device: torch.device, images: int, steps: int, batch_size: int = 128) -> float:
    """Seconds of an epoch of textbook ResNet-18 training on `images` pictures, from `steps` measured steps."""
    torch.manual_seed(0)
    module = CIFAR10Module(network="resnet18")
    net: nn.Module = module.net.to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    batch = torch.randint(0, 256, (batch_size, 3, 32, 32), dtype=torch.uint8, device=device)
    labels = torch.randint(0, 10, (batch_size,), device=device)
    seconds = []
    for _ in range(steps + 2):
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=default_precision(device.type) != "32-true"):
            loss = F.cross_entropy(net(batch).float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        wait(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:]) * images / batch_size


def time_to_accuracy(device: torch.device, steps: int) -> dict[str, float]:
    """The default recipe's measured time beside ResNet-18's whole textbook schedule, projected from measured steps."""
    ours = read_result("cifar10-default")
    epoch = resnet18_epoch(device, 50_000, steps)
    return {
        "ours_seconds": ours["mean"]["train_seconds"],
        "ours_accuracy": ours["mean"]["test/accuracy"],
        "resnet18_seconds_per_epoch": epoch,
        "resnet18_epochs": TEXTBOOK_EPOCHS,
        "ratio": TEXTBOOK_EPOCHS * epoch / ours["mean"]["train_seconds"],
        # how fast ResNet-18 would have to learn for us to be 15 times as fast, no more
        "resnet18_epochs_at_15x": 15 * ours["mean"]["train_seconds"] / epoch,
    }


def main() -> None:
    """Measures and writes the result."""
    parser = argparse.ArgumentParser(description="CIFAR-10: our run beside the usual code.")
    parser.add_argument("--data", default="sample", help="the data source, as in train's --data.source")
    parser.add_argument("--accelerator", default="cpu", help="cpu or gpu")
    parser.add_argument("--steps", type=int, default=40, help="steps of each side of the step comparison")
    parser.add_argument("--rounds", type=int, default=5, help="epochs of each side of the data comparison")
    arguments = parser.parse_args()
    device = torch.device("cuda" if arguments.accelerator == "gpu" else "cpu")
    source = arguments.data if not Path(arguments.data).exists() else str(Path(arguments.data).resolve())
    keep_freed_memory()
    figures = {
        "device": device_name(device),
        "data_path": data_paths(source, device, arguments.rounds),
        "step": step_overhead(source, arguments.accelerator, arguments.steps),
        "time_to_accuracy": time_to_accuracy(device, steps=8),
    }
    print(write_result("cifar10-benchmark", figures))


if __name__ == "__main__":
    main()
