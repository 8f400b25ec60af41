"""Tokenizer: byte-level byte-pair encoding (BPE), so that no word is unknown, and BPE dropout for training."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import groupby, pairwise
from operator import itemgetter
from random import Random
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from common.errors import UserError
from projects.seq2seq.config import EOS

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")  # in the order of their ids
MIN_VOCAB_SIZE = 256 + len(SPECIAL_TOKENS)  # every byte is a token: with fewer, some text could not be encoded

MAX_CHARACTERS = 1_000_000  # of a line: more is beyond any maximum length, and would take gigabytes
MAX_WORD_BYTES = 64  # longer ones are segmented in parts, as the time of dropout grows with the square of the length
MAX_CACHED_WORDS = 500_000  # partly merged words, 125 MB or more, which Multi30k's German fills in 40 epochs

MergeTable = dict[tuple[int, int], tuple[int, int]]  # (left id, right id) -> (rank, merged id)


def train_bpe(lines: Iterable[str], size: int, lowercase: bool = False) -> Tokenizer:
    """Trains a byte-level BPE tokenizer (Sennrich et al., arXiv 1508.07909, on the bytes of UTF-8).

    Text is normalized to Unicode's NFC form. A space belongs to the word after it and one is put before the first, so that a
    word is the same token wherever it stands. The same lines give the same vocabulary.

    Args:
        lines: Training text.
        size: Maximum size of the vocabulary; smaller if there is nothing left to merge.
        lowercase: Whether the tokenizer lowercases its input.

    Raises:
        UserError: The size is below `MIN_VOCAB_SIZE`.
    """
    if size < MIN_VOCAB_SIZE:
        raise UserError(f"--data.vocab_size {size}: every byte is a token, so at least {MIN_VOCAB_SIZE}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = _normalizer(lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((line[:MAX_CHARACTERS] for line in lines), trainer)
    # The library would find special tokens in text too, and a line that holds "</s>" would end there. As mere entries of
    # the vocabulary they are not found: letters and punctuation are never merged.
    return Tokenizer.from_str(json.dumps(json.loads(tokenizer.to_str()) | {"added_tokens": []}))


def lowercasing(tokenizer: Tokenizer) -> Tokenizer:
    """Tokenizer with the same vocabulary that lowercases its input."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.normalizer = _normalizer(True)
    return copy


def lower(line: str) -> str:
    """Lowercases as `lowercasing` tokenizers do; Python's `str.lower` has a second small sigma."""
    return str(normalizers.Lowercase().normalize_str(line))


def encode(tokenizer: Tokenizer, line: str) -> list[int]:
    """Ids of a line, without BOS and EOS; never UNK, and empty for an empty line."""
    return list(tokenizer.encode(line).ids)


def encode_batch(tokenizer: Tokenizer, lines: Sequence[str]) -> list[list[int]]:
    """Ids of each line, at most of its first `MAX_CHARACTERS`; many times as fast as one `encode` after the other."""
    return [encoding.ids for encoding in tokenizer.encode_batch_fast([line[:MAX_CHARACTERS] for line in lines])]


def decode(tokenizer: Tokenizer, ids: Iterable[int]) -> str:
    """Text of ids up to the first EOS, without special tokens and surrounding white space."""
    text = []
    for token in ids:
        if token == EOS:
            break
        if token >= len(SPECIAL_TOKENS):
            text.append(token)
    return str(tokenizer.decode(text)).strip()


def token_names(tokenizer: Tokenizer, ids: Iterable[int]) -> list[str]:
    """Readable tokens: `·` before those that continue a word, `</s>` for the end."""
    names = []
    for token in ids:
        text = SPECIAL_TOKENS[token] if token < len(SPECIAL_TOKENS) else str(tokenizer.decode([token]))
        names.append(text.strip() if text.startswith(" ") or token < len(SPECIAL_TOKENS) else f"·{text}")
    return names


class BPEDropout:
    """BPE dropout of training lines (Provilkov et al., arXiv 1910.13267, algorithm 1).

    BPE starts from bytes and again and again merges the pair of lowest rank. Here each possible merge is skipped with
    probability `dropout`, anew in every step; a word is finished when none remains. 0 gives the library's own segmentation,
    1 single bytes.

    A word of more than `MAX_WORD_BYTES`, as a sentence without spaces, is split first, where tokens end without dropout.

    The library can do the same, but with a random generator that cannot be seeded, and a resumed run would differ. Here a
    line's ids are a function of the line, its index, `seed` and `epoch`.

    Args:
        tokenizer: Tokenizer of `train_bpe`.
        lines: Training text; split into words once.
        dropout: Probability that a merge is skipped, 0 to 1.
    """

    def __init__(self, tokenizer: Tokenizer, lines: Sequence[str], dropout: float) -> None:
        self.dropout = dropout
        self.ids: list[list[int]] = []  # of each line without dropout
        vocabulary: dict[str, int] = tokenizer.get_vocab(with_added_tokens=False)
        table = merge_table(tokenizer, vocabulary)
        self.word = lru_cache(MAX_CACHED_WORDS)(lambda ids: PartialWord(ids, possible_merges(ids, table)))
        known: dict[str, list[PartialWord]] = {}
        self.lines: list[list[PartialWord]] = []  # each line's words as bytes
        for encoding in tokenizer.encode_batch([line[:MAX_CHARACTERS] for line in lines]):
            self.ids.append(encoding.ids)
            words: list[PartialWord] = []
            for _, tokens in groupby(zip(encoding.word_ids, encoding.tokens, strict=True), itemgetter(0)):
                pieces = [token for _, token in tokens]
                word = "".join(pieces)
                if word not in known:
                    known[word] = [self.word(tuple(vocabulary[byte] for byte in part)) for part in split_word(pieces)]
                words += known[word]
            self.lines.append(words)

    def encode(self, line: int, epoch: int, seed: int) -> list[int]:
        """Ids of line number `line` in `epoch`, without BOS and EOS."""
        dropout, uniform = self.dropout, Random(f"{seed} {epoch} {line}").random
        ids: list[int] = []
        for word in self.lines[line]:
            i = 0
            while i < len(word.merges):
                if uniform() < dropout:
                    i += 1  # this merge is skipped: on to the next rank
                else:
                    word = word.followers[i] or self.merge(word, i)
                    i = 0
            ids += word.ids
        return ids

    def merge(self, word: PartialWord, i: int) -> PartialWord:
        """The word after its merge number `i`; linked to it as long as the cache has room."""
        position, merged = word.merges[i]
        follower: PartialWord = self.word((*word.ids[:position], merged, *word.ids[position + 2 :]))
        if self.word.cache_info().currsize < MAX_CACHED_WORDS:
            word.followers[i] = follower
        return follower


def split_word(tokens: Iterable[str]) -> list[str]:
    """Parts of a word, of as many tokens each as have at most `MAX_WORD_BYTES`, which BPE segments into these tokens."""
    parts = [""]
    for token in tokens:
        if parts[-1] and len(parts[-1]) + len(token) > MAX_WORD_BYTES:
            parts.append("")
        parts[-1] += token
    return parts


class PartialWord:
    """Partly merged word: ids, possible merges (lowest rank first), and the word after each merge, as far as computed."""

    __slots__ = ("followers", "ids", "merges")

    def __init__(self, ids: tuple[int, ...], merges: list[tuple[int, int]]) -> None:
        self.ids, self.merges = ids, merges
        self.followers: list[PartialWord | None] = [None] * len(merges)


def possible_merges(word: tuple[int, ...], table: MergeTable) -> list[tuple[int, int]]:
    """Possible merges of a word, lowest rank first: (position of the left token, merged id)."""
    found = [(*table[pair], position) for position, pair in enumerate(pairwise(word)) if pair in table]
    return [(position, merged) for _, merged, position in sorted(found, key=itemgetter(0, 2))]


def merge_table(tokenizer: Tokenizer, vocabulary: dict[str, int]) -> MergeTable:
    """Merge table of a tokenizer."""
    merges = enumerate(json.loads(tokenizer.to_str())["model"]["merges"])
    return {(vocabulary[left], vocabulary[right]): (rank, vocabulary[left + right]) for rank, (left, right) in merges}


def _normalizer(lowercase: bool) -> Any:
    return normalizers.Sequence([normalizers.Lowercase(), normalizers.NFC()]) if lowercase else normalizers.NFC()
