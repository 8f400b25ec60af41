"""Sentence pairs as batches of ids: from any two columns of text, cut into subwords, similar lengths together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from tokenizers import Tokenizer
from torch import Tensor

from common.data import batches
from common.data.batches import count_token_batches, shard_indices, token_batches
from common.data.sources import Source, SourceDataModule, load_splits, read_column
from common.errors import UserError
from common.io.ranks import print_rank_zero
from common.trainer import rank_and_world_size, resume_position
from projects.seq2seq.sample import make_pairs
from projects.seq2seq.vocabulary import (
    BOS,
    EOS,
    PAD,
    SMALLEST,
    BPEDropout,
    encode_batch,
    lower,
    lowercasing,
    train_bpe,
)

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

HUB_ID = "bentrevett/multi30k"
SPLITS = {"train": "train", "validation": "val", "test": "test"}  # their names at the hub, and ours
SAMPLE_SIZES = {"train": 6000, "val": 500, "test": 500}
SAMPLE_VOCABULARY = 800  # its words are tokens; with more, its long numbers would be too, and too rare to be learned
VAL_SPLIT_SEED = 1234  # the held-out pairs are the same for every run, whatever its seed

Texts = tuple[list[str], list[str]]  # source and target sentences, pair by pair
Ids = tuple[list[list[int]], list[list[int]]]  # the same as ids, without BOS and EOS


class Batch(NamedTuple):
    """Sentence pairs as ids, padded at the end.

    The sum over target tokens of loss * weight, averaged over the processes, is the mean loss per target token of a step,
    however unevenly the processes share its tokens. Only EOS and what is before it counts: BOS is given.
    """

    source: Tensor  # (batch, source_time) int64: ids, EOS, PAD ...
    source_lengths: Tensor  # (batch,) int64, EOS counted
    target: Tensor  # (batch, target_time) int64: BOS, ids, EOS, PAD ...
    weight: Tensor  # (batch,) float32: processes / target tokens of the whole step, EOS counted and BOS not
    pair: Tensor  # (batch,) int64: which pair of its split


@dataclass
class Pairs:
    """Sentences and their translations, pair by pair: as they are, and as ids without BOS and EOS, cut if too long."""

    source: list[str]
    target: list[str]
    source_ids: list[list[int]]
    target_ids: list[list[int]]

    def __len__(self) -> int:
        return len(self.source)


class TranslationData(SourceDataModule):
    """Sentence pairs from two columns of text, as byte-level BPE.

    Args:
        source: `auto` (Multi30k if it is cached or can be downloaded, else the sample), `sample`, a hub id, or a folder.
        direction: from which column into which, joined by a hyphen: `en-de`, or `de-en` for the way back.
        vocabulary_size: tokens of each vocabulary at most; of the sample's at most 800.
        joint: whether both languages share a vocabulary.
        bpe_dropout: probability that a merge of subwords is left out in training, on both sides.
        lowercase: `none`, `source` or `both`: what is brought to lower case before anything else.
        batch_tokens: tokens in a training step of each process, of the longer side, without padding.
        eval_batch_size: pairs in a validation or test step.
        max_length: tokens of a sentence at most; what is longer is cut, counted and said.
        val_size: pairs held out of train for validation where the source has no such split; 0 for none.
    """

    HUB_ID = HUB_ID

    def __init__(
        self,
        source: str = "auto",
        direction: str = "en-de",
        vocabulary_size: int = 8000,
        joint: bool = True,
        bpe_dropout: float = 0.1,
        lowercase: str = "none",
        batch_tokens: int = 4096,
        eval_batch_size: int = 200,
        max_length: int = 256,
        val_size: int = 1000,
    ) -> None:
        super().__init__(source)
        if lowercase not in ("none", "source", "both"):
            raise UserError(f"--data.lowercase {lowercase}: use none, source or both")
        if vocabulary_size < SMALLEST:
            raise UserError(f"--data.vocabulary_size {vocabulary_size}: every byte is a token, so at least {SMALLEST}")
        if not 0 <= bpe_dropout <= 1:
            raise UserError(f"--data.bpe_dropout {bpe_dropout}: a probability is 0 to 1")
        if min(batch_tokens, eval_batch_size, max_length) < 1 or val_size < 0:
            raise UserError("--data.batch_tokens, eval_batch_size and max_length are at least 1, val_size at least 0")
        self.direction = direction
        self.vocabulary_size = vocabulary_size
        self.joint = joint
        self.bpe_dropout = bpe_dropout
        self.lowercase = lowercase
        self.batch_tokens = batch_tokens
        self.eval_batch_size = eval_batch_size
        self.max_length = max_length
        self.val_size = val_size
        self.languages: tuple[str, str]
        self.splits: dict[str, Pairs] = {}
        self.truncated: dict[str, int] = {}  # sentences that were cut, by split
        self.seed: int
        self.droppers: list[BPEDropout] = []  # the source's and the target's, if there is dropout
        self.dropped: tuple[int, Ids] = (-1, ([], []))  # an epoch, and what `droppers` have made of it

    @property
    def has_validation(self) -> bool:
        """Whether there are validation pairs, the source's own or held out."""
        return "val" in self.texts

    @property
    def source_tokenizer(self) -> Tokenizer:
        """The BPE of the source language."""
        return self.tokenizers[0]

    @property
    def target_tokenizer(self) -> Tokenizer:
        """The BPE of the target language; of a joint vocabulary the source's too, unless only that is in lower case."""
        return self.tokenizers[1]

    @property
    def vocabularies(self) -> tuple[int, int]:
        """Sizes of the source's and the target's vocabulary, which a network has to be built for."""
        return self.source_tokenizer.get_vocab_size(), self.target_tokenizer.get_vocab_size()

    @cached_property
    def texts(self) -> dict[str, Texts]:
        """The splits "train", "val" (if there is validation) and "test" as the source has them, read once."""
        source = self.resolve()
        texts, self.languages = read_sample(self.direction) if source.kind == "sample" else read(source, self.direction)
        if "val" not in texts and self.val_size:
            texts["train"], texts["val"] = hold_out(texts["train"], self.val_size)
        filled = [i for i, pair in enumerate(zip(*texts["train"], strict=True)) if all(line.strip() for line in pair)]
        if dropped := len(texts["train"][0]) - len(filled):
            print_rank_zero(f"train: {dropped} pairs with an empty side are left out")
        if not filled:
            raise UserError(f"data source {source.name}: no training pair has text on both sides")
        texts["train"] = select(texts["train"], filled)
        return texts

    @cached_property
    def tokenizers(self) -> tuple[Tokenizer, Tokenizer]:
        """BPE learned on the training pairs: the source's and the target's."""
        train, size = self.texts["train"], self.vocabulary_size
        if self.resolve().kind == "sample":
            size = min(size, SAMPLE_VOCABULARY)
        lowered = self.lowercase != "none", self.lowercase == "both"
        if not self.joint:
            return train_bpe(train[0], size, lowered[0]), train_bpe(train[1], size, lowered[1])
        lines = [map(lower, side) if low else side for side, low in zip(train, lowered, strict=True)]
        shared = train_bpe(chain(*lines), size)
        kinds = {False: shared, True: lowercasing(shared)}
        return kinds[lowered[0]], kinds[lowered[1]]

    @cached_property
    def length_limit(self) -> tuple[float, float]:
        """Ratio and extra tokens that bound a translation's length by its source's.

        A quarter more than the mean ratio, and what is then needed for all but one in a thousand of the training pairs.
        """
        train = self.splits["train"]
        source, target = pair_lengths(train.source_ids, train.target_ids).double().T
        ratio = 1.25 * target.sum() / source.sum()
        extra = (target - ratio * source).quantile(0.999)
        return float(ratio), max(1.0, float(extra))

    def prepare_data(self) -> None:
        """Downloads the data once for all processes."""
        self.texts  # noqa: B018

    def setup(self, stage: str) -> None:
        """Cuts everything into subwords."""
        if self.splits:
            return
        # the run's seed; asked for here because it is the same in every process and after a resume
        self.seed = torch.initial_seed() % 2**31
        for split, texts in self.texts.items():
            if split == "train" and self.bpe_dropout:
                self.droppers = [BPEDropout(*side, self.bpe_dropout) for side in zip(self.tokenizers, texts, strict=True)]
                ids = [dropper.ids for dropper in self.droppers]
            else:
                ids = [encode_batch(*side) for side in zip(self.tokenizers, texts, strict=True)]
            self.truncated[split] = sum(len(line) > self.max_length for line in chain(*ids))
            if self.truncated[split]:
                print_rank_zero(
                    f"{split}: {self.truncated[split]} sentences are cut to --data.max_length {self.max_length} tokens"
                )
            self.splits[split] = Pairs(*texts, *([line[: self.max_length] for line in side] for side in ids))

    def train_ids(self, epoch: int) -> Ids:
        """The ids of the training sentences in `epoch`; under BPE dropout they are others each time."""
        train = self.splits["train"]
        if not self.droppers:
            return train.source_ids, train.target_ids
        if self.dropped[0] != epoch:
            source, target = (
                [dropper.encode(line, epoch, 2 * self.seed + side)[: self.max_length] for line in range(len(train))]
                for side, dropper in enumerate(self.droppers)
            )
            self.dropped = epoch, (source, target)
        return self.dropped[1]

    def train_dataloader(self) -> Any:
        """Every training pair exactly once an epoch, in batches of about `batch_tokens` tokens."""
        return TokenBatchLoader(self)

    def val_dataloader(self) -> Any:
        """The validation pairs."""
        return EvalLoader(self.splits["val"], self.eval_batch_size, self.trainer) if self.has_validation else []

    def test_dataloader(self) -> Any:
        """The test pairs."""
        return EvalLoader(self.splits["test"], self.eval_batch_size, self.trainer)


class TokenBatchLoader:
    """Training batches, each padded when it is asked for; begins where the trainer is, also within an epoch.

    What goes together is decided on the lengths that the sentences have in the epoch: under BPE dropout of 0.1 they are a
    third longer, some more and some less, and batches by the lengths without it would be one third padding.
    """

    def __init__(self, data: TranslationData) -> None:
        self.data = data

    @cached_property
    def steps(self) -> int:
        """Batches in an epoch; by the lengths of the first, as the number may not change."""
        _, world_size = rank_and_world_size(self.data.trainer)
        return count_token_batches(pair_lengths(*self.data.train_ids(0)), self.data.batch_tokens, world_size)

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        data, steps = self.data, self.steps
        rank, world_size = rank_and_world_size(data.trainer)
        epoch, done = resume_position(data.trainer)
        source, target = data.train_ids(epoch)
        lengths = pair_lengths(source, target)
        shares = [token_batches(lengths, steps, epoch, data.seed, each, world_size) for each in range(world_size)]
        for step in range(done, steps):
            tokens = sum(int(lengths[share[step], 1].sum()) for share in shares)
            yield collate(source, target, shares[rank][step], world_size / tokens)


class EvalLoader:
    """Pairs by length, long ones first; under several processes each takes its share, and no pair is counted twice."""

    def __init__(self, pairs: Pairs, batch_size: int, trainer: Trainer | None) -> None:
        lengths = pair_lengths(pairs.source_ids, pairs.target_ids)
        order = (lengths[:, 0] * (lengths[:, 1].max() + 1) + lengths[:, 1]).argsort(descending=True, stable=True)
        self.share = order[shard_indices(len(pairs), *rank_and_world_size(trainer))]
        self.pairs = pairs
        self.target_lengths = lengths[:, 1]
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.share) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for index in self.share.split(self.batch_size):
            weight = 1 / int(self.target_lengths[index].sum())
            yield collate(self.pairs.source_ids, self.pairs.target_ids, index, weight)


def collate(source_ids: Sequence[list[int]], target_ids: Sequence[list[int]], index: Tensor, weight: float) -> Batch:
    """The pairs `index` (batch,) of a split's ids as a batch in which all have the same `weight`."""
    chosen = index.tolist()
    source, source_lengths = pad([[*source_ids[i], EOS] for i in chosen])
    target, _ = pad([[BOS, *target_ids[i], EOS] for i in chosen])
    return Batch(source, source_lengths, target, torch.full((len(chosen),), weight), index)


def pad(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """`rows` of ids, each of its own length, as (rows, time) int64 filled up with PAD, and their lengths (rows,) int64."""
    padded, real = batches.pad_sequences(rows, PAD)
    return padded, real.sum(1)


def pair_lengths(source_ids: Sequence[list[int]], target_ids: Sequence[list[int]]) -> Tensor:
    """Tokens of each pair with EOS, (pairs, 2) int64."""
    return torch.tensor([[len(side) for side in ids] for ids in (source_ids, target_ids)]).T + 1


def read(source: Source, direction: str) -> tuple[dict[str, Texts], tuple[str, str]]:
    """The splits of a folder or a hub data set, and the names of the two columns that `direction` means.

    Cells without a value, as a CSV file's empty ones, are empty sentences.

    Raises:
        UserError: no split for training or test, or an empty one; a column that is missing or holds no text; a file that is
            not UTF-8, or that cannot be read for another reason.
    """
    splits = load_splits(source)
    filled = [name for name in SPLITS if name in splits and len(splits[name])]
    if not {"train", "test"} <= set(filled):
        raise UserError(f"data source {source.name}: needs the splits train and test, has {', '.join(filled) or 'none'}")
    languages = split_direction(direction, splits["train"].column_names)
    texts: dict[str, Texts] = {}
    for name in filled:
        for column in languages:
            feature = splits[name].features.get(column, "missing")
            kind = getattr(feature, "dtype", feature)
            if kind not in ("string", "large_string"):
                raise UserError(f"data source {source.name}: column {column} of {name} is not text but {kind}")
        first, second = ([line or "" for line in read_column(source, splits[name], column)] for column in languages)
        texts[SPLITS[name]] = first, second
    return texts, languages


def read_sample(direction: str) -> tuple[dict[str, Texts], tuple[str, str]]:
    """The splits of the embedded sample, of which no sentence is in two, and its languages."""
    languages = split_direction(direction, ["de", "en"])
    pairs = make_pairs(sum(SAMPLE_SIZES.values()), seed=0)
    german, english = map(list, zip(*pairs, strict=True))
    columns = {"de": german, "en": english}
    texts: dict[str, Texts] = {}
    begin = 0
    for split, size in SAMPLE_SIZES.items():
        first, second = (columns[language][begin : begin + size] for language in languages)
        texts[split] = first, second
        begin += size
    return texts, languages


def split_direction(direction: str, columns: Sequence[str]) -> tuple[str, str]:
    """The two of `columns` whose names, joined by a hyphen, are `direction`; the names may hold hyphens too.

    Raises:
        UserError: there are no such two.
    """
    parts = direction.split("-")
    ways = [("-".join(parts[:i]), "-".join(parts[i:])) for i in range(1, len(parts))]
    for source, target in ways:
        if source in columns and target in columns and source != target:
            return source, target
    raise UserError(
        f"--data.direction {direction}: not two columns joined by a hyphen; the columns are {', '.join(sorted(columns))}"
    )


def hold_out(texts: Texts, size: int) -> tuple[Texts, Texts]:
    """`texts` without, and only, `size` random ones."""
    count = len(texts[0])
    if size >= count:
        raise UserError(f"--data.val_size {size}: the source has {count} training pairs")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(VAL_SPLIT_SEED))
    return select(texts, sorted(order[size:].tolist())), select(texts, sorted(order[:size].tolist()))


def select(texts: Texts, index: Sequence[int]) -> Texts:
    """The pairs `index` of `texts`."""
    return [texts[0][i] for i in index], [texts[1][i] for i in index]
