"""Numbers, dates and clock times in German and English: a translation task that needs no file and no network.

The languages name these things in different orders, and put their verbs in different places, so that a translator has to
look back and forth:

    Am dritten März neunzehnhundertfünfundachtzig hat Anna siebenundzwanzig Bücher gekauft.
    On March the third, nineteen eighty-five, Anna bought twenty-seven books.

Each sentence has one translation, both ways.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T")
Pair = tuple[str, str]  # German, English

GERMAN_SMALL = [
    *("null", "ein", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun", "zehn", "elf", "zwölf"),
    *("dreizehn", "vierzehn", "fünfzehn", "sechzehn", "siebzehn", "achtzehn", "neunzehn"),
]
ENGLISH_SMALL = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
]
GERMAN_TENS = ["zwanzig", "dreißig", "vierzig", "fünfzig", "sechzig", "siebzig", "achtzig", "neunzig"]
ENGLISH_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
GERMAN_ORDINALS = {1: "ersten", 3: "dritten", 7: "siebten", 8: "achten"}  # the others are regular
ENGLISH_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
    "twenty": "twentieth",
    "thirty": "thirtieth",
}
CENTURIES = [(1800, "achtzehnhundert"), (1900, "neunzehnhundert"), (2000, "zweitausend")]

MONTHS: list[tuple[Pair, int]] = [  # with their days
    (("Januar", "January"), 31),
    (("Februar", "February"), 28),
    (("März", "March"), 31),
    (("April", "April"), 30),
    (("Mai", "May"), 31),
    (("Juni", "June"), 30),
    (("Juli", "July"), 31),
    (("August", "August"), 31),
    (("September", "September"), 30),
    (("Oktober", "October"), 31),
    (("November", "November"), 30),
    (("Dezember", "December"), 31),
]
DAYS: list[Pair] = [
    ("heute", "today"),
    ("morgen", "tomorrow"),
    ("am Montag", "on Monday"),
    ("am Mittwoch", "on Wednesday"),
    ("am Freitag", "on Friday"),
    ("am Sonntag", "on Sunday"),
]
PEOPLE: list[tuple[str, Pair]] = [
    *((name, ("sie", "she")) for name in ("Anna", "Clara", "Maria")),
    *((name, ("er", "he")) for name in ("Paul", "Peter", "Thomas")),
]
THINGS: list[Pair] = [
    ("Bücher", "books"),
    ("Briefe", "letters"),
    ("Bilder", "pictures"),
    ("Äpfel", "apples"),
    ("Stühle", "chairs"),
    ("Lampen", "lamps"),
]
DEEDS: list[tuple[Pair, Pair]] = [  # infinitive, and past: the participle that goes with "hat"
    (("kaufen", "buy"), ("gekauft", "bought")),
    (("verkaufen", "sell"), ("verkauft", "sold")),
    (("suchen", "look for"), ("gesucht", "looked for")),
    (("finden", "find"), ("gefunden", "found")),
]
MODALS: list[Pair] = [("muss", "must"), ("kann", "can"), ("will", "wants to")]
STATES: list[Pair] = [
    ("bleibt zu Hause", "stays at home"),
    ("geht in die Stadt", "goes to town"),
    ("kommt später", "comes later"),
    ("ist müde", "is tired"),
]
SPEECH: list[Pair] = [("sagt", "says"), ("glaubt", "believes")]
EVENTS: list[tuple[Pair, tuple[str, str], str]] = [  # what, the verb and its prefix in German, the verb in English
    (subject, verb, english)
    for subjects, verbs in [
        ([("der Zug", "the train"), ("der Bus", "the bus")], [("fährt ab", "leaves"), ("kommt an", "arrives")]),
        ([("das Konzert", "the concert"), ("der Film", "the film")], [("fängt an", "begins"), ("hört auf", "ends")]),
        ([("der Laden", "the shop"), ("das Museum", "the museum")], [("macht auf", "opens"), ("macht zu", "closes")]),
    ]
    for subject in subjects
    for german, english in verbs
    for verb in [(german.split()[0], german.split()[1])]
]
PLACES: list[Pair] = [
    ("im Museum", "in the museum"),
    ("im Laden", "in the shop"),
    ("in der Schule", "at school"),
    ("auf dem Markt", "at the market"),
]


def make_pairs(count: int, seed: int) -> list[Pair]:
    """`count` German sentences with their English translations, all different; the same arguments give the same ones."""
    dice = Dice(seed)
    pairs: dict[str, str] = {}
    while len(pairs) < count:
        german, english = dice.pick(SENTENCES)(dice)
        pairs[german] = english
    return list(pairs.items())


class Dice:
    """Random choices; by `random()` alone, as that is what stays the same from one Python to the next."""

    def __init__(self, seed: int) -> None:
        self.draw = Random(seed).random

    def number(self, low: int, high: int) -> int:
        """A number from `low` to `high`."""
        return low + int(self.draw() * (high - low + 1))

    def pick(self, items: Sequence[T]) -> T:
        """One of `items`."""
        return items[self.number(0, len(items) - 1)]


# the sentences


def past(dice: Dice) -> Pair:
    """Who did what on which date: German has the verb second, and the participle last."""
    (name, _), (_, deed), goods = dice.pick(PEOPLE), dice.pick(DEEDS), some_things(dice)
    day, when = date(dice), year(dice)
    return (
        sentence(f"am {day[0]} {when[0]} hat {name} {goods[0]} {deed[0]}"),
        sentence(f"on {day[1]}, {when[1]}, {name} {deed[1]} {goods[1]}"),
    )


def reason(dice: Dice) -> Pair:
    """Why: a German clause with `weil` ends with its verbs, in the opposite order."""
    (name, pronoun), state = dice.pick(PEOPLE), dice.pick(STATES)
    german, english = plan(dice)
    return (
        sentence(f"{name} {state[0]}, weil {pronoun[0]} {german}"),
        sentence(f"{name} {state[1]} because {pronoun[1]} {english}"),
    )


def report(dice: Dice) -> Pair:
    """Who says that another does something."""
    speaker, _ = dice.pick(PEOPLE)
    name, _ = dice.pick([person for person in PEOPLE if person[0] != speaker])
    verb = dice.pick(SPEECH)
    german, english = plan(dice)
    return sentence(f"{speaker} {verb[0]}, dass {name} {german}"), sentence(f"{speaker} {verb[1]} that {name} {english}")


def timetable(dice: Dice) -> Pair:
    """When something begins or ends: German puts the verb's prefix last, and what comes first changes places with it."""
    subject, (verb, prefix), english = dice.pick(EVENTS)
    day, time = a_day(dice), clock(dice.number(1, 12), 5 * dice.number(0, 11))
    if dice.number(0, 1):
        return (
            sentence(f"{day[0]} {verb} {subject[0]} um {time[0]} {prefix}"),
            sentence(f"{day[1]} {subject[1]} {english} at {time[1]}"),
        )
    return (
        sentence(f"{subject[0]} {verb} {day[0]} um {time[0]} {prefix}"),
        sentence(f"{subject[1]} {english} at {time[1]} {day[1]}"),
    )


def price(dice: Dice) -> Pair:
    """What something costs."""
    goods, euros, cents = some_things(dice), dice.number(2, 99), dice.number(2, 99)
    return (
        sentence(f"die {goods[0]} kosten {german_number(euros)} Euro und {german_number(cents)} Cent"),
        sentence(f"the {goods[1]} cost {english_number(euros)} euros and {english_number(cents)} cents"),
    )


def stock(dice: Dice) -> Pair:
    """How many there are somewhere: the place comes first in German, last in English."""
    place, things = dice.pick(PLACES), dice.pick(THINGS)
    number = 100 * dice.number(1, 9) + dice.pick([0, *range(2, 100)])
    return (
        sentence(f"{place[0]} gibt es {german_number(number)} {things[0]}"),
        sentence(f"there are {english_number(number)} {things[1]} {place[1]}"),
    )


SENTENCES: list[Callable[[Dice], Pair]] = [past, reason, report, timetable, price, stock]


# their parts


def sentence(words: str) -> str:
    """`words` with a capital and a full stop."""
    return f"{words[0].upper()}{words[1:]}."


def plan(dice: Dice) -> Pair:
    """The end of a subordinate clause: `morgen drei Bücher kaufen muss`, `must buy three books tomorrow`."""
    day, goods, (deed, _), modal = a_day(dice), some_things(dice), dice.pick(DEEDS), dice.pick(MODALS)
    return f"{day[0]} {goods[0]} {deed[0]} {modal[0]}", f"{modal[1]} {deed[1]} {goods[1]} {day[1]}"


def some_things(dice: Dice) -> Pair:
    """2 to 99 things."""
    number, things = dice.number(2, 99), dice.pick(THINGS)
    return f"{german_number(number)} {things[0]}", f"{english_number(number)} {things[1]}"


def a_day(dice: Dice) -> Pair:
    """A day of this week or this year, with its preposition."""
    if dice.number(0, 1):
        return dice.pick(DAYS)
    german, english = date(dice)
    return f"am {german}", f"on {english}"


def date(dice: Dice) -> Pair:
    """A day of the year: `dritten März`, `March the third`."""
    month, days = dice.pick(MONTHS)
    day = dice.number(1, days)
    return f"{german_ordinal(day)} {month[0]}", f"{month[1]} the {english_ordinal(day)}"


def year(dice: Dice) -> Pair:
    """A year whose last two digits are a number from 10 on."""
    century, german = dice.pick(CENTURIES)
    rest = dice.number(10, 99 if century < 2000 else 25)
    return f"{german}{german_number(rest)}", f"{english_number(century // 100)} {english_number(rest)}"


def clock(hour: int, minute: int) -> Pair:
    """The time, in steps of five minutes; Germans count towards the next hour from twenty-five past on."""
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
    """The hour 1 to 12 where no `Uhr` follows: `eins`."""
    return "eins" if hour == 1 else german_number(hour)


def german_number(number: int) -> str:
    """1 to 999, as before a noun; the unit comes before the ten: 385 is `dreihundertfünfundachtzig`."""
    hundreds, rest = divmod(number, 100)
    words = f"{GERMAN_SMALL[hundreds]}hundert" if hundreds else ""
    if rest < 20:
        return words + (GERMAN_SMALL[rest] if rest else "")
    tens, unit = divmod(rest, 10)
    return words + (f"{GERMAN_SMALL[unit]}und" if unit else "") + GERMAN_TENS[tens - 2]


def english_number(number: int) -> str:
    """1 to 999: 385 is `three hundred and eighty-five`."""
    hundreds, rest = divmod(number, 100)
    if hundreds:
        words = f"{ENGLISH_SMALL[hundreds]} hundred"
        return f"{words} and {english_number(rest)}" if rest else words
    if rest < 20:
        return ENGLISH_SMALL[rest]
    tens, unit = divmod(rest, 10)
    return ENGLISH_TENS[tens - 2] + (f"-{ENGLISH_SMALL[unit]}" if unit else "")


def german_ordinal(number: int) -> str:
    """1 to 31, as after `am`: 27 is `siebenundzwanzigsten`."""
    return GERMAN_ORDINALS.get(number) or german_number(number) + ("ten" if number < 20 else "sten")


def english_ordinal(number: int) -> str:
    """1 to 31: 27 is `twenty-seventh`."""
    *tens, last = english_number(number).split("-")
    return "-".join([*tens, ENGLISH_ORDINALS.get(last, f"{last}th")])
