"""Small modules and data that the tests of `common.debug` share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from common import debug


class RandomImages(LightningDataModule):
    """64 uint8 images (3, 8, 8) with random labels of four classes, which can only be memorized."""

    def setup(self, stage: str) -> None:
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (64, 3, 8, 8), dtype=torch.uint8, generator=generator)
        self.data = TensorDataset(images, torch.randint(0, 4, (64,), generator=generator))

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.data, batch_size=16, shuffle=True)


class Classifier(LightningModule):
    """Small network with batch normalization, max-pooling and dropout."""

    def __init__(self, dropout: float = 0.0, smoothing: float = 0.0, lr: float = 0.01) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.pool = nn.MaxPool2d(2)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(128, 4)
        self.smoothing, self.lr = smoothing, lr

    def features(self, images: Tensor) -> Tensor:
        pixels = images.to(self.head.weight.dtype) / 255
        return self.drop(self.pool(F.relu(self.norm(self.conv(pixels)))).flatten(1))

    def compute_loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        return F.cross_entropy(self.head(self.features(images)), labels, label_smoothing=self.smoothing)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor | None:
        return self.compute_loss(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def first_batch() -> tuple[Tensor, Tensor]:
    return debug.first_batch(RandomImages())


class Detached(Classifier):
    def compute_loss(self, batch):
        return super().compute_loss(batch).detach()


class FrozenBody(Classifier):
    """The head has the same inputs for every image, and no gradient reaches the layers that could change that."""

    def features(self, images):
        return super().features(images).detach().mean(0).expand(len(images), -1)


class Diverging(Classifier):
    def compute_loss(self, batch):
        return super().compute_loss(batch) * float("nan")
