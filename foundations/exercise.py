"""Exercise: what a learner writes, how it is checked, and the wrong answers that people really give."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Literal

Level = Literal["warm-up", "core", "challenge"]
Check = Callable[[Any, random.Random], str | None]


@dataclass(frozen=True)
class Property:
    """Property that every correct answer has.

    Args:
        title: A few words that end the sentence "checked: …".
        check: Called with the learner's module and a random generator; raises `comparing.Failure` where it does not hold. It
            may return a line that is shown with an answer that passes, such as what was measured.
    """

    title: str
    check: Check


@dataclass(frozen=True)
class Variant:
    """Known answer: the solution with one object of it replaced.

    Args:
        name: Name of the object in the learner's file.
        replacement: Function or class of that name.
        message: What went wrong, in one or two sentences; empty for a correct answer in another style.
        seen: Where people make this mistake, such as an issue's address.
    """

    name: str
    replacement: Any
    message: str = ""
    seen: str = ""


@dataclass
class Exercise:
    """Exercise. Its id is the name of its file; the solution of the same name has the stub's signatures and docstrings.

    Args:
        title: What is built, as a heading.
        level: Warm-up, core, or challenge (who solves it has completed the chapter).
        minutes: Time that it takes someone who has read the lesson.
        link: Object of a capstone that does the same, as `module:qualified.name`.
        why: What the linked capstone needs it for, in one sentence.
        hints: Three, from the idea over the formula to the line.
        source: torch's own object of the same purpose, as `module:qualified.name`, or "" where there is none.
        look_at: What to look at in torch's code, in two sentences.
        barred: torch functions by their last name (`softmax`: as function, method and operator), and classes or functions
            by their whole path (`torch.nn.Linear`), that an answer may not use.
        uses: Earlier exercises that the solution imports.
    """

    title: str
    level: Level
    minutes: int
    link: str
    why: str
    hints: tuple[str, str, str]
    source: str = ""
    look_at: str = ""
    barred: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    properties: list[Property] = field(default_factory=list)
    wrong_answers: list[Variant] = field(default_factory=list)
    other_answers: list[Variant] = field(default_factory=list)

    def property(self, title: str) -> Callable[[Check], Check]:
        """Decorator: registers a property. They are checked in the order of the file, the easy ones first."""

        def register(check: Check) -> Check:
            self.properties.append(Property(title, check))
            return check

        return register

    def wrong(self, name: str, message: str, seen: str = "") -> Callable[[Any], Any]:
        """Decorator: registers a known wrong answer in place of the solution's object `name`."""

        def register(replacement: Any) -> Any:
            self.wrong_answers.append(Variant(name, replacement, message, seen))
            return replacement

        return register

    def also_right(self, name: str) -> Callable[[Any], Any]:
        """Decorator: registers a correct answer in an unusual style in place of the solution's object `name`."""

        def register(replacement: Any) -> Any:
            self.other_answers.append(Variant(name, replacement))
            return replacement

        return register


def replace(module: ModuleType, variant: Variant) -> ModuleType:
    """`module`, the solution, with one object replaced; functions of the module that use the object see the new one."""
    setattr(module, variant.name, variant.replacement)
    return module
