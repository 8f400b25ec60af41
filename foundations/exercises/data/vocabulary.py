"""Exercise vocabulary: words to numbers and back."""

import random
from collections import Counter
from types import ModuleType
from typing import Any

from foundations.comparing import call, check_equal, check_that
from foundations.exercise import Exercise

exercise = Exercise(
    title="Vocabulary: numbers for words",
    level="core",
    minutes=15,
    link="projects.seq2seq.tokenizer:train_bpe",
    why="a vocabulary of parts of words, learned from the training texts alone, with the same four reserved ids",
    hints=(
        "Count the words of all texts, sort them, put the four reserved names in front, and cut at max_size.",
        "Sort by (-count, word): the most frequent first, and of equal counts the alphabetically first.",
        "ids = {word: i for i, word in enumerate(words)}; encode by ids.get(word, 1); decode up to the first 3.",
    ),
    look_at="Its embedding takes the ids as they are: that a row means a word is known to your vocabulary alone.",
)

RESERVED = ["<pad>", "<unk>", "<bos>", "<eos>"]


def reference_words(texts: list[str], max_size: int) -> list[str]:
    """All words in the order of their ids."""
    counts = Counter(" ".join(texts).split())
    return [*RESERVED, *sorted(sorted(counts), key=lambda word: counts[word], reverse=True)][:max_size]


def expected_ids(words: list[str], text: str) -> list[int]:
    """Ids of a text."""
    return [words.index(word) if word in words else 1 for word in text.split()]


def sentences(rng: random.Random, count: int) -> list[str]:
    """Sentences of words that are more frequent the earlier they stand in the alphabet, with many ties."""
    return [" ".join(chr(97 + min(rng.randrange(26), rng.randrange(26))) for _ in range(6)) for _ in range(count)]


def check_words(answer: ModuleType, texts: list[str], max_size: int) -> None:
    """Compares the size, and the id of each word alone."""
    words = reference_words(texts, max_size)
    vocabulary = call(answer.Vocabulary, texts, max_size)
    shown = {"texts": texts, "max_size": max_size}
    check_that(len(vocabulary) == len(words), "number of ids", len(words), len(vocabulary), **shown)
    expected = {word: expected_ids(words, word) for word in sorted({word for text in texts for word in text.split()})}
    got = {word: vocabulary.encode(word) for word in expected}
    check_that(got == expected, "ids of the words", expected, got, **shown)


@exercise.property("ids by frequency")
def frequency(answer: ModuleType, rng: random.Random) -> None:
    for texts in (["a"], ["b b a"], ["a b", "b"], ["c b a", "b c c"], ["x", "y y", "z z z"], []):
        check_words(answer, texts, 10)


@exercise.property("equally frequent: by the alphabet")
def ties(answer: ModuleType, rng: random.Random) -> None:
    for texts in (["the quick brown fox jumps over a lazy dog today"], ["b a"], ["c a", "d d b"], sentences(rng, 12)):
        check_words(answer, texts, 40)


@exercise.property("maximum size, the four included")
def sizes(answer: ModuleType, rng: random.Random) -> None:
    texts = ["b a b", "c b"]
    for size in (6, 5, 4, 7, 8):
        check_words(answer, texts, size)
    for size in (10, 17):
        check_words(answer, sentences(rng, 30), size)


@exercise.property("texts to ids")
def encoding(answer: ModuleType, rng: random.Random) -> None:
    texts = ["b a b", "c b"]
    vocabulary, words = answer.Vocabulary(texts, 6), reference_words(texts, 6)
    for text in ("a", "a b", "b  a\n b\t", "z", "a c z b", "", "   "):
        check_equal(vocabulary.encode, text, expected=expected_ids(words, text))
    check_that(len(vocabulary) == 6, "number of ids after encoding other texts", 6, len(vocabulary))
    check_equal(vocabulary.encode, "z z", expected=[1, 1])


@exercise.property("ids to texts")
def decoding(answer: ModuleType, rng: random.Random) -> None:
    vocabulary = answer.Vocabulary(["b a b", "c b"], 6)
    for ids, text in [
        ([4], "b"),
        ([5, 4], "a b"),
        ([4, 1], "b <unk>"),
        ([2, 4], "b"),
        ([4, 0, 0], "b"),
        ([4, 3], "b"),
        ([2, 5, 3, 0, 0], "a"),
        ([4, 3, 5, 3], "b"),
        ([0, 2, 4, 0, 5], "b a"),
        ([3], ""),
        ([2, 3], ""),
        ([], ""),
    ]:
        given = list(ids)
        check_equal(vocabulary.decode, given, expected=text)
        check_that(given == ids, "decode changes the list that it gets", ids, given)


@exercise.property("there and back")
def both_ways(answer: ModuleType, rng: random.Random) -> None:
    texts = sentences(rng, 20)
    vocabulary = answer.Vocabulary(texts, 40)
    for text in texts[:5]:
        check_equal(lambda text=text: vocabulary.decode([2, *vocabulary.encode(text), 3, 0]), expected=text)
    small = answer.Vocabulary(texts, 9)
    other = answer.Vocabulary(["y y x"], 40)
    check_equal(small.encode, texts[0], expected=expected_ids(reference_words(texts, 9), texts[0]))
    check_equal(other.decode, [4, 5], expected="y x")


def vocabulary_with(fault: str) -> type:
    """Vocabulary with one of the known faults."""

    class Vocabulary:
        def __init__(self, texts: list[str], max_size: int) -> None:
            counts = Counter(word for text in texts for word in (text if fault == "letters" else text.split()))
            if fault == "hashing":
                words = sorted(set(counts), key=lambda word: -counts[word])
            elif fault == "first_seen":
                words = [word for word, _ in counts.most_common()]
            elif fault == "rare_first":
                words = sorted(counts, key=lambda word: (counts[word], word))
            else:
                words = sorted(counts, key=lambda word: (-counts[word], word))
            words = words[: max_size if fault == "room" else max_size - 4]
            names = ["<bos>", "<eos>", "<pad>", "<unk>"] if fault == "other_ids" else RESERVED
            self.words = [*names, *words]
            self.ids = {word: i for i, word in enumerate(self.words)}

        def __len__(self) -> int:
            return len(self.words)

        def encode(self, text: str) -> list[int]:
            if fault == "grows":
                for word in text.split():
                    if word not in self.ids:
                        self.ids[word] = len(self.words)
                        self.words.append(word)
            if fault == "strict":
                return [self.ids[word] for word in text.split()]
            if fault == "left_out":
                return [self.ids[word] for word in text.split() if word in self.ids]
            ids = [self.ids.get(word, 0 if fault == "pad" else 1) for word in text.split()]
            return [2, *ids, 3] if fault == "framed" else ids

        def decode(self, ids: list[int]) -> str:
            if fault == "all":
                return " ".join(self.words[i] for i in ids)
            if fault == "past_the_end":
                return " ".join(self.words[i] for i in ids if i not in (0, 2, 3))
            end = ids.index(3) if 3 in ids else len(ids)
            return " ".join(self.words[i] for i in ids[:end] if i not in (0, 2))

    return Vocabulary


MESSAGES = {
    "pad": "An unknown word gets the id of the padding: a mask or a loss that ignores padding would skip it.",
    "strict": "An unknown word raises KeyError: ids.get(word, 1).",
    "left_out": "Unknown words are left out: the sequence gets shorter, and labels of its words no longer fit.",
    "grows": (
        "encode takes new words in: those of validation would get ids that were never trained, and that the embedding does "
        "not have."
    ),
    "hashing": "Words that are equally frequent come in the order of a set, which differs from run to run: sort them.",
    "first_seen": "Words that are equally frequent come in the order of the texts: another order of the data, other ids.",
    "room": "max_size counts the words alone; the four reserved ids are part of it.",
    "rare_first": "The rarest words come first, and the frequent ones are cut off.",
    "framed": "<bos> and <eos> are added in encode: here the batch does that, since source and target differ.",
    "all": "decode shows everything: it stops at <eos>, and leaves <pad> and <bos> out.",
    "past_the_end": "decode goes on after <eos>: what a model writes there means nothing.",
    "other_ids": "The reserved ids stand in another order: pad 0, unk 1, bos 2, eos 3.",
    "letters": "A text is walked letter by letter: text.split() gives its words.",
}
for _fault, _message in MESSAGES.items():
    exercise.wrong("Vocabulary", _message)(vocabulary_with(_fault))
exercise.also_right("Vocabulary")(vocabulary_with(""))


@exercise.also_right("Vocabulary")
class InParallelLists:
    """Counting by hand, two stable sorts, and a search in the list."""

    def __init__(self, texts: list[str], max_size: int) -> None:
        counts: dict[str, int] = {}
        for word in " ".join(texts).split():
            counts[word] = counts.get(word, 0) + 1
        ordered = sorted(sorted(counts.items()), key=lambda item: item[1], reverse=True)
        self.known = [word for word, _ in ordered][: max_size - 4]

    def __len__(self) -> int:
        return 4 + len(self.known)

    def encode(self, text: str) -> Any:
        return [self.known.index(word) + 4 if word in self.known else 1 for word in text.split()]

    def decode(self, ids: list[int]) -> str:
        words = []
        for i in ids:
            if i == 3:
                break
            if i == 1 or i > 3:
                words.append(self.known[i - 4] if i > 3 else "<unk>")
        return " ".join(words)
