"""The embedded sample: opinions whose words say nothing one by one.

Every word is as frequent in praise as in blame. What decides is whether it stands under a negation, which may be far away,
and which half of a contrast has the last word: "although the plot is dull, nobody could call the acting weak" is praise. A
network that counts words is at chance; one that reads their order is not.
"""

from __future__ import annotations

import random

from projects.bert_sentiment.texts import Texts

CLASS_NAMES = ("negative", "positive")
SIZES = {"train": 8000, "val": 500, "test": 500}

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


def clause(positive: bool, generator: random.Random) -> str:
    """A statement that praises or blames one thing, with or without a negation in equal shares."""
    negated = generator.random() < 0.5
    word = generator.choice(INTENSIFIERS) + generator.choice(GOOD if positive != negated else BAD)
    return generator.choice(NEGATED if negated else PLAIN).format(thing=generator.choice(THINGS), word=word)


def opinion(positive: bool, generator: random.Random) -> str:
    """One statement, or two of which one counts; the other one praises and blames in equal shares."""
    text = clause(positive, generator)
    if generator.random() < 0.7:
        other = clause(generator.random() < 0.5, generator)
        if generator.random() < 0.5:
            text = generator.choice(LAST_WINS).format(first=other, second=text)
        else:
            text = generator.choice(FIRST_WINS).format(first=text, second=other)
    return generator.choice(OPENINGS) + text


def make_sample(seed: int = 0) -> dict[str, Texts]:
    """The splits of the sample, of which no text is in two; the same for the same seed."""
    generator = random.Random(seed)
    seen: set[str] = set()
    splits: dict[str, Texts] = {}
    for split, size in SIZES.items():
        texts = Texts()
        while len(texts) < size:
            label = len(texts) % 2
            text = opinion(bool(label), generator)
            if text not in seen:
                seen.add(text)
                texts.texts.append(text)
                texts.labels.append(label)
        splits[split] = texts
    return splits
