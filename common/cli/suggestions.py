"""Suggestions for mistyped options. Needs no torch."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

MIN_SIMILARITY = 0.7
MAX_SUGGESTIONS = 3  # of options that differ in their group alone


def suggestion(message: str, options: Iterable[str]) -> str:
    """What follows the `message` about an unknown option: the options that may be meant; nothing if there is none.

    Args:
        message: Line of argparse's, or of jsonargparse's.
        options: Names of the options, without dashes.

    >>> suggestion("Unrecognized arguments: --lr 0.1", ["model.lr", "name"])
    '; did you mean --model.lr?'
    """
    known = list(options)
    for dashes, name in unknown_options(message):
        if close := close_options(name, known):
            return f"; did you mean {' or '.join(dashes + option for option in close)}?"
    return ""


def unknown_options(message: str) -> list[tuple[str, str]]:
    """Dashes and name of each option that a message calls unknown: with dashes of flags, without of keys in a file."""
    if flags := re.search("[Uu]nrecognized arguments: (.*)", message):
        return [("--", name) for name in re.findall(r"(?<!\S)--([\w.-]+)", flags[1])]
    if key := re.search("Group '(.+?)' does not accept option '(.+?)'", message):
        return [("", f"{key[1]}.{key[2]}")]
    return [("", name) for name in re.findall("Option '(.+?)' is not accepted", message)]


def close_options(name: str, options: list[str]) -> list[str]:
    """Options of that name in other groups, else the one that is written most alike, if any is."""

    def last(option: str) -> str:
        return option.rpartition(".")[2]

    def similarity(option: str) -> tuple[float, float]:
        pairs = (last(name), last(option)), (name, option)
        last_part, whole = (difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)
        return last_part, whole

    if same := [option for option in options if last(option) == last(name)]:
        return same[:MAX_SUGGESTIONS]
    best = max(options, key=similarity, default="")
    return [best] if best and similarity(best)[0] >= MIN_SIMILARITY else []
