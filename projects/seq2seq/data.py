"""Parallel text as batches of ids: any two columns of text, byte-level BPE, batches of equal tokens and similar lengths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt, PositiveInt
from tokenizers import Tokenizer
from torch import Tensor

from common.data.batches import count_token_batches, pad_sequences, shard_indices, token_batches
from common.data.sources import SourceDataModule
from common.errors import UserError
from common.io.ranks import print_rank_zero
from common.trainer import accumulation_window, rank_and_world_size, resume_position
from projects.seq2seq.config import BOS, EOS, PAD
from projects.seq2seq.parallel_text import Texts, read_splits, select, split_direction
from projects.seq2seq.synthetic import make_pairs
from projects.seq2seq.tokenizer import BPEDropout, encode_batch, lower, lowercasing, train_bpe

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

SAMPLE_SIZES = {"train": 6000, "val": 500, "test": 500}
SAMPLE_VOCAB_SIZE = 800  # its words are tokens; with more, its long numbers would be too, and too rare to be learned

Ids = tuple[list[list[int]], list[list[int]]]  # the same as ids, without BOS and EOS


class Batch(NamedTuple):
    """Sentence pairs as padded ids.

    The sum over target tokens of loss * weight, averaged over the processes and over the batches whose gradients are
    accumulated, is the mean loss per target token of an optimizer step, however unevenly they share its tokens. Only EOS and
    what is before it counts, not BOS.
    """

    source: Tensor  # (batch, source_time) int64: ids, EOS, PAD ...
    source_lengths: Tensor  # (batch,) int64, EOS included
    target: Tensor  # (batch, target_time) int64: BOS, ids, EOS, PAD ...
    weight: Tensor  # (batch,) float32: processes * accumulated batches / target tokens of the whole step
    pair_index: Tensor  # (batch,) int64: index of the pair in its split
    token_index: Tensor  # (tokens,) int64: the target tokens that count, in `target[:, 1:].flatten()`


@dataclass
class Pairs:
    """Sentences and their translations, pair by pair: as text, and as ids without BOS and EOS, cut if too long."""

    source: list[str]
    target: list[str]
    source_ids: list[list[int]]
    target_ids: list[list[int]]

    def __len__(self) -> int:
        return len(self.source)


class TranslationData(SourceDataModule):
    """Parallel text from two columns, as byte-level BPE.

    Args:
        source: `auto` (Multi30k if it is cached or can be downloaded, else the sample), `sample`, a hub id, a folder,
            or a file; for layouts see `projects.seq2seq.parallel_text`.
        direction: Source and target language (columns, or endings of text files), joined by a hyphen: `en-de`, or `de-en`
            for German to English.
        vocab_size: Maximum size of each vocabulary, at least 260 (every byte is a token); of the sample's at most 800.
        joint_vocab: Whether both languages have one joint vocabulary.
        bpe_dropout: BPE dropout: probability that a merge is skipped in training, on both sides (arXiv 1910.13267).
        lowercase: Sides that are lowercased before anything else.
        max_tokens: Tokens in a training step of each process, of the longer side, without padding.
        eval_batch_size: Pairs in a validation or test step.
        max_length: Maximum length of a sentence in tokens; longer ones are cut, and their number is printed.
        val_size: Number of pairs held out of train for validation where the source has no such split; 0 for none; unset,
            1,000, or a tenth of train if that is less.
        configuration: Configuration of a hub id or a folder that has several, such as OPUS Books' `de-en`.
    """

    HUB_ID = "bentrevett/multi30k"
    BATCH_OPTION = "max_tokens"

    def __init__(
        self,
        source: str = "auto",
        direction: str = "en-de",
        vocab_size: PositiveInt = 6000,
        joint_vocab: bool = True,
        bpe_dropout: ClosedUnitInterval = 0.05,
        lowercase: Literal["none", "source", "both"] = "source",
        max_tokens: PositiveInt = 1536,
        eval_batch_size: PositiveInt = 200,
        max_length: PositiveInt = 256,
        val_size: NonNegativeInt | None = None,
        configuration: str | None = None,
    ) -> None:
        super().__init__(source, configuration)
        self.direction = direction
        self.vocab_size = vocab_size
        self.joint_vocab = joint_vocab
        self.bpe_dropout = bpe_dropout
        self.lowercase = lowercase
        self.max_tokens = max_tokens
        self.eval_batch_size = eval_batch_size
        self.max_length = max_length
        self.val_size = val_size
        self.languages: tuple[str, str]
        self.splits: dict[str, Pairs] = {}
        self.truncated: dict[str, int] = {}  # sentences that were cut, by split
        self.seed: int
        self.bpe_droppers: list[BPEDropout] = []  # of source and target, if there is dropout
        self.epoch_ids: tuple[int, Ids] = (-1, ([], []))  # an epoch, and its training ids under BPE dropout

    @property
    def has_validation(self) -> bool:
        """Whether there are validation pairs, the source's own or held out."""
        return "val" in self.texts

    @property
    def vocab_sizes(self) -> tuple[int, int]:
        """Sizes of the source and the target vocabulary."""
        return self.tokenizers[0].get_vocab_size(), self.tokenizers[1].get_vocab_size()

    @cached_property
    def texts(self) -> dict[str, Texts]:
        """Splits "train", "val" (if there is validation) and "test" as text, read once."""
        source = self.resolve()
        texts, self.languages = (
            read_sample(self.direction) if source.kind == "sample" else read_splits(source, self.direction, self.val_size)
        )
        filled = [i for i, pair in enumerate(zip(*texts["train"], strict=True)) if all(line.strip() for line in pair)]
        if dropped := len(texts["train"][0]) - len(filled):
            print_rank_zero(f"train: {dropped} pairs with an empty side are left out")
        if not filled:
            raise UserError(f"data source {source.name}: no training pair has text on both sides")
        texts["train"] = select(texts["train"], filled)
        return texts

    @property
    def split_sizes(self) -> dict[str, int]:
        """Number of pairs."""
        return {name: len(source) for name, (source, _) in self.texts.items() if name != "test"}

    @cached_property
    def tokenizers(self) -> tuple[Tokenizer, Tokenizer]:
        """Source and target tokenizer, trained on the training pairs.

        Of a joint vocabulary they are one, unless only the source is lowercased.
        """
        train, size = self.texts["train"], self.vocab_size
        if self.resolve().kind == "sample":
            size = min(size, SAMPLE_VOCAB_SIZE)
        lowercased = self.lowercase != "none", self.lowercase == "both"
        if not self.joint_vocab:
            return train_bpe(train[0], size, lowercased[0]), train_bpe(train[1], size, lowercased[1])
        lines = [map(lower, side) if low else side for side, low in zip(train, lowercased, strict=True)]
        joint = train_bpe(chain(*lines), size)
        by_case = {False: joint, True: lowercasing(joint)}
        return by_case[lowercased[0]], by_case[lowercased[1]]

    @cached_property
    def length_limit(self) -> tuple[float, float]:
        """Ratio and extra tokens that bound a translation's length by its source's, see `max_lengths`.

        A quarter more than the mean ratio, and what is then needed for all but one in a thousand of the training pairs.
        """
        train = self.splits["train"]
        source, target = pair_lengths(train.source_ids, train.target_ids).double().T
        ratio = 1.25 * target.sum() / source.sum()
        extra = (target - ratio * source).quantile(0.999)
        return float(ratio), max(1.0, float(extra))

    def adapt_to(self, checkpoint: dict[str, Any]) -> None:
        """Takes the tokenizers of the checkpoint, its languages and limits of lengths."""
        languages = checkpoint["languages"][0], checkpoint["languages"][1]
        self.texts  # noqa: B018, sets the data's languages
        if self.languages == languages[::-1]:
            translates = f"the checkpoint translates {languages[0]} to {languages[1]}"
            raise UserError(f"--data.direction {self.direction}: {translates}; exchange the two")
        self.languages = languages
        source, target = (Tokenizer.from_str(text) for text in checkpoint["tokenizers"])
        self.tokenizers = source, target
        self.length_limit = checkpoint["length_limit"][0], checkpoint["length_limit"][1]
        self.bpe_dropout = 0.0

    def prepare_data(self) -> None:
        """Downloads the data once for all processes."""
        self.texts  # noqa: B018

    def setup(self, stage: str) -> None:
        """Tokenizes all splits, once."""
        if self.splits:
            return
        # the run's seed; read here because it is the same in every process and after a resume
        self.seed = torch.initial_seed() % 2**31
        for split, texts in self.texts.items():
            if split == "train" and self.bpe_dropout:
                sides = zip(self.tokenizers, texts, strict=True)
                self.bpe_droppers = [BPEDropout(*side, self.bpe_dropout) for side in sides]
                ids = [dropper.ids for dropper in self.bpe_droppers]
            else:
                ids = [encode_batch(*side) for side in zip(self.tokenizers, texts, strict=True)]
            cut = self.truncated[split] = sum(len(line) > self.max_length for line in chain(*ids))
            if cut:
                print_rank_zero(f"{split}: {cut} sentences are cut to --data.max_length {self.max_length} tokens")
            self.splits[split] = Pairs(*texts, *([line[: self.max_length] for line in side] for side in ids))

    def train_ids(self, epoch: int) -> Ids:
        """Ids of the training sentences in `epoch`; with BPE dropout other ones in each."""
        train = self.splits["train"]
        if not self.bpe_droppers:
            return train.source_ids, train.target_ids
        if self.epoch_ids[0] != epoch:
            source, target = (
                [dropper.encode(line, epoch, 2 * self.seed + side) for line in range(len(train))]
                for side, dropper in enumerate(self.bpe_droppers)
            )
            cut = sum(len(line) > self.max_length for line in chain(source, target))
            if cut > self.truncated["train"] and self.epoch_ids[0] < 0:
                print_rank_zero(f"train: with BPE dropout {cut} sentences are cut in an epoch, such as the first")
            source, target = ([line[: self.max_length] for line in side] for side in (source, target))
            self.epoch_ids = epoch, (source, target)
        return self.epoch_ids[1]

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Moves a batch but for lengths and indices of pairs, which the host reads: packing asks for them, and decoding."""
        moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
        return moved._replace(source_lengths=batch.source_lengths, pair_index=batch.pair_index)

    def train_dataloader(self) -> Any:
        return TrainLoader(self)

    def val_dataloader(self) -> Any:
        return EvalLoader(self.splits["val"], self.eval_batch_size, self.trainer) if self.has_validation else []

    def test_dataloader(self) -> Any:
        return EvalLoader(self.splits["test"], self.eval_batch_size, self.trainer)


class TrainLoader:
    """Training batches of about `max_tokens` tokens, every pair once an epoch; starts at the trainer's position.

    Batches are formed by the lengths that the sentences have in the epoch: BPE dropout of 0.1 makes them a third longer,
    some more and some less, and batches by the lengths without it would be one third padding.
    """

    def __init__(self, data: TranslationData) -> None:
        self.data = data

    @cached_property
    def steps(self) -> int:
        """Batches in an epoch; by the lengths of the first, as the number may not change."""
        _, _, formed_for = self.data.sharding
        return count_token_batches(pair_lengths(*self.data.train_ids(0)), self.data.max_tokens, formed_for)

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        data, steps = self.data, self.steps
        rank, world_size, formed_for = data.sharding
        epoch, first_step = resume_position(data.trainer)
        source, target = data.train_ids(epoch)
        lengths = pair_lengths(source, target)
        ranks = range(world_size)
        shards = [token_batches(lengths, steps, epoch, data.seed, each, world_size, formed_for) for each in ranks]
        tokens = [sum(int(lengths[shard[step], 1].sum()) for shard in shards) for step in range(steps)]
        for step in range(first_step, steps):
            window, divisor = accumulation_window(data.trainer, step, steps)
            yield collate(source, target, shards[rank][step], divisor * world_size / sum(tokens[i] for i in window))


class EvalLoader:
    """Evaluation batches, long pairs first; each of several processes evaluates its shard, and no pair is counted twice."""

    def __init__(self, pairs: Pairs, batch_size: int, trainer: Trainer | None) -> None:
        lengths = pair_lengths(pairs.source_ids, pairs.target_ids)
        order = (lengths[:, 0] * (lengths[:, 1].max() + 1) + lengths[:, 1]).argsort(descending=True, stable=True)
        shard = order[shard_indices(len(pairs), *rank_and_world_size(trainer))]
        self.batches = [index for index in shard.split(batch_size) if len(index)]
        self.pairs = pairs
        self.target_lengths = lengths[:, 1]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        for index in self.batches:
            weight = 1 / int(self.target_lengths[index].sum())
            yield collate(self.pairs.source_ids, self.pairs.target_ids, index, weight)


def collate(source_ids: Sequence[list[int]], target_ids: Sequence[list[int]], index: Tensor, weight: float) -> Batch:
    """Batch of the pairs `index` (batch,) of a split's ids, all of the same `weight`."""
    source, real = pad_sequences([[*source_ids[i], EOS] for i in index.tolist()], PAD)
    target, real_target = pad_sequences([[BOS, *target_ids[i], EOS] for i in index.tolist()], PAD)
    token_index = real_target[:, 1:].flatten().nonzero().squeeze(1)
    return Batch(source, real.sum(1), target, torch.full((len(index),), weight), index, token_index)


def pair_lengths(source_ids: Sequence[list[int]], target_ids: Sequence[list[int]]) -> Tensor:
    """Lengths of source and target of each pair, EOS included: (pairs, 2) int64."""
    return torch.tensor([[len(side) for side in ids] for ids in (source_ids, target_ids)]).T + 1


def read_sample(direction: str) -> tuple[dict[str, Texts], tuple[str, str]]:
    """Disjoint splits of the embedded sample, and its languages."""
    languages = split_direction(direction, ["de", "en"])
    pairs = make_pairs(sum(SAMPLE_SIZES.values()), seed=0)
    german, english = map(list, zip(*pairs, strict=True))
    columns = {"de": german, "en": english}
    texts: dict[str, Texts] = {}
    begin = 0
    for split, size in SAMPLE_SIZES.items():
        texts[split] = columns[languages[0]][begin : begin + size], columns[languages[1]][begin : begin + size]
        begin += size
    return texts, languages
