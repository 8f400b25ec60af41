"""Synthetic parallel text: numbers, dates and clock times in German and English, a task that needs no file and no network.

The languages name these things in different orders, and put their verbs in different positions, so that a network has to
attend back and forth:

    Am dritten März neunzehnhundertfünfundachtzig hat Anna siebenundzwanzig Bücher gekauft.
    On March the third, nineteen eighty-five, Anna bought twenty-seven books.

Each sentence has one translation in either direction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T")
Pair = tuple[str, str]  # German, English


def pairs_of(german: str, english: str) -> list[Pair]:
    """Word pairs of two lists, whose entries commas separate."""
    return list(zip(german.split(", "), english.split(", "), strict=True))


TO_19 = pairs_of(
    "null, ein, zwei, drei, vier, fünf, sechs, sieben, acht, neun, zehn, elf, zwölf, "
    "dreizehn, vierzehn, fünfzehn, sechzehn, siebzehn, achtzehn, neunzehn",
    "zero, one, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, "
    "thirteen, fourteen, fifteen, sixteen, seventeen, eighteen, nineteen",
)
TENS = pairs_of(
    "zwanzig, dreißig, vierzig, fünfzig, sechzig, siebzig, achtzig, neunzig",
    "twenty, thirty, forty, fifty, sixty, seventy, eighty, ninety",
)
GERMAN_ORDINALS = {1: "ersten", 3: "dritten", 7: "siebten", 8: "achten"}  # the others are regular
ENGLISH_ORDINALS = dict(
    pairs_of(
        "one, two, three, five, eight, nine, twelve, twenty, thirty",
        "first, second, third, fifth, eighth, ninth, twelfth, twentieth, thirtieth",
    )
)
CENTURIES = [(1800, "achtzehnhundert"), (1900, "neunzehnhundert"), (2000, "zweitausend")]

MONTHS = pairs_of(
    "Januar, Februar, März, April, Mai, Juni, Juli, August, September, Oktober, November, Dezember",
    "January, February, March, April, May, June, July, August, September, October, November, December",
)
MONTHS_WITH_DAYS = list(zip(MONTHS, (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31), strict=True))
DAYS = pairs_of(
    "heute, morgen, am Montag, am Mittwoch, am Freitag, am Sonntag",
    "today, tomorrow, on Monday, on Wednesday, on Friday, on Sunday",
)
PEOPLE: list[tuple[str, Pair]] = [
    *((name, ("sie", "she")) for name in ("Anna", "Clara", "Maria")),
    *((name, ("er", "he")) for name in ("Paul", "Peter", "Thomas")),
]
THINGS = pairs_of("Bücher, Briefe, Bilder, Äpfel, Stühle, Lampen", "books, letters, pictures, apples, chairs, lamps")
DEEDS: list[tuple[Pair, Pair]] = [  # infinitive, and past: the participle that goes with "hat"
    (("kaufen", "buy"), ("gekauft", "bought")),
    (("verkaufen", "sell"), ("verkauft", "sold")),
    (("suchen", "look for"), ("gesucht", "looked for")),
    (("finden", "find"), ("gefunden", "found")),
]
MODALS = pairs_of("muss, kann, will", "must, can, wants to")
STATES = pairs_of(
    "bleibt zu Hause, geht in die Stadt, kommt später, ist müde", "stays at home, goes to town, comes later, is tired"
)
SPEECH = pairs_of("sagt, glaubt", "says, believes")
EVENTS: list[tuple[Pair, list[str], str]] = [  # subject, the verb and its prefix in German, the verb in English
    (subject, german.split(), english)
    for subjects, verbs in [
        (pairs_of("der Zug, der Bus", "the train, the bus"), pairs_of("fährt ab, kommt an", "leaves, arrives")),
        (pairs_of("das Konzert, der Film", "the concert, the film"), pairs_of("fängt an, hört auf", "begins, ends")),
        (pairs_of("der Laden, das Museum", "the shop, the museum"), pairs_of("macht auf, macht zu", "opens, closes")),
    ]
    for subject in subjects
    for german, english in verbs
]
PLACES = pairs_of(
    "im Museum, im Laden, in der Schule, auf dem Markt", "in the museum, in the shop, at school, at the market"
)


def make_pairs(count: int, seed: int) -> list[Pair]:
    """`count` distinct German sentences with their English translations; the same arguments give the same ones."""
    rng = PortableRandom(seed)
    pairs: dict[str, str] = {}
    while len(pairs) < count:
        german, english = rng.choice(SENTENCES)(rng)
        pairs[german] = english
    return list(pairs.items())


class PortableRandom:
    """Random choices by `Random.random()` alone, which is the same in all versions of Python."""

    def __init__(self, seed: int) -> None:
        self.uniform = Random(seed).random

    def integer(self, low: int, high: int) -> int:
        """Integer from `low` to `high`."""
        return low + int(self.uniform() * (high - low + 1))

    def choice(self, items: Sequence[T]) -> T:
        """One of `items`."""
        return items[self.integer(0, len(items) - 1)]


def fill(german: str, english: str, *parts: Pair) -> Pair:
    """Two templates filled with the parts of their language."""
    return german.format(*(part[0] for part in parts)), english.format(*(part[1] for part in parts))


def sentence(german: str, english: str, *parts: Pair) -> Pair:
    """Filled templates with a capital and a full stop."""
    german, english = fill(german, english, *parts)
    return f"{german[0].upper()}{german[1:]}.", f"{english[0].upper()}{english[1:]}."


# sentences


def past(rng: PortableRandom) -> Pair:
    """Past: German has the verb second, and the participle last."""
    (name, _), (_, deed), goods = rng.choice(PEOPLE), rng.choice(DEEDS), some_things(rng)
    day, when = date(rng), year(rng)
    return sentence("am {1} {2} hat {0} {3} {4}", "on {1}, {2}, {0} {4} {3}", (name, name), day, when, goods, deed)


def reason(rng: PortableRandom) -> Pair:
    """Reason: a German clause with `weil` ends with its verbs, in the opposite order."""
    (name, pronoun), state = rng.choice(PEOPLE), rng.choice(STATES)
    return sentence("{0} {1}, weil {2} {3}", "{0} {1} because {2} {3}", (name, name), state, pronoun, plan(rng))


def report(rng: PortableRandom) -> Pair:
    """Reported speech about another person."""
    speaker, _ = rng.choice(PEOPLE)
    name, _ = rng.choice([person for person in PEOPLE if person[0] != speaker])
    verb = rng.choice(SPEECH)
    return sentence("{0} {1}, dass {2} {3}", "{0} {1} that {2} {3}", (speaker, speaker), verb, (name, name), plan(rng))


def timetable(rng: PortableRandom) -> Pair:
    """Timetable: German puts the verb's prefix last, and what comes first changes places with it."""
    subject, (verb, prefix), english = rng.choice(EVENTS)
    day, time = a_day(rng), clock(rng.integer(1, 12), 5 * rng.integer(0, 11))
    parts = day, subject, (verb, english), time, (prefix, "")
    if rng.integer(0, 1):
        return sentence("{0} {2} {1} um {3} {4}", "{0} {1} {2} at {3}", *parts)
    return sentence("{1} {2} {0} um {3} {4}", "{1} {2} at {3} {0}", *parts)


def price(rng: PortableRandom) -> Pair:
    """Price in euros and cents."""
    goods, euros, cents = some_things(rng), number(rng.integer(2, 99)), number(rng.integer(2, 99))
    return sentence("die {0} kosten {1} Euro und {2} Cent", "the {0} cost {1} euros and {2} cents", goods, euros, cents)


def stock(rng: PortableRandom) -> Pair:
    """Stock: the place comes first in German, last in English."""
    place, things = rng.choice(PLACES), rng.choice(THINGS)
    count = number(100 * rng.integer(1, 9) + rng.choice([0, *range(2, 100)]))
    return sentence("{0} gibt es {1} {2}", "there are {1} {2} {0}", place, count, things)


SENTENCES: list[Callable[[PortableRandom], Pair]] = [past, reason, report, timetable, price, stock]


# parts of sentences


def plan(rng: PortableRandom) -> Pair:
    """End of a subordinate clause: `morgen drei Bücher kaufen muss`, `must buy three books tomorrow`."""
    day, goods, (deed, _), modal = a_day(rng), some_things(rng), rng.choice(DEEDS), rng.choice(MODALS)
    return fill("{0} {1} {2} {3}", "{3} {2} {1} {0}", day, goods, deed, modal)


def some_things(rng: PortableRandom) -> Pair:
    """2 to 99 things."""
    return fill("{0} {1}", "{0} {1}", number(rng.integer(2, 99)), rng.choice(THINGS))


def a_day(rng: PortableRandom) -> Pair:
    """Day of this week or this year, with its preposition."""
    return fill("am {0}", "on {0}", date(rng)) if not rng.integer(0, 1) else rng.choice(DAYS)


def date(rng: PortableRandom) -> Pair:
    """Day of the year: `dritten März`, `March the third`."""
    month, days = rng.choice(MONTHS_WITH_DAYS)
    day = rng.integer(1, days)
    return fill("{0} {1}", "{1} the {0}", (german_ordinal(day), english_ordinal(day)), month)


def year(rng: PortableRandom) -> Pair:
    """Year whose last two digits are a number from 10 on."""
    century, german = rng.choice(CENTURIES)
    rest = number(rng.integer(10, 99 if century < 2000 else 25))
    return fill("{0}{1}", "{0} {1}", (german, english_number(century // 100)), rest)


def clock(hour: int, minute: int) -> Pair:
    """Clock time, in steps of five minutes; Germans count towards the next hour from twenty-five past on."""
    following = hour % 12 + 1
    german = {
        0: f"{german_number(hour)} Uhr",
        25: f"fünf vor halb {german_hour(following)}",
        30: f"halb {german_hour(following)}",
        35: f"fünf nach halb {german_hour(following)}",
    }
    english = {0: f"{english_number(hour)} o'clock", 30: f"half past {english_number(hour)}"}
    if minute <= 30:
        german_words, english_words = f"nach {german_hour(hour)}", f"past {english_number(hour)}"
    else:
        german_words, english_words = f"vor {german_hour(following)}", f"to {english_number(following)}"
    distance = min(minute, 60 - minute)
    quarter = distance == 15
    return (
        german.get(minute, f"{'Viertel' if quarter else german_number(distance)} {german_words}"),
        english.get(minute, f"{'a quarter' if quarter else english_number(distance)} {english_words}"),
    )


def german_hour(hour: int) -> str:
    """Hour 1 to 12 where no `Uhr` follows: `eins`."""
    return "eins" if hour == 1 else german_number(hour)


def number(value: int) -> Pair:
    """Number from 1 to 999."""
    return german_number(value), english_number(value)


def german_number(value: int) -> str:
    """1 to 999, as before a noun; the unit comes before the ten: 385 is `dreihundertfünfundachtzig`."""
    hundreds, rest = divmod(value, 100)
    words = f"{TO_19[hundreds][0]}hundert" if hundreds else ""
    if rest < 20:
        return words + (TO_19[rest][0] if rest else "")
    tens, unit = divmod(rest, 10)
    return words + (f"{TO_19[unit][0]}und" if unit else "") + TENS[tens - 2][0]


def english_number(value: int) -> str:
    """1 to 999: 385 is `three hundred and eighty-five`."""
    hundreds, rest = divmod(value, 100)
    if hundreds:
        words = f"{TO_19[hundreds][1]} hundred"
        return f"{words} and {english_number(rest)}" if rest else words
    if rest < 20:
        return TO_19[rest][1]
    tens, unit = divmod(rest, 10)
    return TENS[tens - 2][1] + (f"-{TO_19[unit][1]}" if unit else "")


def german_ordinal(value: int) -> str:
    """1 to 31, as after `am`: 27 is `siebenundzwanzigsten`."""
    return GERMAN_ORDINALS.get(value) or german_number(value) + ("ten" if value < 20 else "sten")


def english_ordinal(value: int) -> str:
    """1 to 31: 27 is `twenty-seventh`."""
    *tens, last = english_number(value).split("-")
    return "-".join([*tens, ENGLISH_ORDINALS.get(last, f"{last}th")])
