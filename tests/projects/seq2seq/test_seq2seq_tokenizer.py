"""Text comes back as it was, no word is unknown, and BPE dropout is the paper's and the same in every run."""

from __future__ import annotations

import random
import time
import unicodedata
from collections import Counter
from itertools import product

import pytest
import torch
from tokenizers import Tokenizer

from projects.seq2seq import tokenizer as tokenizer_module
from projects.seq2seq.config import BOS, EOS, PAD, UNK
from projects.seq2seq.synthetic import make_pairs
from projects.seq2seq.tokenizer import (
    MAX_WORD_BYTES,
    MIN_VOCAB_SIZE,
    SPECIAL_TOKENS,
    BPEDropout,
    decode,
    encode,
    encode_batch,
    lower,
    lowercasing,
    train_bpe,
)

LINES = [line for pair in make_pairs(400, seed=3) for line in pair]
TEXTS = [
    "Zwei junge weiße Männer sind im Freien in der Nähe vieler Büsche.",
    "Two men aren't here; it's 7:45 p.m. (or so) -- isn't it?",
    "Grüße 😀👩‍👩‍👧 aus 東京, Ελλάδα und العربية",
    "doppelte  Leerzeichen\tund\nandere",
    "ﬁ ½ ①",
    "nie gesehen: Quarzuhrwerk",
    "1234567890",
    "a",
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(LINES, 500)


def texts_of_any_characters(count: int) -> list[str]:
    """Lines of random code points, without the halves of surrogate pairs, which are no characters."""
    rng = random.Random(0)
    code = lambda: rng.choice([rng.randrange(128), rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)])  # noqa: E731
    return ["".join(chr(code()) for _ in range(rng.randrange(40))) for _ in range(count)]


# the vocabulary


def test_special_tokens_come_first(tokenizer):
    assert (PAD, BOS, EOS, UNK) == (0, 1, 2, 3)
    assert [tokenizer.id_to_token(i) for i in range(4)] == list(SPECIAL_TOKENS) == ["<pad>", "<s>", "</s>", "<unk>"]


@pytest.mark.parametrize("size", [MIN_VOCAB_SIZE, MIN_VOCAB_SIZE + 1, 400])
def test_a_vocabulary_has_the_size_that_was_asked_for(size):
    tokenizer = train_bpe(LINES, size)
    assert tokenizer.get_vocab_size() == size
    assert decode(tokenizer, encode(tokenizer, TEXTS[2])) == TEXTS[2]


def test_the_same_lines_give_the_same_vocabulary(tokenizer):
    assert train_bpe(iter(LINES), 500).to_str() == tokenizer.to_str()
    assert train_bpe(LINES[:700], 500).to_str() != tokenizer.to_str()


def test_frequent_words_are_one_token_wherever_they_stand(tokenizer):
    word = max((name[1:] for name in tokenizer.get_vocab() if name[0] == "Ġ" and name.isalpha()), key=len)
    assert len(word) > 3
    ids = encode(tokenizer, word)
    assert len(ids) == 1
    assert encode(tokenizer, f"{word} and {word}.").count(ids[0]) == 2


@pytest.mark.parametrize("text", TEXTS)
def test_text_comes_back_as_it_was(tokenizer, text):
    assert decode(tokenizer, encode(tokenizer, text)) == text


def test_no_text_has_an_unknown_part(tokenizer):
    texts = [*texts_of_any_characters(300), "\ufffe\x00\x7f", " ", "\n"]
    for text, ids in zip(texts, encode_batch(tokenizer, texts), strict=True):
        assert all(token > UNK for token in ids)
        assert decode(tokenizer, ids) == unicodedata.normalize("NFC", text).strip(), ascii(text)


def test_an_empty_line_has_no_tokens(tokenizer):
    assert encode(tokenizer, "") == [] and decode(tokenizer, []) == ""


def test_what_looks_like_a_special_token_is_text():
    tokenizer = train_bpe([*LINES, *["<s>a</s> <pad><unk>"] * 500], 500)
    for kept in (tokenizer, Tokenizer.from_str(tokenizer.to_str()), lowercasing(tokenizer)):
        for text in ("a </s> b", "<pad>", "<s><s>", "x<unk>y", " </s>"):
            ids = encode(kept, text)
            assert min(ids) > UNK
            assert decode(kept, ids) == text.strip()


def test_composed_and_decomposed_letters_are_the_same(tokenizer):
    assert encode(tokenizer, "Ma\u0308rz") == encode(tokenizer, "März")
    assert encode(lowercasing(tokenizer), "MA\u0308RZ") == encode(tokenizer, "märz")


def test_lower_case(tokenizer):
    lowered = lowercasing(tokenizer)
    assert lowered.get_vocab() == tokenizer.get_vocab()
    assert encode(lowered, "ÄPFEL Kaufen") == encode(tokenizer, "äpfel kaufen") != encode(tokenizer, "ÄPFEL Kaufen")
    assert encode(tokenizer, "ÄPFEL") == encode(train_bpe(LINES, 500), "ÄPFEL"), "the other has changed too"
    trained = train_bpe(LINES, 500, lowercase=True)
    assert decode(trained, encode(trained, "Am MONTAG")) == "am montag"
    assert trained.get_vocab() == train_bpe(map(lower, LINES), 500).get_vocab() != tokenizer.get_vocab()
    assert lower("ΑΣ") == decode(trained, encode(trained, "ΑΣ"))


def test_a_tokenizer_survives_a_checkpoint(tokenizer):
    for kept in (tokenizer, lowercasing(tokenizer)):
        again = Tokenizer.from_str(kept.to_str())
        assert encode_batch(again, TEXTS) == encode_batch(kept, TEXTS)
        assert decode(again, encode(again, TEXTS[1])) == decode(kept, encode(kept, TEXTS[1]))


def test_many_lines_at_once_are_as_one_by_one(tokenizer):
    lines = LINES[:50] + TEXTS + [""]
    assert encode_batch(tokenizer, lines) == [encode(tokenizer, line) for line in lines]
    assert encode_batch(tokenizer, []) == []


def test_decoding_stops_at_the_end_and_leaves_special_tokens_out(tokenizer):
    ids = encode(tokenizer, "drei Äpfel")
    assert decode(tokenizer, [BOS, *ids, EOS, *ids, PAD]) == "drei Äpfel"
    assert decode(tokenizer, [BOS, ids[0], UNK, PAD, *ids[1:]]) == "drei Äpfel"
    assert decode(tokenizer, [EOS, *ids]) == ""
    assert decode(tokenizer, torch.tensor([*ids, EOS, PAD]).tolist()) == "drei Äpfel"


def test_half_a_character_does_not_break_decoding(tokenizer):
    assert "�" in decode(tokenizer, encode(tokenizer, "😀")[:-1])


# dropout


ODD = [*TEXTS, "", " ", "  a", "x" * (MAX_WORD_BYTES + 30), "</s>", "<pad> <s>"]


def encoded(dropper: BPEDropout, count: int, epoch: int = 0, seed: int = 0) -> list[list[int]]:
    return [dropper.encode(line, epoch, seed) for line in range(count)]


@pytest.mark.parametrize("lowercase", [False, True])
def test_without_dropout_words_are_cut_as_the_library_does(lowercase):
    tokenizer = train_bpe(LINES, 500, lowercase)
    lines = [*LINES[:300], *ODD, *texts_of_any_characters(100)]
    dropper = BPEDropout(tokenizer, lines, 0.0)
    assert encoded(dropper, len(lines)) == dropper.ids == [encode(tokenizer, line) for line in lines]


def test_with_full_dropout_words_are_bytes(tokenizer):
    lines = [*LINES[:50], *TEXTS]
    for line, ids in zip(lines, encoded(BPEDropout(tokenizer, lines, 1.0), len(lines)), strict=True):
        assert len(ids) == len(f" {unicodedata.normalize('NFC', line)}".encode())
        assert decode(tokenizer, ids) == line


@pytest.mark.parametrize("dropout", [0.1, 0.5])
def test_dropout_changes_the_cuts_and_not_the_text(tokenizer, dropout):
    lines = [*LINES[:100], *TEXTS]
    dropper = BPEDropout(tokenizer, lines, dropout)
    for epoch in range(2):
        ids = encoded(dropper, len(lines), epoch)
        assert [decode(tokenizer, line) for line in ids] == lines
        assert sum(map(len, ids)) > sum(map(len, dropper.ids)) * (1 + dropout / 2)
        assert all(token > UNK for line in ids for token in line)


def test_cuts_follow_from_seed_epoch_and_line(tokenizer):
    lines = [*LINES[:40], *LINES[:40]]
    dropper = BPEDropout(tokenizer, lines, 0.2)
    first = encoded(dropper, 80, epoch=3, seed=7)
    states = random.getstate(), torch.get_rng_state()
    again = BPEDropout(tokenizer, lines, 0.2)
    assert [again.encode(line, 3, 7) for line in reversed(range(80))] == first[::-1], "another order, another cache"
    assert encoded(BPEDropout(tokenizer, lines[:5], 0.2), 5, epoch=3, seed=7) == first[:5]
    assert states[0] == random.getstate() and torch.equal(states[1], torch.get_rng_state())
    assert first[:40] != first[40:], "a sentence that is there twice is cut in two ways"
    others = [encoded(dropper, 80, epoch, seed) for epoch, seed in [(2, 7), (4, 7), (3, 6), (7, 3)]]
    assert all(a != b for a, b in zip([first, *others], [*others, first], strict=True))


def by_the_paper(merges: list[tuple[str, str]], word: tuple[str, ...], dropout: float) -> dict[tuple[str, ...], float]:
    """How likely each cut of `word` is: algorithm 1, over every choice of merges that are left out in a step."""
    positions = [i for i in range(len(word) - 1) if word[i : i + 2] in merges]
    outcome: dict[tuple[str, ...], float] = Counter()
    for kept in product([False, True], repeat=len(positions)):
        probability = 1.0
        for keep in kept:
            probability *= 1 - dropout if keep else dropout
        left = [position for position, keep in zip(positions, kept, strict=True) if keep]
        if not left:
            outcome[word] += probability
            continue
        position = min(left, key=lambda i: (merges.index(word[i : i + 2]), i))
        merged = (*word[:position], word[position] + word[position + 1], *word[position + 2 :])
        for cut, rest in by_the_paper(merges, merged, dropout).items():
            outcome[cut] += probability * rest
    return outcome


@pytest.mark.parametrize("dropout", [0.1, 0.4])
def test_each_cut_is_as_frequent_as_the_paper_has_it(dropout):
    tokenizer = train_bpe(["abab abc"] * 9 + ["bcd ab"] * 5, MIN_VOCAB_SIZE + 6)
    names = {token: name for name, token in tokenizer.get_vocab().items()}
    merges = sorted(tokenizer_module.merge_table(tokenizer, tokenizer.get_vocab()).items(), key=lambda item: item[1])
    expected = by_the_paper([(names[a], names[b]) for (a, b), _ in merges], tuple("Ġababcd"), dropout)
    assert len(expected) > 5
    count = 6000
    dropper = BPEDropout(tokenizer, ["ababcd"] * count, dropout)
    found = Counter(tuple(names[token] for token in ids) for ids in encoded(dropper, count))
    assert set(found) <= set(expected)
    for cut, probability in expected.items():
        assert abs(found[cut] - count * probability) < 4.5 * (count * probability * (1 - probability)) ** 0.5 + 1, cut


def test_a_full_cache_changes_nothing(tokenizer, monkeypatch):
    lines = [*LINES[:60], *ODD]
    roomy = encoded(BPEDropout(tokenizer, lines, 0.3), len(lines))
    monkeypatch.setattr(tokenizer_module, "MAX_CACHED_WORDS", 20)
    dropper = BPEDropout(tokenizer, lines, 0.3)
    assert encoded(dropper, len(lines)) == encoded(dropper, len(lines)) == roomy
    assert dropper.word.cache_info().currsize == 20


def test_a_word_without_end_takes_no_time(tokenizer):
    line = "ab" * 5000 + " Lampen"
    dropper = BPEDropout(tokenizer, [line], 0.5)
    began = time.process_time()
    ids = dropper.encode(0, 0, 0)
    assert time.process_time() - began < 0.5
    assert decode(tokenizer, ids) == line


def test_sentence_without_spaces_is_segmented_anew_in_every_epoch():
    lines = ["".join(filter(str.isalpha, line)) * 8 for line in LINES[:40]]
    tokenizer = train_bpe(LINES, 500)
    assert min(map(len, lines)) > MAX_WORD_BYTES
    dropper = BPEDropout(tokenizer, lines, 0.3)
    first, second = encoded(dropper, 40), encoded(dropper, 40, epoch=1)
    assert all(a != b for a, b in zip(first, second, strict=True))
    assert [len(ids) for ids in encoded(BPEDropout(tokenizer, lines, 1.0), 40)] == [
        len(f" {line}".encode()) for line in lines
    ]
    assert [decode(tokenizer, ids) for ids in first] == lines
    assert encoded(BPEDropout(tokenizer, lines, 0.0), 40) == dropper.ids


def test_of_a_very_long_line_the_beginning_alone_is_tokenized(tokenizer, monkeypatch):
    lines = ["a line", "a very long line " * 50]
    monkeypatch.setattr(tokenizer_module, "MAX_CHARACTERS", 34)
    assert encode_batch(tokenizer, lines) == [encode(tokenizer, lines[0]), encode(tokenizer, lines[1][:34])]
    assert BPEDropout(tokenizer, lines, 0.5).ids == encode_batch(tokenizer, lines)
    train_bpe(lines, 300)
