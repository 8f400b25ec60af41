"""Tokenizer: byte-level byte-pair encoding (BPE), so that no word is unknown, and BPE dropout for training."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import groupby, pairwise
from operator import itemgetter
from random import Random
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from common.errors import UserError
from projects.seq2seq.config import EOS

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")  # in the order of their ids
MIN_VOCAB_SIZE = 256 + len(SPECIAL_TOKENS)  # every byte is a token: with fewer, some text could not be encoded

MAX_WORD_BYTES = 64  # longer ones are segmented without dropout, whose time grows with the square of the length
MAX_CACHED_STATES = 500_000  # partly merged words: 125 MB, which Multi30k's German needs after 40 epochs


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
    tokenizer.train_from_iterator(lines, trainer)
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
    """Ids of each line; many times as fast as one `encode` after the other."""
    return [encoding.ids for encoding in tokenizer.encode_batch_fast(lines)]


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
        self._vocabulary: dict[str, int] = tokenizer.get_vocab(with_added_tokens=False)
        self._merges = _merge_table(tokenizer, self._vocabulary)
        self._states: dict[tuple[int, ...], _State] = {}
        starts: dict[str, _State] = {}
        self._lines: list[list[_State]] = []
        for encoding in tokenizer.encode_batch(lines):
            self.ids.append(encoding.ids)
            words = []
            for _, tokens in groupby(zip(encoding.word_ids, encoding.tokens, strict=True), itemgetter(0)):
                pieces = [token for _, token in tokens]
                word = "".join(pieces)
                if word not in starts:
                    starts[word] = self._start(word, pieces)
                words.append(starts[word])
            self._lines.append(words)

    def encode(self, line: int, epoch: int, seed: int) -> list[int]:
        """Ids of line number `line` in `epoch`, without BOS and EOS."""
        dropout, uniform = self.dropout, Random(f"{seed} {epoch} {line}").random
        ids: list[int] = []
        for state in self._lines[line]:
            choice = 0
            while choice < len(state.followers):
                if uniform() < dropout:
                    choice += 1  # this merge is skipped: on to the next rank
                else:
                    state = state.followers[choice] or self._follow(state, choice)
                    choice = 0
            ids += state.ids
        return ids

    def _start(self, word: str, pieces: list[str]) -> _State:
        """Initial state of a word: bytes, or the library's `pieces` of one that is too long."""
        if len(word) > MAX_WORD_BYTES:
            return _State(tuple(self._vocabulary[piece] for piece in pieces), 0)
        return self._state(tuple(self._vocabulary[byte] for byte in word))

    def _state(self, ids: tuple[int, ...]) -> _State:
        """State of `ids`, cached as long as the cache has room."""
        state = self._states.get(ids)
        if state is None:
            state = _State(ids, len(self._possible(ids)))
            if len(self._states) < MAX_CACHED_STATES:
                self._states[ids] = state
        return state

    def _possible(self, ids: tuple[int, ...]) -> list[tuple[int, int, int]]:
        """Possible merges of `ids`, lowest rank first: (rank, position of the left token, merged id)."""
        merges = []
        for position, pair in enumerate(pairwise(ids)):
            if pair in self._merges:
                rank, merged = self._merges[pair]
                merges.append((rank, position, merged))
        return sorted(merges)

    def _follow(self, state: _State, choice: int) -> _State:
        """State after merge number `choice`."""
        _, position, merged = self._possible(state.ids)[choice]
        follower = self._state((*state.ids[:position], merged, *state.ids[position + 2 :]))
        if len(self._states) < MAX_CACHED_STATES:
            state.followers[choice] = follower
        return follower


class _State:
    """Partly merged word: its ids, and the state after each possible merge, as far as computed."""

    __slots__ = ("followers", "ids")

    def __init__(self, ids: tuple[int, ...], merges: int) -> None:
        self.ids = ids
        self.followers: list[_State | None] = [None] * merges


def _merge_table(tokenizer: Tokenizer, vocabulary: dict[str, int]) -> dict[tuple[int, int], tuple[int, int]]:
    """Merge table: (left id, right id) -> (rank, merged id)."""
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return {
        (vocabulary[left], vocabulary[right]): (rank, vocabulary[left + right]) for rank, (left, right) in enumerate(merges)
    }


def _normalizer(lowercase: bool) -> Any:
    return normalizers.Sequence([normalizers.Lowercase(), normalizers.NFC()]) if lowercase else normalizers.NFC()
