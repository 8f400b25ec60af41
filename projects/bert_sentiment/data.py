"""Text classification data: labeled texts as batches of token ids, those of similar length together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jsonargparse.typing import NonNegativeInt, PositiveInt
from torch import Tensor

from common.data.batches import bucketed_batches, count_batches, pad_sequences, shard_indices
from common.data.sources import SourceDataModule, load_splits, resolve_source
from common.errors import UserError
from common.io.ranks import print_rank_zero
from common.trainer import accumulation_window, rank_and_world_size, resume_position
from projects.bert_sentiment.labeled_texts import LabeledTexts, read_split, read_splits
from projects.bert_sentiment.pretrained import load_tokenizer, tokenizer_from_files
from projects.bert_sentiment.synthetic import make_splits

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_CHARACTERS = 1000  # of a text for each token that is read: what is behind them is cut off in any case


class Batch(NamedTuple):
    """Token ids of texts, padded at the end.

    The sum of loss * weights, averaged over the processes, is the mean loss of a step (weighted by class if asked for),
    however the processes shard it and however many batches are accumulated.
    """

    input_ids: Tensor  # (batch, time) int64: special tokens and pieces of words, then padding
    attention_mask: Tensor  # (batch, time) int64: 1 for tokens, 0 for padding
    labels: Tensor  # (batch,) int64
    weights: Tensor  # (batch,) float32
    indices: Tensor  # (batch,) int64: index of each text in its split


class TextData(SourceDataModule):
    """Texts of any text and label columns, as token ids of an encoder's tokenizer.

    Args:
        source: `auto` (SST-2 if it is cached or can be downloaded, else the sample), `sample`, a hub id, a folder, or a CSV,
            TSV, JSON, JSON-lines or Parquet file.
        checkpoint: Checkpoint of the tokenizer; the module's.
        text_column: Name of the column of texts.
        label_column: Name of the column of labels: names, integers, or a class feature.
        batch_size: Texts in a training step of each process.
        eval_batch_size: Texts in a validation or test step.
        bucket_batches: Bucketing: number of batches whose texts are sorted by length together; 1 pads like a plain loader.
        max_length: Maximum number of tokens of a text, special tokens included; longer texts are truncated, and counted.
        val_size: Texts held out of train for validation where the source has no split for it; 0 for none; unset, 1,000, or a
            tenth of train if that is less.
        balanced: Class weights in the loss, inverse to class frequencies (scikit-learn's `class_weight="balanced"`).
        extra_train_data: File of further training texts with the same columns (see `predict --save_pseudo_labels`).
        configuration: Configuration of a hub id or a folder that has several, such as GLUE's `cola`.
    """

    HUB_ID = "stanfordnlp/sst2"

    def __init__(
        self,
        source: str = "auto",
        checkpoint: str = "auto",
        text_column: str = "sentence",
        label_column: str = "label",
        batch_size: PositiveInt = 32,
        eval_batch_size: PositiveInt = 64,
        bucket_batches: PositiveInt = 100,
        max_length: PositiveInt = 128,
        val_size: NonNegativeInt | None = None,
        balanced: bool = False,
        extra_train_data: str | None = None,
        configuration: str | None = None,
    ) -> None:
        super().__init__(source, configuration)
        self.checkpoint = checkpoint
        self.text_column = text_column
        self.label_column = label_column
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.bucket_batches = bucket_batches
        self.max_length = max_length
        self.val_size = val_size
        self.balanced = balanced
        self.extra_train_data = extra_train_data
        self.input_ids: dict[str, list[list[int]]] = {}  # of each split's texts, truncated
        self.truncated: dict[str, int] = {}  # number of truncated texts of each split
        self.class_weights: Tensor
        self.seed: int

    @cached_property
    def splits(self) -> dict[str, LabeledTexts]:
        """The splits "train", "val" (if there is validation) and "test", read once."""
        source = self.resolve()
        if source.kind == "sample":
            splits = make_splits()
            if self.val_size == 0:
                splits.pop("val")
        else:
            splits = read_splits(source, self.text_column, self.label_column, self.val_size)
        if self.extra_train_data is not None:
            train, extra = splits["train"], self.read_extra(self.extra_train_data, splits["train"].class_names)
            splits["train"] = LabeledTexts(train.texts + extra.texts, train.labels + extra.labels, train.class_names)
        return splits

    def read_extra(self, path: str, class_names: list[str]) -> LabeledTexts:
        """All texts of a file. Raises UserError if it is missing or has other columns or classes."""
        if not Path(path).is_file():
            raise UserError(f"--data.extra_train_data {path}: no such file")
        source = resolve_source(path, self.HUB_ID)
        texts = read_split(source, "train", load_splits(source)["train"], self.text_column, self.label_column)
        return LabeledTexts([], [], []) if texts is None else texts.relabel(class_names, source, "extra_train_data")

    @property
    def class_names(self) -> list[str]:
        """Name of each label."""
        return self.splits["train"].class_names

    @property
    def has_validation(self) -> bool:
        """Whether there are validation texts, the source's own or held out."""
        return "val" in self.splits

    @property
    def split_sizes(self) -> dict[str, int]:
        """Number of texts."""
        return {name: len(split.texts) for name, split in self.splits.items() if name != "test"}

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The checkpoint's tokenizer, or one trained on the training texts for an encoder that has none."""
        return load_tokenizer(self.checkpoint, self.splits["train"].texts)

    @property
    def vocab_size(self) -> int:
        """Vocabulary size of the tokenizer, for an encoder with random weights."""
        return len(self.tokenizer)

    def adapt_to(self, checkpoint: dict[str, Any]) -> None:
        """Labels texts by the classes of the checkpoint, and takes its tokenizer."""
        names, source = list(checkpoint["hyper_parameters"]["class_names"]), self.resolve()
        self.splits = {name: split.relabel(names, source, name, "the checkpoint") for name, split in self.splits.items()}
        self.tokenizer = tokenizer_from_files(checkpoint["tokenizer_files"])

    def prepare_data(self) -> None:
        self.splits  # noqa: B018, downloaded once for all processes

    def setup(self, stage: str) -> None:
        """Tokenizes all splits, once."""
        if self.input_ids:
            return
        # the run's seed; read here because it is the same in every process and after a resume
        self.seed = torch.initial_seed() % 2**31
        max_length = min(self.max_length, self.tokenizer.model_max_length)
        if max_length <= (special := self.tokenizer.num_special_tokens_to_add()):
            raise UserError(f"--data.max_length {max_length}: {special} of them are special tokens; use more")
        self.tokenizer.model_max_length = max_length  # it goes with the checkpoint: prediction truncates like training
        for split, texts in self.splits.items():
            self.input_ids[split], truncated = tokenize(self.tokenizer, texts.texts, max_length)
            self.truncated[split] = truncated
            if truncated:
                limit = "--data.max_length" if max_length == self.max_length else "what the encoder reads,"
                print_rank_zero(f"{split}: {truncated} texts are truncated to {limit} {max_length}")
        labels = torch.tensor(self.splits["train"].labels)
        counts = torch.bincount(labels, minlength=len(self.class_names)).clamp(min=1)
        weights = len(labels) / (len(self.class_names) * counts.double())
        self.class_weights = weights if self.balanced else torch.ones_like(weights)

    def train_dataloader(self) -> Any:
        return TrainLoader(self)

    def val_dataloader(self) -> Any:
        return EvalLoader(self, "val") if self.has_validation else []

    def test_dataloader(self) -> Any:
        return EvalLoader(self, "test")

    def collate(self, split: str, indices: Tensor, weights: Tensor) -> Batch:
        """Batch of the texts `indices` (batch,) of a split, with their `weights` (batch,) in the loss."""
        rows = indices.tolist()
        input_ids, mask = pad([self.input_ids[split][i] for i in rows], self.tokenizer.pad_token_id)
        return Batch(input_ids, mask, torch.tensor([self.splits[split].labels[i] for i in rows]), weights, indices)


class TrainLoader:
    """Bucketed training batches, a function of seed and epoch; starts at the trainer's position, also within an epoch."""

    def __init__(self, data: TextData) -> None:
        self.data = data
        self.lengths = torch.tensor([len(ids) for ids in data.input_ids["train"]])
        self.labels = torch.tensor(data.splits["train"].labels)

    def __len__(self) -> int:
        _, _, formed_for = self.data.sharding
        return count_batches(len(self.lengths), self.data.batch_size, formed_for)

    def __iter__(self) -> Iterator[Batch]:
        data = self.data
        rank, world_size, formed_for = data.sharding
        epoch, batch_idx = resume_position(data.trainer)
        shards = [
            bucketed_batches(
                self.lengths, data.batch_size, data.bucket_batches, epoch, data.seed, each, world_size, formed_for
            )
            for each in range(world_size)
        ]
        weights = data.class_weights[self.labels]
        totals = [sum(weights[shard[step]].sum() for shard in shards) for step in range(len(self))]
        for step in range(batch_idx, len(self)):
            window, divisor = accumulation_window(data.trainer, step, len(self))
            indices, total = shards[rank][step], sum(totals[i] for i in window)
            # in float64 until here, so that the weights of a step do not depend on the number of processes
            yield data.collate("train", indices, (weights[indices] * (world_size * divisor) / total).float())


class EvalLoader:
    """Texts by length, longest first; each of several processes evaluates its shard, and no text is counted twice."""

    def __init__(self, data: TextData, split: str) -> None:
        lengths = torch.tensor([len(ids) for ids in data.input_ids[split]])
        order = lengths.argsort(descending=True, stable=True)
        shard = order[shard_indices(len(lengths), *rank_and_world_size(data.trainer))]
        self.batches = shard.split(data.eval_batch_size) if len(shard) else ()
        self.data, self.split = data, split

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        for indices in self.batches:
            yield self.data.collate(self.split, indices, torch.full((len(indices),), 1 / len(indices)))


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int) -> tuple[list[list[int]], int]:
    """Token ids of each text with its special tokens, truncated to `max_length`, and the number of truncated texts.

    Of a very long text the tokenizer, which takes minutes and gigabytes for it, gets the beginning alone.
    """
    options: dict[str, Any] = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    if not texts:
        return [], 0
    limit = max_length * MAX_CHARACTERS
    beginnings = [text[:limit] for text in texts]
    rows = tokenizer(beginnings, **options)["input_ids"]
    truncated = sum(len(ids) > max_length or len(text) > limit for ids, text in zip(rows, texts, strict=True))
    if truncated:
        rows = tokenizer(beginnings, truncation=True, max_length=max_length, **options)["input_ids"]
    return [list(ids) for ids in rows], truncated


def pad(rows: Sequence[Sequence[int]], pad_token_id: int) -> tuple[Tensor, Tensor]:
    """input_ids and attention_mask, both (rows, time) int64, of rows of token ids."""
    input_ids, mask = pad_sequences(rows, pad_token_id)
    return input_ids, mask.long()
