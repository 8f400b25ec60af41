"""Broken trainings, as they are met: the curves, then what `--debug` reports, each with the question what is wrong."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from foundations.faults import NAMES, all_cases, faults_to_find, find_case, number_in
from foundations.progress import Progress
from foundations.running import run_case
from foundations.signs import CURVES, REPORTS

PLOT_ROWS, PLOT_COLUMNS = 11, 72
MARKS, BOTH = "·o", "@"  # training, validation; where they meet


def ask_case(progress: Progress, exercise: str, answers: Sequence[str] | None) -> int:
    """Shows the curves and the report of a broken training, asks after each what is wrong, and says what comes next.

    Args:
        progress: The learner's.
        exercise: Its id; the case is that of the learner's file, in which nothing was changed yet.
        answers: Numbers of the menu, or names of faults; None to ask in the terminal.
    """
    from foundations.diagnosis import report_lines
    from foundations.quiz import Asker

    path = progress.path(exercise)
    case = find_case(exercise, path.read_text(encoding="utf-8"), progress.entry(exercise).case)
    print(f"{exercise}: case {case.number}, {standing(progress, exercise)}")
    run, extra = run_case(exercise, case)
    print("\n".join([*plot_lines(run.history), *extra]))
    asker = Asker(answers)
    if len(case.faults) > 1:
        print("Two of the twelve faults are in it. Nothing is asked: the signs of two at once are not those of each.")
        if answers:
            print("  --answers is not used here.")
    if len(case.faults) == 1:
        print("\n".join(f"  {number:>2} {name}" for number, name in enumerate(NAMES.values(), 1)))
        ask_fault(asker, case.faults[0], "Which of the twelve, from the curves alone? Number, or ? to go on.", CURVES)
    print("What `--debug` and the callbacks report of it:")
    for line in report_lines(exercise, case, run):
        print(textwrap.fill(line, 110, initial_indent="  ", subsequent_indent="    "))
    if len(case.faults) == 1:
        ask_fault(asker, case.faults[0], "And now, of the same twelve? Number, or ? to go on.", REPORTS)
    print(f"Now open {path}, mend it, and run `check {exercise}` again.")
    return 1


def standing(progress: Progress, exercise: str) -> str:
    """What is found of an exercise's faults, in words."""
    found, all_faults = progress.entry(exercise).found, faults_to_find(exercise)
    if exercise == "two_faults":
        return "one such pair is mended, this one is for practice" if len(found) >= all_faults else "a pair of faults"
    if len(found) >= all_faults:
        return f"nothing new is left: all {all_faults} faults are found, this one is for practice"
    return f"found so far: {len(found)} of {all_faults} faults"


def next_case(progress: Progress, exercise: str) -> int:
    """Number of the case that a reset brings: one with a new fault, and where all are found, a variant in their order."""
    path, count = progress.path(exercise), len(all_cases(exercise))
    if len(progress.entry(exercise).found) < faults_to_find(exercise):
        return progress.cases()[exercise]
    if not path.is_file():
        return 1
    text = path.read_text(encoding="utf-8", errors="replace")
    return find_case(exercise, text, progress.entry(exercise).case).number % count + 1


def ask_fault(asker: Any, fault: str, text: str, signs: Mapping[str, str]) -> bool:
    """Asks which of the twelve it is; says what the answer's fault would look like, never which one is right."""
    names = list(NAMES)
    print(text)
    typed = asker.read().strip().lower()
    name = names[int(typed) - 1] if typed.isdigit() and 1 <= int(typed) <= len(names) else typed
    if name == fault:
        print(f"  Right: {signs[name]}\n")
    elif name in names:
        print(f"  Not that. {NAMES[name]}: {signs[name]}\n")
    else:
        print("  Left open.\n")
    return name == fault


def mended_lines(progress: Progress, exercise: str, seconds: float) -> list[str]:
    """Lines about a training that is mended, while others wait."""
    entry = progress.entry(exercise)
    lines = [
        f"{exercise}  MENDED  {seconds:.1f} s",
        f"  Found {len(entry.found)} of {faults_to_find(exercise)}: {', '.join(NAMES[name] for name in entry.found)}",
        f"  Next broken training: reset {exercise} (yours is kept beside it), then check {exercise}",
    ]
    if number := _other_number(progress, exercise):
        lines[1] = f"{lines[1]}. This file says case {number}, but case {entry.case} was drawn: it does not count"
    return lines


def note_found(progress: Progress, exercise: str) -> bool:
    """Keeps the faults of the learner's file as found; returns whether all of the exercise are.

    The case that was drawn counts, once: a file that names another one in its heading adds nothing.
    """
    entry = progress.entry(exercise)
    case = find_case(exercise, _text_of(progress, exercise), entry.case)
    if not _other_number(progress, exercise):
        entry.case = case.number  # of a folder that an earlier version has made
        entry.found += [name for name in case.faults if name not in entry.found]
    return len(entry.found) >= faults_to_find(exercise)


def _text_of(progress: Progress, exercise: str) -> str:
    return progress.path(exercise).read_text(encoding="utf-8", errors="replace")


def _other_number(progress: Progress, exercise: str) -> int:
    """Number of a case in a file's heading that is not the drawn one; 0 if there is none."""
    number, drawn = number_in(_text_of(progress, exercise)), progress.entry(exercise).case
    return number if drawn and number != drawn else 0


def plot_lines(curves: Mapping[str, Sequence[float]]) -> list[str]:
    """Curves as text over the epochs: losses on the left axis, accuracies on the right one, from 0 to 1.

    The left axis begins at 0, so that a flat loss looks flat, and is logarithmic where the losses span two decades.
    """
    losses = [value for name, curve in curves.items() if not is_accuracy(name) for value in curve if math.isfinite(value)]
    low, high = min(losses, default=0.0), max(losses, default=1.0)
    is_log = high > 100 * max(low, 1e-3)
    low = max(low, 1e-3) if is_log else min(low, 0.0)
    rows = [[" "] * PLOT_COLUMNS for _ in range(PLOT_ROWS)]
    for mark, (name, curve) in zip(MARKS, curves.items(), strict=False):
        for column in range(PLOT_COLUMNS):
            value = curve[min(column * len(curve) // PLOT_COLUMNS, len(curve) - 1)]
            height = height_of(value, 0.0, 1.0, False) if is_accuracy(name) else height_of(value, low, high, is_log)
            row = rows[PLOT_ROWS - 1 - round(height * (PLOT_ROWS - 1))]
            row[column] = "!" if not math.isfinite(value) else BOTH if row[column] in MARKS else mark
    two_axes = any(map(is_accuracy, curves))
    right = ["| 1", *["|"] * (PLOT_ROWS - 2), "| 0"] if two_axes else [""] * PLOT_ROWS
    left = [f"{high:.3g}", *[""] * (PLOT_ROWS - 2), f"{low:.3g}"]
    lines = [f"{number:>9} |{''.join(row)}{end}" for number, row, end in zip(left, rows, right, strict=True)]
    sides = {name: f" ({'right' if is_accuracy(name) else 'left'} axis)" if two_axes else "" for name in curves}
    legend = "  ".join(f"{mark} {name}{sides[name]}" for mark, name in zip(MARKS, curves, strict=False))
    ends = ", ".join(f"{name} {curve[-1]:.3g}" for name, curve in curves.items())
    legend += f"  {BOTH} both" if any(BOTH in row for row in rows) else ""
    lost = "" if all(math.isfinite(value) for curve in curves.values() for value in curve) else "  ! not finite"
    lines.append(f"{'epoch':>9}  {epoch_ticks(min(map(len, curves.values())))}")
    return [*lines, f"{'':>10} {legend}{lost}{'  (logarithmic)' if is_log else ''}; at the end: {ends}"]


def is_accuracy(name: str) -> bool:
    """Whether a curve goes from 0 to 1."""
    return name.endswith("accuracy")


def height_of(value: float, low: float, high: float, is_log: bool) -> float:
    """Height of a value from 0 to 1 on an axis from `low` to `high`; 1 for what is not finite."""
    if not math.isfinite(value):
        return 1.0
    scale = math.log10 if is_log else float
    height = (scale(max(value, low)) - scale(low)) / max(scale(high) - scale(low), 1e-9)
    return max(0.0, min(1.0, height))


def epoch_ticks(epochs: int) -> str:
    """Numbers of the epochs, each where it begins, as many as fit."""
    width = len(str(epochs)) + 1
    every = -(-width * epochs // PLOT_COLUMNS)
    ticks = [" "] * (PLOT_COLUMNS + width)
    for epoch in range(0, epochs, every):
        column = -(-epoch * PLOT_COLUMNS // epochs)
        ticks[column : column + len(str(epoch + 1))] = str(epoch + 1)
    return "".join(ticks).rstrip()
