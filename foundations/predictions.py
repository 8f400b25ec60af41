"""Predictions: questions about what a few lines of torch do, answered before they are run by the installed torch."""

from __future__ import annotations

import ast
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

Answer = tuple[int, ...] | int | float | str
ERROR = "error"


@dataclass(frozen=True)
class Question:
    """Question about a program.

    Args:
        code: Program; its last line is an expression, whose value is the answer (a shape as tuple, a bool as "yes" or "no").
        ask: What is asked of the last line, such as "shape, or error?".
        reason: Why the answer is what it is, in one or two sentences.
        wrong: Answers that people give -> what they have mixed up.
        setting: What stands around the program, in words; empty where the code says all.
    """

    code: str
    ask: str
    reason: str
    wrong: dict[Answer, str] = field(default_factory=dict)
    setting: str = ""

    @property
    def answer(self) -> Answer:
        """What the installed torch gives."""
        *lines, last = self.code.strip().splitlines()
        names: dict[str, Any] = {"torch": torch, "nn": torch.nn, "F": torch.nn.functional}
        torch.manual_seed(0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                exec("\n".join(lines), names)
                return plain(eval(last, names))
        except Exception:  # every error is the answer "error"
            return ERROR

    @property
    def text(self) -> str:
        """The question as it is shown."""
        code = "\n".join(f"    {line}" for line in self.code.strip().splitlines())
        return "\n".join(filter(None, [self.setting, code, self.ask]))

    def message(self, answer: Answer) -> str:
        """What a wrong answer has mixed up, and why the right one is right."""
        return " ".join(filter(None, [self.wrong.get(answer, ""), self.reason]))


Family = Callable[[random.Random], Question]  # makes variants of one question


def plain(value: Any) -> Answer:
    """A value as an answer: shapes as tuples, booleans as "yes" and "no", None and dtypes by name, numbers as numbers."""
    if isinstance(value, torch.Tensor):
        value = value.tolist() if value.ndim else value.item()
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, torch.Size | tuple | list):
        return tuple(value)
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return "nan" if value != value else round(value, 4)
    return str(value).removeprefix("torch.").lower()


def parse_answer(text: str) -> Answer:
    """Answer as it is typed: `(2, 3)`, `2 3`, `2, 3`, `[2, 3]`, `error`, `yes`, `0.5`."""
    text = text.strip().lower().removeprefix("torch.")
    text = text.removeprefix("size(").removesuffix(")") if text.startswith("size(") else text
    aliases = {"y": "yes", "n": "no", "true": "yes", "false": "no", "none": "none", "raises": ERROR, "an error": ERROR}
    if text in aliases:
        return aliases[text]
    if not text or text.count("(") + text.count("[") != text.count(")") + text.count("]"):
        return text
    inner = text.strip("()[] ").replace(",", " ").split()
    try:
        numbers = [ast.literal_eval(item) for item in inner]
    except (ValueError, SyntaxError):
        return text
    if not all(isinstance(number, int | float) for number in numbers):
        return text
    if len(numbers) == 1 and not text.startswith(("(", "[")) and "," not in text:
        return numbers[0]
    return tuple(numbers)


def could_answer(question: Question, answer: Answer) -> bool:
    """Whether `answer` is of the kind that is asked for: a slip of the fingers is none."""
    kinds: tuple[type, ...] = (int, float)
    if isinstance(question.answer, tuple) or any(isinstance(wrong, tuple) for wrong in question.wrong):
        kinds = (*kinds, tuple)
    words = {ERROR, "none", "nan", "inf", "-inf", "yes", "no", question.answer, *question.wrong}
    return answer in words or isinstance(answer, kinds)


def is_right(question: Question, answer: Answer) -> bool:
    """Whether `answer` is right; a shape of one dimension may be typed as a number."""
    truth = question.answer
    if isinstance(truth, tuple) and isinstance(answer, int | float):
        answer = (answer,)  # type: ignore[assignment]
    if isinstance(truth, float) and isinstance(answer, int | float):
        return abs(truth - answer) <= 1e-3 * max(1.0, abs(truth))
    return truth == answer


def make_question(families: dict[str, Family], family: str, seed: int) -> Question:
    """Variant of a family's question; the same seed gives the same."""
    return families[family](random.Random(f"{family}-{seed}"))
