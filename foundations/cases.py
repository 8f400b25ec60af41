"""Broken trainings, as they are met: the curves, then what `--debug` reports, each with the question what is wrong."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from foundations.faults import NAMES, faults_to_find, find_case, number_in
from foundations.progress import Progress
from foundations.running import run_case
from foundations.signs import CURVES, REPORTS

PLOT_ROWS, PLOT_COLUMNS = 11, 72
MARKS = "·o"  # training, validation


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
    found = progress.entry(exercise).found
    print(f"{exercise}: case {case.number}, found so far: {len(found)} of {faults_to_find(exercise)} faults")
    run, extra = run_case(exercise, case)
    print("\n".join([*plot_lines(run.history), *extra]))
    asker = Asker(answers)
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
    """Curves as text: each over the whole width, on a logarithmic axis where they span more than two decades."""
    values = [value for curve in curves.values() for value in curve if math.isfinite(value)]
    low, high = min(values, default=0.0), max(values, default=1.0)
    low = max(low, 1e-6) if high > 100 * max(low, 1e-3) else low
    is_log = high > 100 * max(low, 1e-3)
    scale = math.log10 if is_log else float
    bottom, top = scale(max(low, 1e-3) if is_log else low), scale(high)
    rows = [[" "] * PLOT_COLUMNS for _ in range(PLOT_ROWS)]
    for mark, curve in zip(MARKS, curves.values(), strict=False):
        for column in range(PLOT_COLUMNS):
            value = curve[min(column * len(curve) // PLOT_COLUMNS, len(curve) - 1)]
            height = 1.0
            if math.isfinite(value):
                height = (scale(max(value, 1e-3) if is_log else value) - bottom) / max(top - bottom, 1e-9)
            row = PLOT_ROWS - 1 - round(max(0.0, min(1.0, height)) * (PLOT_ROWS - 1))
            rows[row][column] = mark if math.isfinite(value) else "!"
    lines = [f"{'':>9} |{''.join(row)}" for row in rows]
    lines[0] = f"{high:>9.3g} |{''.join(rows[0])}"
    lines[-1] = f"{low:>9.3g} |{''.join(rows[-1])}"
    legend = "  ".join(f"{mark} {name}" for mark, name in zip(MARKS, curves, strict=False))
    ends = ", ".join(f"{name} {curve[-1]:.3g}" for name, curve in curves.items())
    lost = "  ! not finite" if len(values) < sum(map(len, curves.values())) else ""
    return [*lines, f"{'':>10} {legend}{lost}{'  (logarithmic)' if is_log else ''}; at the end: {ends}"]
