"""Text to token ids and back: byte-level BPE, so that no word is unknown, with BPE dropout for training."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import groupby, pairwise
from operator import itemgetter
from random import Random
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

PAD, BOS, EOS, UNK = range(4)
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
SMALLEST = 256 + len(SPECIAL)  # every byte is a token of its own: with fewer, some text could not be written

LONGEST_WORD = 64  # bytes; nobody's words are longer, and the time that dropout takes grows with the square
CACHED_STATES = 500_000  # half-merged words that a `BPEDropout` keeps: 125 MB, which Multi30k's German needs after 40 epochs


def train_bpe(lines: Iterable[str], size: int, lowercase: bool = False) -> Tokenizer:
    """Learns a byte-level BPE vocabulary (Sennrich et al., arXiv 1508.07909, on the bytes of UTF-8).

    Text is brought to Unicode's NFC form. A space belongs to the word behind it and one is put before the first, so that a
    word is the same token wherever it stands. The same lines give the same vocabulary.

    Args:
        lines: the text to learn from.
        size: tokens at most, at least `SMALLEST`; fewer if there is nothing left to merge.
        lowercase: whether what is read is brought to lower case.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = _normalizer(lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    # The library would find special tokens in text too, and a line that holds "</s>" would end there. As mere entries of
    # the vocabulary they cannot be found: letters and signs are never merged.
    return _changed(tokenizer, added_tokens=[])


def lowercasing(tokenizer: Tokenizer) -> Tokenizer:
    """A tokenizer with the same vocabulary that brings what it reads to lower case."""
    copy = _changed(tokenizer)
    copy.normalizer = _normalizer(lowercase=True)
    return copy


def lower(line: str) -> str:
    """`line` in lower case as `lowercasing` tokenizers have it; Python's own knows a second small sigma."""
    return str(normalizers.Lowercase().normalize_str(line))


def encode(tokenizer: Tokenizer, line: str) -> list[int]:
    """The ids of `line`, without BOS and EOS; never UNK, and empty for an empty line."""
    return list(tokenizer.encode(line).ids)


def encode_batch(tokenizer: Tokenizer, lines: Sequence[str]) -> list[list[int]]:
    """The ids of each of `lines`; many times as fast as one `encode` after the other."""
    return [encoding.ids for encoding in tokenizer.encode_batch_fast(lines)]


def decode(tokenizer: Tokenizer, ids: Iterable[int]) -> str:
    """The text of `ids` up to the first EOS, without special tokens and without white space around it."""
    text = []
    for token in ids:
        if token == EOS:
            break
        if token >= len(SPECIAL):
            text.append(token)
    return str(tokenizer.decode(text)).strip()


def token_names(tokenizer: Tokenizer, ids: Iterable[int]) -> list[str]:
    """Tokens as people read them: `·` before those that go on with a word, `</s>` for the end."""
    names = []
    for token in ids:
        text = SPECIAL[token] if token < len(SPECIAL) else str(tokenizer.decode([token]))
        names.append(text.strip() if text.startswith(" ") or token < len(SPECIAL) else f"·{text}")
    return names


class BPEDropout:
    """Ids of training lines under BPE dropout (Provilkov et al., arXiv 1910.13267, algorithm 1).

    BPE starts from bytes and merges the pair that was learned first, again and again. Here each merge that is possible is
    left out with probability `dropout`, anew in every step; a word is finished when none is left. 0 gives the library's
    own segmentation, 1 single bytes.

    The library can do the same, but draws from a generator that cannot be seeded, and a resumed run would differ. Here a
    line's ids are a function of the line, its number, `seed` and `epoch`.

    Args:
        tokenizer: a byte-level BPE of `train_bpe`.
        lines: the text; it is split into words once.
        dropout: probability that a merge is left out, 0 to 1.
    """

    def __init__(self, tokenizer: Tokenizer, lines: Sequence[str], dropout: float) -> None:
        self.dropout = dropout
        self.ids: list[list[int]] = []
        """The ids of each line without dropout."""
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
        """The ids of line number `line` in `epoch`, without BOS and EOS."""
        dropout, draw = self.dropout, Random(f"{seed} {epoch} {line}").random
        ids: list[int] = []
        for state in self._lines[line]:
            choice = 0
            while choice < len(state.followers):
                if draw() < dropout:
                    choice += 1  # this merge is left out: on to the one learned next
                else:
                    state = state.followers[choice] or self._follow(state, choice)
                    choice = 0
            ids += state.ids
        return ids

    def _start(self, word: str, pieces: list[str]) -> _State:
        """A word in bytes; one that is too long stays in the `pieces` that the library makes of it."""
        if len(word) > LONGEST_WORD:
            return _State(tuple(self._vocabulary[piece] for piece in pieces), 0)
        return self._state(tuple(self._vocabulary[byte] for byte in word))

    def _state(self, ids: tuple[int, ...]) -> _State:
        """The state `ids`, from the cache as long as that has room."""
        state = self._states.get(ids)
        if state is None:
            state = _State(ids, len(self._possible(ids)))
            if len(self._states) < CACHED_STATES:
                self._states[ids] = state
        return state

    def _possible(self, ids: tuple[int, ...]) -> list[tuple[int, int, int]]:
        """The merges that are possible in `ids`, first learned first: (rank, place of the left token, merged id)."""
        merges = []
        for place, pair in enumerate(pairwise(ids)):
            if pair in self._merges:
                rank, merged = self._merges[pair]
                merges.append((rank, place, merged))
        return sorted(merges)

    def _follow(self, state: _State, choice: int) -> _State:
        """What `state` becomes with its merge number `choice`."""
        _, place, merged = self._possible(state.ids)[choice]
        follower = self._state((*state.ids[:place], merged, *state.ids[place + 2 :]))
        if len(self._states) < CACHED_STATES:
            state.followers[choice] = follower
        return follower


class _State:
    """A word on its way from bytes to tokens: its ids, and what each possible merge makes of it, as far as was asked."""

    __slots__ = ("followers", "ids")

    def __init__(self, ids: tuple[int, ...], merges: int) -> None:
        self.ids = ids
        self.followers: list[_State | None] = [None] * merges


def _merge_table(tokenizer: Tokenizer, vocabulary: dict[str, int]) -> dict[tuple[int, int], tuple[int, int]]:
    """(left id, right id) -> (rank, id of both together)."""
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return {
        (vocabulary[left], vocabulary[right]): (rank, vocabulary[left + right]) for rank, (left, right) in enumerate(merges)
    }


def _normalizer(lowercase: bool) -> Any:
    return normalizers.Sequence([normalizers.Lowercase(), normalizers.NFC()]) if lowercase else normalizers.NFC()


def _changed(tokenizer: Tokenizer, **parts: Any) -> Tokenizer:
    """A copy of `tokenizer` with some `parts` of its JSON form replaced."""
    return Tokenizer.from_str(json.dumps(json.loads(tokenizer.to_str()) | parts))
