"""Synthetic sentiment data: the embedded sample, opinions that a bag of words cannot classify.

Every word is as frequent in praise as in blame. The label depends on negation, which may be far from its word, and on which
half of a contrast has the last word: "although the plot is dull, nobody could call the acting weak" is positive.
"""

from __future__ import annotations

import random

from projects.bert_sentiment.labeled_texts import LabeledTexts

CLASS_NAMES = ["negative", "positive"]
SPLIT_SIZES = {"train": 8000, "val": 500, "test": 500}

THINGS = (
    "acting", "camera work", "cast", "comedy", "dialogue", "director", "drama", "ending", "film", "first hour", "hero",
    "humour", "love story", "main character", "mood", "movie", "music", "pacing", "plot", "remake", "romance", "scenery",
    "score", "screenplay", "script", "second half", "sequel", "setting", "story", "thriller", "villain", "voice acting",
)  # fmt: skip
GOOD = (
    "amazing", "beautiful", "brilliant", "charming", "clever", "delightful", "elegant", "enjoyable", "excellent", "fresh",
    "funny", "gripping", "honest", "inspired", "lovely", "moving", "original", "strong", "touching", "wonderful",
)  # fmt: skip
BAD = (
    "annoying", "awful", "boring", "clumsy", "dreadful", "dull", "empty", "flat", "forced", "hollow",
    "lifeless", "painful", "pointless", "predictable", "shallow", "silly", "stale", "tedious", "ugly", "weak",
)  # fmt: skip
PLAIN = (
    "the {thing} is {word}",
    "i found the {thing} {word}",
    "the {thing} seems {word} to me",
    "we thought the {thing} was {word}",
)
NEGATED = (
    "the {thing} is not {word}",
    "nobody could call the {thing} {word}",
    "i would never say that the {thing} is {word}",
    "the {thing} is anything but {word}",
    "it is hard to believe that anyone finds the {thing} {word}",
)
INTENSIFIERS = ("", "", "very ", "really ", "so ", "truly ", "rather ")
OPENINGS = ("", "", "honestly , ", "to be fair , ", "in my view , ", "after all , ")
LAST_WINS = (
    "{first} , but {second}",
    "{first} ; still , {second}",
    "although {first} , {second}",
    "even if {first} , {second}",
)
FIRST_WINS = ("{first} , although {second}", "{first} , even if {second}", "{first} , whatever you may hear : {second}")


def sample_clause(positive: bool, rng: random.Random) -> str:
    """Statement that praises or blames one thing; half of them are negated."""
    negated = rng.random() < 0.5
    word = rng.choice(INTENSIFIERS) + rng.choice(GOOD if positive != negated else BAD)
    return rng.choice(NEGATED if negated else PLAIN).format(thing=rng.choice(THINGS), word=word)


def sample_opinion(positive: bool, rng: random.Random) -> str:
    """One statement, or two of which one decides the label; the other one is positive half the time."""
    text = sample_clause(positive, rng)
    if rng.random() < 0.7:
        other = sample_clause(rng.random() < 0.5, rng)
        if rng.random() < 0.5:
            text = rng.choice(LAST_WINS).format(first=other, second=text)
        else:
            text = rng.choice(FIRST_WINS).format(first=text, second=other)
    return rng.choice(OPENINGS) + text


def make_splits(seed: int = 0) -> dict[str, LabeledTexts]:
    """The splits of the sample, of which no text is in two; the same for the same seed."""
    rng = random.Random(seed)
    known: set[str] = set()
    splits: dict[str, LabeledTexts] = {}
    for split, size in SPLIT_SIZES.items():
        texts = LabeledTexts([], [], CLASS_NAMES)
        while len(texts) < size:
            label = len(texts) % 2
            text = sample_opinion(bool(label), rng)
            if text not in known:
                known.add(text)
                texts.texts.append(text)
                texts.labels.append(label)
        splits[split] = texts
    return splits
