"""Tabular data as batches: any table that `datasets` reads, or the embedded sample."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from jsonargparse.typing import OpenUnitInterval, PositiveInt
from torch import Tensor

from common.data.batches import count_batches, epoch_batches, shard_indices
from common.data.sources import SourceDataModule, load_splits, read_column
from common.errors import UserError
from common.trainer import rank_and_world_size, resume_position
from projects.blank.synthetic import make_splits

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

HUB_ID = ""  # of the data set that `auto` stands for; this project has none yet
SPLIT_SEED = 1234  # the held-out rows are the same in every run, whatever its seed
Table = tuple[Tensor, Tensor]  # inputs (rows, features) and targets (rows,), float32


class BlankData(SourceDataModule):
    """Rows of a table: one column is the target, all others are features.

    Args:
        source: `sample`, a hub id, a folder, or a CSV, JSON-lines or Parquet file with numbers in every column.
        target: Name of the target column.
        batch_size: Rows in a training step of each process.
        eval_batch_size: Rows in a validation or test step.
        val_fraction: Fraction of the training rows that is held out for validation.
        test_fraction: Fraction of the training rows that is held out for the test, where the source has no test split.
    """

    HUB_ID = HUB_ID

    def __init__(
        self,
        source: str = "sample",
        target: str = "target",
        batch_size: PositiveInt = 100,
        eval_batch_size: PositiveInt = 1000,
        val_fraction: OpenUnitInterval = 0.1,
        test_fraction: OpenUnitInterval = 0.1,
    ) -> None:
        super().__init__(source)
        if source == "auto" and not HUB_ID:
            raise UserError("--data.source auto: this project has no data set of its own; name one, or use sample")
        self.target = target
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.train: Table
        self.val: Table
        self.test: Table

    @property
    def num_features(self) -> int:
        """Number of input features."""
        self.setup("fit")
        return self.train[0].shape[1]

    @property
    def split_sizes(self) -> dict[str, int]:
        """Number of rows."""
        self.setup("fit")
        return {"train": len(self.train[1]), "val": len(self.val[1])}

    def setup(self, stage: str) -> None:
        """Reads and splits the rows, once."""
        if hasattr(self, "test"):
            return
        splits = make_splits() if self.resolve().kind == "sample" else self.read_splits()
        train = splits["train"]
        if "test" in splits:
            self.test = splits["test"]
        else:
            self.test, train = hold_out(train, self.test_fraction)
        self.val, self.train = hold_out(train, self.val_fraction)
        # the run's seed; read here because it is the same in every process and after a resume
        self.seed = torch.initial_seed() % 2**31

    def read_splits(self) -> dict[str, Table]:
        """Splits of the source. Raises UserError if there is no such target column, or a cell is not a number."""
        source, splits = self.resolve(), {}
        for name, split in load_splits(source).items():
            if self.target not in split.column_names:
                raise UserError(f"--data.target {self.target}: the columns are {', '.join(split.column_names)}")
            try:
                columns = {c: torch.tensor(read_column(source, split, c)).float() for c in split.column_names}
            except (ValueError, TypeError) as error:
                raise UserError(f"data source {source.name}: not every cell is a number: {error}") from error
            targets = columns.pop(self.target)
            splits[name] = torch.stack(list(columns.values()), 1), targets
        if "train" not in splits:
            raise UserError(f"data source {source.name}: no split called train, only {', '.join(splits)}")
        return splits

    def train_dataloader(self) -> Any:
        return TrainLoader(self)

    def val_dataloader(self) -> Any:
        return EvalLoader(self.val, self.eval_batch_size, self.trainer)

    def test_dataloader(self) -> Any:
        return EvalLoader(self.test, self.eval_batch_size, self.trainer)


class TrainLoader:
    """Shuffled training batches, a function of seed and epoch; starts at the trainer's position, also within an epoch."""

    def __init__(self, data: BlankData) -> None:
        self.data = data

    def __len__(self) -> int:
        _, world_size = rank_and_world_size(self.data.trainer)
        return count_batches(len(self.data.train[1]), self.data.batch_size, world_size)

    def __iter__(self) -> Iterator[Table]:
        inputs, targets = self.data.train
        epoch, batch_idx = resume_position(self.data.trainer)
        rank, world_size = rank_and_world_size(self.data.trainer)
        batches = epoch_batches(len(targets), self.data.batch_size, epoch, self.data.seed, rank, world_size)
        for index in batches[batch_idx:]:
            yield inputs[index], targets[index]


class EvalLoader:
    """Rows in order; each of several processes evaluates its shard, and no row is counted twice."""

    def __init__(self, table: Table, batch_size: int, trainer: Trainer | None) -> None:
        self.table = table
        self.batches = shard_indices(len(table[1]), *rank_and_world_size(trainer)).split(batch_size)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Table]:
        inputs, targets = self.table
        for index in self.batches:
            yield inputs[index], targets[index]


def hold_out(table: Table, fraction: float) -> tuple[Table, Table]:
    """Random split into held-out rows (at least two) and the rest. Raises UserError if no row would be left."""
    inputs, targets = table
    size = max(2, round(fraction * len(targets)))
    if size >= len(targets):
        raise UserError(f"{len(targets)} rows are too few to hold out {size} of them; give more")
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(SPLIT_SEED))
    held_out, rest = order[:size], order[size:]
    return (inputs[held_out], targets[held_out]), (inputs[rest], targets[rest])
