"""CIFAR-10 training compared to a plain PyTorch loop and to a DataLoader, alternately in one process.

`python -m benchmarks.cifar10 --data FOLDER` writes `results/cifar10-benchmark.json`:

1. a training step of a Trainer run with all its callbacks and loggers, and the same step in a plain PyTorch loop;
2. augmented images per second of the loader on the device, and of a DataLoader with the same augmentation by torchvision v2.

Run it on an otherwise idle machine.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks.plain_loop import PlainLoopCallback, endless, synchronize, train
from benchmarks.results import write_result
from benchmarks.timing import interleave
from common.cli.command import OneLineParser, positive
from common.nn.allocator import keep_freed_memory
from common.nn.device import device_name
from projects.cifar10.data import CIFAR10Data
from projects.cifar10.module import CIFAR10Module
from projects.cifar10.networks import resize
from projects.cifar10.train import PROJECT


class CIFAR10PlainLoop(PlainLoopCallback):
    """Plain training loop with its own network, optimizer and learning-rate schedule, on the same batches."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, CIFAR10Module)
        self.module = CIFAR10Module(**pl_module.hparams)
        self.module.net.load_state_dict(pl_module.net.state_dict())
        self.module.net.to(pl_module.device)
        self.module.trainer = trainer  # for the length of the schedule and the step
        configured = self.module.configure_optimizers()
        self.optimizer, self.scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
        self.batches = endless(trainer.datamodule)  # type: ignore[attr-defined]
        self.autocast = trainer.precision != "32-true"

    def plain_step(self, device: torch.device) -> None:
        images, labels, _ = next(self.batches)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.autocast):
            images = resize(images, self.module.scheduled_size(images.shape[-1]))
            loss = self.module.compute_loss((images, labels))
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)


def step_overhead(source: str, accelerator: str, steps: int) -> dict[str, float]:
    """Training step of the Trainer and of the plain loop, over the default recipe's schedule shortened to `steps`."""
    callback = CIFAR10PlainLoop(warmup_steps=3)
    train(PROJECT, ["--data.source", source, "--accelerator", accelerator, "--max_steps", str(steps)], callback)
    return {**callback.result(), "ratio_of_totals": sum(callback.trainer_seconds) / sum(callback.plain_seconds)}


class TransformedDataset(Dataset[tuple[Tensor, int]]):
    """Textbook dataset: one uint8 image at a time through torchvision v2."""

    def __init__(self, images: Tensor, labels: Tensor, pad: int) -> None:
        self.images, self.labels = images, labels.tolist()
        self.transform = v2.Compose([v2.RandomCrop(32, padding=pad, padding_mode="reflect"), v2.RandomHorizontalFlip()])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


def data_path(source: str, device: torch.device, repeats: int, num_workers: int = 2) -> dict[str, float]:
    """Augmented images per second of both loaders, counted where the training loop receives them on `device`."""
    data = CIFAR10Data(source, val_size=0, subset_fraction=1.0)
    data.prepare_data()
    data.setup("fit")
    data.train = data.train.to(device)
    data.mean_color = data.mean_color.to(device)
    loader = data.train_dataloader()
    textbook = DataLoader(
        TransformedDataset(data.train.images.cpu(), data.train.labels.cpu(), data.augmentation.pad),
        data.batch_size,
        shuffle=True,
        num_workers=num_workers,
        persistent_workers=True,
        pin_memory=device.type == "cuda",
    )

    def images_per_second(batches: Iterable[tuple[Tensor, ...]]) -> float:
        start = time.perf_counter()
        count = sum(len(images.to(device)) for images, *_ in batches)
        synchronize(device)
        return count / (time.perf_counter() - start)

    def without_prefetched() -> Iterable[tuple[Tensor, ...]]:
        batches = iter(textbook)
        for _ in range(2 * num_workers):  # prefetched while the workers start: not counted
            next(batches)
        return batches

    sides: list[Callable[[], float]] = [
        lambda: images_per_second(loader),
        lambda: images_per_second(without_prefetched()),
    ]
    ours, theirs = interleave(sides, repeats)
    return {
        "repeats": repeats,
        "workers": num_workers,
        "ours_images_per_second": statistics.median(ours),
        "dataloader_images_per_second": statistics.median(theirs),
        "ratio": statistics.median(a / b for a, b in zip(ours, theirs, strict=True)),
    }


def main() -> None:
    """Measures and writes the result."""
    parser = OneLineParser(description="CIFAR-10 training compared to a plain PyTorch loop and to a DataLoader.")
    parser.add_argument("--data", default="sample", help="Data source, as train's --data.source.")
    parser.add_argument("--accelerator", default="cpu", choices=("cpu", "gpu"))
    parser.add_argument("--steps", type=positive, default=40, help="Training steps of each side.")
    parser.add_argument("--repeats", type=positive, default=5, help="Epochs of each loader.")
    arguments = parser.parse_args()
    device = torch.device("cuda" if arguments.accelerator == "gpu" else "cpu")
    source = arguments.data if not Path(arguments.data).exists() else str(Path(arguments.data).resolve())
    keep_freed_memory()
    result = {
        "device": device_name(device),
        "data_path": data_path(source, device, arguments.repeats),
        "step": step_overhead(source, arguments.accelerator, arguments.steps),
    }
    print(write_result("cifar10-benchmark", result))


if __name__ == "__main__":
    main()
