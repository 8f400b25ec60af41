"""Tabular data as batches: tables as CSV, TSV, JSON lines or Parquet, or the embedded sample."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from jsonargparse.typing import OpenUnitInterval, PositiveInt
from torch import Tensor

from common.data.batches import batch_shape, epoch_batches, report_left_out, shard_indices
from common.data.sources import SourceDataModule, evaluated_splits, load_splits, read_column
from common.errors import UserError
from common.io.ranks import print_rank_zero
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
        source: `sample`, a hub id, or a CSV, TSV, JSON-lines or Parquet file, or a folder of such files.
        target: Name of the target column.
        batch_size: Rows in a training step of each process.
        eval_batch_size: Rows in a validation or test step.
        val_fraction: Fraction of the training rows that is held out for validation, where the source has no such split.
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
        self.feature_names: list[str] = []  # columns of the inputs, in order; none of the sample's
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

    def adapt_to(self, checkpoint: dict[str, Any]) -> None:
        """Takes the columns of the checkpoint as inputs, in its order."""
        self.feature_names = list(checkpoint.get("feature_names", []))
        if self.num_features != (trained := checkpoint["hyper_parameters"]["num_features"]):
            raise UserError(f"data source {self.resolve().name}: {self.num_features} features, the checkpoint has {trained}")

    def setup(self, stage: str) -> None:
        """Reads and splits the rows, once."""
        if hasattr(self, "test"):
            return
        splits = make_splits() if self.resolve().kind == "sample" else self.read_splits()
        train = splits["train"]
        if "test" in splits:
            self.test = splits["test"]
        else:
            self.test, train = hold_out(train, self.test_fraction, self.source_label)
        if "validation" in splits:
            self.val, self.train = splits["validation"], train
        else:
            self.val, self.train = hold_out(train, self.val_fraction, self.source_label)
        # the run's seed; read here because it is the same in every process and after a resume
        self.seed = torch.initial_seed() % 2**31

    def read_splits(self) -> dict[str, Table]:
        """Splits of the source, with the columns of numbers that train has. Prints which columns and rows are left out.

        Raises UserError if there is no split train, no such target column, no feature, or a cell is not a number.
        """
        source = self.resolve()
        tables = evaluated_splits(source, {name: table for name, table in load_splits(source).items() if len(table)})
        if "train" not in tables:
            raise UserError(f"data source {source.name}: no split called train, only {', '.join(tables) or 'empty ones'}")
        splits, features = {}, list(self.feature_names)
        for name in sorted(tables, key=lambda name: name != "train"):  # train first
            columns = {column: read_column(source, tables[name], column) for column in tables[name].column_names}
            if self.target not in columns:
                raise UserError(f"--data.target {self.target}: the columns are {', '.join(columns)}")
            if not features:
                features = [
                    c for c in columns if c != self.target and any(to_number(cell) is not None for cell in columns[c])
                ]
                if text := [c for c in columns if c not in (*features, self.target)]:
                    print_rank_zero(f"data source {source.name}: columns without numbers are left out: {', '.join(text)}")
            if missing := [c for c in features if c not in columns]:
                raise UserError(f"data source {source.name}: {name} has no column {missing[0]}")
            splits[name] = self.to_tensors(name, [columns[c] for c in (*features, self.target)], [*features, self.target])
        if not features:
            raise UserError(f"data source {source.name}: no column of numbers beside the target {self.target}")
        self.feature_names = features
        return splits

    def to_tensors(self, split: str, columns: list[list[Any]], names: list[str]) -> Table:
        """Inputs and targets, the last of `columns`, of the rows without an empty cell; prints how many are left out."""
        where, rows = f"data source {self.resolve().name}: {split}", []
        for number, row in enumerate(zip(*columns, strict=True), 1):
            if any(is_empty(cell) for cell in row):
                continue
            values = [to_number(cell) for cell in row]
            if None in values:
                column = values.index(None)
                raise UserError(f"{where}, row {number}: {names[column]} is {row[column]!r}, not a finite number")
            rows.append(values)
        if not rows:
            raise UserError(f"{where}: every row has an empty cell")
        if left_out := len(columns[0]) - len(rows):
            print_rank_zero(f"{where}: {left_out} rows with an empty cell are left out")
        table = torch.tensor(rows, dtype=torch.float32)
        return table[:, :-1], table[:, -1]

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
        count, formed_for = len(data.train[1]), data.sharding[2]
        self.shape = batch_shape(count, data.batch_size, formed_for)
        report_left_out(count, *self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def global_batch_size(self) -> int:
        """Rows of a batch, of all processes together."""
        return self.shape[1]

    def __iter__(self) -> Iterator[Table]:
        inputs, targets = self.data.train
        epoch, batch_idx = resume_position(self.data.trainer)
        batches = epoch_batches(len(targets), self.data.batch_size, epoch, self.data.seed, *self.data.sharding)
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


def is_empty(cell: Any) -> bool:
    """Whether a cell of a table is empty: None, NaN or blank text."""
    return cell is None or cell != cell or (isinstance(cell, str) and not cell.strip())


def to_number(cell: Any) -> float | None:
    """Number in a cell, also as text or a truth value; None if there is none, or it is not finite."""
    try:
        number = float(cell)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def hold_out(table: Table, fraction: float, source: str) -> tuple[Table, Table]:
    """Random split into held-out rows (at least two) and the rest. Raises UserError if no row would be left."""
    inputs, targets = table
    size = max(2, round(fraction * len(targets)))
    if size >= len(targets):
        few = f"{len(targets)} rows are too few to hold out {size} for validation or test"
        raise UserError(f"data source {source}: {few}; give more rows, or the splits themselves")
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(SPLIT_SEED))
    held_out, rest = order[:size], order[size:]
    return (inputs[held_out], targets[held_out]), (inputs[rest], targets[rest])
