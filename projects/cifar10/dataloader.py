"""DataLoader path: one image at a time through composed torchvision v2 transforms, in worker processes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from common.data.images import LabeledImages
from projects.cifar10.config import IMAGE_SIZE, AugmentationConfig

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


class TransformedImages(Dataset[tuple[Tensor, Tensor, int]]):
    """Augmented training images of an epoch; alternating flip means random flip here."""

    def __init__(self, data: LabeledImages, config: AugmentationConfig, mean_color: Tensor, seed: int, epoch: int) -> None:
        self.images, self.labels = data.images.cpu(), data.labels.cpu()
        self.epoch_seed = seed * 1_000_003 + epoch
        steps: list[Any] = [v2.RandomHorizontalFlip()] if config.flip != "none" else []
        if config.pad:
            steps.append(v2.RandomCrop(IMAGE_SIZE, padding=config.pad, padding_mode="reflect"))
        if config.cutout:
            area = config.cutout**2 / IMAGE_SIZE**2
            color = mean_color.flatten().tolist()
            steps.append(v2.RandomErasing(p=1.0, scale=(area, area), ratio=(1.0, 1.0), value=color))
        self.transform = v2.Compose(steps) if steps else v2.Identity()

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        """Image, label and index; a random state of its own makes an image the same in any worker and after a resume."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed((self.epoch_seed * 1_000_003 + index) % 2**63)
            return self.transform(self.images[index]), self.labels[index], index


def default_workers(trainer: Trainer | None) -> int:
    """Worker processes where unset: a GPU needs as many as there are cores for it."""
    if trainer is None or trainer.strategy.root_device.type == "cpu":
        return 2
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, cores // trainer.num_devices))


def dataloader_batches(
    dataset: TransformedImages, batches: Sequence[Tensor], num_workers: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Images, labels and indices of each of `batches`, on the CPU, loaded by `num_workers` processes."""
    yield from DataLoader(
        dataset,
        batch_sampler=[batch.tolist() for batch in batches],
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # of the workers' seeds, which nothing depends on; else it would be the run's
    )
