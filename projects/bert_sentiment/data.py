"""Labelled texts as batches of ids: cut by the checkpoint's own tokenizer, similar lengths together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from common.data import batches
from common.data.batches import bucketed_batches, count_batches, shard_indices
from common.data.sources import SourceDataModule, load_splits, resolve_source
from common.errors import UserError
from common.io.ranks import print_rank_zero
from common.trainer import rank_and_world_size, resume_position
from projects.bert_sentiment.pretrained import load_tokenizer
from projects.bert_sentiment.sample import CLASS_NAMES, make_sample
from projects.bert_sentiment.texts import Texts, read, read_split

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HUB_ID = "stanfordnlp/sst2"


class Batch(NamedTuple):
    """Texts as ids, padded at the end.

    The sum of loss * weight, averaged over the processes, is the mean loss of a step (weighted by class if that is asked
    for), however the processes share it.
    """

    ids: Tensor  # (batch, time) int64: special and word tokens, then padding
    mask: Tensor  # (batch, time) int64: 1 for tokens, 0 for padding
    labels: Tensor  # (batch,) int64
    weight: Tensor  # (batch,) float32
    text: Tensor  # (batch,) int64: which text of its split


class TextData(SourceDataModule):
    """Texts of any text and label columns, as the ids of an encoder's tokenizer.

    Args:
        source: `auto` (SST-2 if it is cached or can be downloaded, else the sample), `sample`, a hub id, a folder, or a CSV,
            JSON-lines or Parquet file.
        checkpoint: whose tokenizer; the module's.
        text_column: the column of the texts.
        label_column: the column of the classes: names, whole numbers, or a class feature.
        batch_size: texts in a training step of each process.
        eval_batch_size: texts in a validation or test step.
        pool: batches whose texts are sorted by length together; 1 pads like a plain loader.
        max_length: tokens of a text at most, special ones counted; what is longer is cut, counted and said.
        val_size: texts held out of train for validation where the source has no split for it, at most a tenth; 0 for none.
        balanced: whether every class weighs the same in the loss, however many texts it has.
        extra: a file of further training texts with the same columns (see `predict --save_pseudo_labels`).
    """

    HUB_ID = HUB_ID

    def __init__(
        self,
        source: str = "auto",
        checkpoint: str = "auto",
        text_column: str = "sentence",
        label_column: str = "label",
        batch_size: int = 32,
        eval_batch_size: int = 64,
        pool: int = 100,
        max_length: int = 128,
        val_size: int = 1000,
        balanced: bool = False,
        extra: str | None = None,
    ) -> None:
        super().__init__(source)
        if min(batch_size, eval_batch_size, pool) < 1 or max_length < 3 or val_size < 0:
            raise UserError(
                "--data.batch_size, eval_batch_size and pool are at least 1, max_length at least 3, val_size at least 0"
            )
        self.checkpoint = checkpoint
        self.text_column = text_column
        self.label_column = label_column
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.pool = pool
        self.max_length = max_length
        self.val_size = val_size
        self.balanced = balanced
        self.extra = extra
        self.ids: dict[str, list[list[int]]] = {}  # of each split's texts, cut if too long
        self.truncated: dict[str, int] = {}  # texts that were cut, by split
        self.class_weight: Tensor
        self.seed: int

    @cached_property
    def _read(self) -> tuple[dict[str, Texts], list[str]]:
        source = self.resolve()
        if source.kind == "sample":
            splits, class_names = make_sample(), list(CLASS_NAMES)
            if not self.val_size:
                splits.pop("val")
        else:
            splits, class_names = read(source, self.text_column, self.label_column, self.val_size)
        if self.extra is not None:
            splits["train"] += read_extra(self.extra, self.text_column, self.label_column, class_names)
        return splits, class_names

    @property
    def splits(self) -> dict[str, Texts]:
        """The splits "train", "val" (if there is validation) and "test", read once."""
        return self._read[0]

    @property
    def class_names(self) -> list[str]:
        """The name of each label."""
        return self._read[1]

    @property
    def has_validation(self) -> bool:
        """Whether there are validation texts, the source's own or held out."""
        return "val" in self.splits

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The checkpoint's, or one learned from the training texts for an encoder that has none."""
        return load_tokenizer(self.checkpoint, self.splits["train"].texts)

    @property
    def vocabulary_size(self) -> int:
        """Tokens that the tokenizer knows, for an encoder that is built anew."""
        return len(self.tokenizer)

    def prepare_data(self) -> None:
        """Downloads the data once for all processes."""
        self.splits  # noqa: B018

    def setup(self, stage: str) -> None:
        """Cuts everything into tokens."""
        if self.ids:
            return
        # the run's seed; asked for here because it is the same in every process and after a resume
        self.seed = torch.initial_seed() % 2**31
        longest = min(self.max_length, self.tokenizer.model_max_length)
        for split, texts in self.splits.items():
            whole = encode(self.tokenizer, texts.texts, None)
            self.truncated[split] = sum(len(ids) > longest for ids in whole)
            if self.truncated[split]:
                print_rank_zero(f"{split}: {self.truncated[split]} texts are cut to --data.max_length {longest} tokens")
                whole = encode(self.tokenizer, texts.texts, longest)
            self.ids[split] = whole
        labels = torch.tensor(self.splits["train"].labels)
        count = torch.bincount(labels, minlength=len(self.class_names)).clamp(min=1)
        share = len(labels) / (len(self.class_names) * count.double())  # what a class would have if all were equal
        self.class_weight = share if self.balanced else torch.ones_like(share)

    def train_dataloader(self) -> Any:
        """Every training text exactly once an epoch, in batches of similar lengths."""
        return PooledLoader(self)

    def val_dataloader(self) -> Any:
        """The validation texts."""
        return EvalLoader(self, "val") if self.has_validation else []

    def test_dataloader(self) -> Any:
        """The test texts."""
        return EvalLoader(self, "test")

    def collate(self, split: str, index: Tensor, weight: Tensor) -> Batch:
        """The texts `index` (batch,) of a split as a batch in which each has its `weight` (batch,)."""
        chosen = index.tolist()
        ids, mask = pad([self.ids[split][i] for i in chosen], self.tokenizer.pad_token_id)
        labels = torch.tensor([self.splits[split].labels[i] for i in chosen])
        return Batch(ids, mask, labels, weight, index)


class PooledLoader:
    """Training batches, each padded when it is asked for; begins where the trainer is, also within an epoch."""

    def __init__(self, data: TextData) -> None:
        self.data = data
        self.lengths = torch.tensor([len(ids) for ids in data.ids["train"]])
        self.labels = torch.tensor(data.splits["train"].labels)

    def __len__(self) -> int:
        _, world_size = rank_and_world_size(self.data.trainer)
        return count_batches(len(self.lengths), self.data.batch_size, world_size)

    def __iter__(self) -> Iterator[Batch]:
        data = self.data
        rank, world_size = rank_and_world_size(data.trainer)
        epoch, done = resume_position(data.trainer)
        shares = [
            bucketed_batches(self.lengths, data.batch_size, data.pool, epoch, data.seed, each, world_size)
            for each in range(world_size)
        ]
        for step in range(done, len(self)):
            total = sum(data.class_weight[self.labels[share[step]]].sum() for share in shares)
            index = shares[rank][step]
            # in float64 until here, so that however many processes share a step its weights are the same to the bit
            yield data.collate("train", index, (data.class_weight[self.labels[index]] * world_size / total).float())


class EvalLoader:
    """Texts by length, long ones first; under several processes each takes its share, and no text is counted twice."""

    def __init__(self, data: TextData, split: str) -> None:
        lengths = torch.tensor([len(ids) for ids in data.ids[split]])
        order = lengths.argsort(descending=True, stable=True)
        self.share = order[shard_indices(len(lengths), *rank_and_world_size(data.trainer))]
        self.data, self.split = data, split

    def __len__(self) -> int:
        return -(-len(self.share) // self.data.eval_batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for index in self.share.split(self.data.eval_batch_size):
            yield self.data.collate(self.split, index, torch.full((len(index),), 1 / len(index)))


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int | None) -> list[list[int]]:
    """The ids of each text with the special tokens around it, at most `max_length`."""
    options = {"add_special_tokens": True, "return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    cut = {} if max_length is None else {"truncation": True, "max_length": max_length}
    return [list(ids) for ids in tokenizer(list(texts), **options, **cut)["input_ids"]] if texts else []


def pad(rows: Sequence[Sequence[int]], padding: int) -> tuple[Tensor, Tensor]:
    """`rows` of ids, each of its own length, as (rows, time) int64 filled up with `padding`, and their mask, 1 for ids."""
    padded, real = batches.pad_sequences(rows, padding)
    return padded, real.long()


def read_extra(path: str, text_column: str, label_column: str, class_names: Sequence[str]) -> Texts:
    """The texts of a file, all for training. Raises UserError if it is missing or has other columns or classes."""
    if not Path(path).is_file():
        raise UserError(f"--data.extra {path}: no such file")
    source = resolve_source(path, HUB_ID)
    column = read_split(source, "train", load_splits(source)["train"], text_column, label_column)
    return Texts() if column is None else column.numbered(class_names, source, "extra")
