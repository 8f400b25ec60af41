"""Random points with labels, in batches that depend on seed and epoch alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jsonargparse.typing import NonNegativeInt, PositiveInt
from torch import Tensor
from torch.utils.data import DataLoader

from common.data.batches import batch_shape, epoch_batches
from common.data.sources import SourceDataModule, load_splits
from common.errors import UserError
from common.trainer import resume_position

NUM_TRAIN, NUM_TEST, NUM_FEATURES = 100, 40, 4


class ToyData(SourceDataModule):
    """Points (rows, 4) of which the first feature says the class, through noise.

    Args:
        source: `auto`, `sample`, or a table with the column `x`.
        batch_size: Rows in a training step.
        val_size: Rows held out for validation; 0 for none.
    """

    HUB_ID = "someone/toy"
    num_classes = 2

    def __init__(self, source: str = "auto", batch_size: PositiveInt = 50, val_size: NonNegativeInt = 40) -> None:
        super().__init__(source)
        if val_size >= NUM_TRAIN:
            raise UserError(f"--data.val_size {val_size}: there are {NUM_TRAIN} rows")
        self.batch_size, self.val_size = batch_size, val_size

    @property
    def has_validation(self) -> bool:
        """Whether rows are held out."""
        return self.val_size > 0

    @property
    def split_sizes(self) -> dict[str, int]:
        """The rows that are held out, and the others."""
        return {"train": NUM_TRAIN - self.val_size, "val": self.val_size}

    def setup(self, stage: str) -> None:
        """Samples the points; reads nothing of another source but its columns."""
        if self.resolve().kind != "sample" and "x" not in load_splits(self.resolve())["train"].column_names:
            raise UserError(f"data source {self.resolve().name}: needs a column x")
        rng = torch.Generator().manual_seed(0)
        inputs = torch.randn(NUM_TRAIN + NUM_TEST, NUM_FEATURES, generator=rng)
        labels = (inputs[:, 0] + torch.randn(len(inputs), generator=rng) > 0).long()
        parts = [self.val_size, NUM_TRAIN - self.val_size, NUM_TEST]
        self.val, self.train, self.test = zip(inputs.split(parts), labels.split(parts), strict=True)
        self.seed = torch.initial_seed() % 2**31

    def train_dataloader(self) -> Any:
        return TrainLoader(self)

    def val_dataloader(self) -> Any:
        return DataLoader([self.val], batch_size=None) if self.has_validation else []

    def test_dataloader(self) -> Any:
        return DataLoader([self.test], batch_size=None)


class TrainLoader:
    """Shuffled batches from the trainer's position on."""

    def __init__(self, data: ToyData) -> None:
        self.data = data

    def __len__(self) -> int:
        return batch_shape(len(self.data.train[1]), self.data.batch_size)[0]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch, batch_idx = resume_position(self.data.trainer)
        inputs, labels = self.data.train
        for index in epoch_batches(len(labels), self.data.batch_size, epoch, self.data.seed)[batch_idx:]:
            yield inputs[index], labels[index]
