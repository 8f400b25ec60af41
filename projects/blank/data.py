"""Rows of numbers as batches: from any table that `datasets` reads, or the sample."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from common.data.batches import count_batches, epoch_batches, shard_indices
from common.data.sources import SourceDataModule, load_splits, read_column
from common.errors import UserError
from common.trainer import rank_and_world_size, resume_position

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

HUB_ID = ""  # of the data set that `auto` stands for; this project has none yet
SAMPLE_SIZES = {"train": 2000, "test": 500}
SPLIT_SEED = 1234  # the held-out rows are the same for every run, whatever its seed
Rows = tuple[Tensor, Tensor]  # inputs (rows, inputs) and targets (rows,), float32


class BlankData(SourceDataModule):
    """Rows of numbers, one of which is to be predicted from the others.

    Args:
        source: `sample`, a hub id, a folder, or a CSV, JSON-lines or Parquet file, with numbers in every column.
        target: the column that is to be predicted.
        batch_size: rows in a training step of each process.
        eval_batch_size: rows in a validation or test step.
        val_share: share of the training rows that is held out for validation.
        test_share: the same for the test, where the source has no split for it.
    """

    HUB_ID = HUB_ID

    def __init__(
        self,
        source: str = "sample",
        target: str = "target",
        batch_size: int = 100,
        eval_batch_size: int = 1000,
        val_share: float = 0.1,
        test_share: float = 0.1,
    ) -> None:
        super().__init__(source)
        if source == "auto" and not HUB_ID:
            raise UserError("--data.source auto: this project has no data set of its own; name one, or use sample")
        if min(batch_size, eval_batch_size) < 1 or not (0 < val_share < 0.5 and 0 < test_share < 0.5):
            raise UserError("--data.batch_size and eval_batch_size are at least 1, val_share and test_share below a half")
        self.target = target
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.val_share = val_share
        self.test_share = test_share
        self.train: Rows
        self.val: Rows
        self.test: Rows

    @property
    def inputs(self) -> int:
        """Numbers that a target is predicted from."""
        self.setup("fit")
        return self.train[0].shape[1]

    def setup(self, stage: str) -> None:
        """Reads the rows and splits them, once."""
        if hasattr(self, "test"):
            return
        splits = make_sample() if self.resolve().kind == "sample" else self.read()
        rest = splits["train"]
        if "test" in splits:
            self.test = splits["test"]
        else:
            self.test, rest = split_off(rest, self.test_share)
        self.val, self.train = split_off(rest, self.val_share)
        # the run's seed; asked for here because it is the same in every process and after a resume
        self.seed = torch.initial_seed() % 2**31

    def read(self) -> dict[str, Rows]:
        """The source's splits. Raises UserError if there is no such target, or not every cell is a number."""
        splits = {}
        for name, split in load_splits(self.resolve()).items():
            if self.target not in split.column_names:
                raise UserError(f"--data.target {self.target}: the columns are {', '.join(split.column_names)}")
            try:
                columns = {c: torch.tensor(read_column(self.resolve(), split, c)).float() for c in split.column_names}
            except (ValueError, TypeError) as error:
                raise UserError(f"data source {self.resolve().name}: not every cell is a number: {error}") from error
            targets = columns.pop(self.target)
            splits[name] = torch.stack(list(columns.values()), 1), targets
        if "train" not in splits:
            raise UserError(f"data source {self.resolve().name}: no split called train, only {', '.join(splits)}")
        return splits

    def train_dataloader(self) -> Any:
        """Every training row exactly once an epoch, shuffled."""
        return TrainLoader(self)

    def val_dataloader(self) -> Any:
        """The held-out rows."""
        return EvalLoader(self.val, self.eval_batch_size, self.trainer)

    def test_dataloader(self) -> Any:
        """The test rows."""
        return EvalLoader(self.test, self.eval_batch_size, self.trainer)


class TrainLoader:
    """Training batches by seed and epoch; begins where the trainer is, also within an epoch."""

    def __init__(self, data: BlankData) -> None:
        self.data = data

    def __len__(self) -> int:
        _, world_size = rank_and_world_size(self.data.trainer)
        return count_batches(len(self.data.train[1]), self.data.batch_size, world_size)

    def __iter__(self) -> Iterator[Rows]:
        inputs, targets = self.data.train
        epoch, done = resume_position(self.data.trainer)
        where = rank_and_world_size(self.data.trainer)
        for index in epoch_batches(len(targets), self.data.batch_size, epoch, self.data.seed, *where)[done:]:
            yield inputs[index], targets[index]


class EvalLoader:
    """Rows in order; under several processes each takes its share, and no row is counted twice."""

    def __init__(self, rows: Rows, batch_size: int, trainer: Trainer | None) -> None:
        self.rows = rows
        self.batches = shard_indices(len(rows[1]), *rank_and_world_size(trainer)).split(batch_size)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Rows]:
        for index in self.batches:
            yield self.rows[0][index], self.rows[1][index]


def split_off(rows: Rows, share: float) -> tuple[Rows, Rows]:
    """A share of the rows, at least two, and the rest. Raises UserError if there would be none."""
    inputs, targets = rows
    count = max(2, round(share * len(targets)))
    if count >= len(targets):
        raise UserError(f"{len(targets)} rows are too few to hold some of them out")
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(SPLIT_SEED))
    held_out, rest = order[:count], order[count:]
    return (inputs[held_out], targets[held_out]), (inputs[rest], targets[rest])


def make_sample() -> dict[str, Rows]:
    """The embedded sample: y = sin(3 a) + b², plus noise of standard deviation 0.1, for a and b from -1 to 1."""
    splits = {}
    for seed, (split, count) in enumerate(SAMPLE_SIZES.items()):
        generator = torch.Generator().manual_seed(seed)
        inputs = 2 * torch.rand(count, 2, generator=generator) - 1
        noise = 0.1 * torch.randn(count, generator=generator)
        splits[split] = inputs, torch.sin(3 * inputs[:, 0]) + inputs[:, 1] ** 2 + noise
    return splits
