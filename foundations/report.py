"""What the command line says: the map of the course, and the lines of a check."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from foundations.catalog import CHAPTERS, ROOT, all_exercises, find_chapter
from foundations.outcome import Outcome
from foundations.progress import Progress

MAX_LINES = 20
MAX_LINE = 160


def map_lines(progress: Progress | None) -> list[str]:
    """Map of the course: chapters, what is solved, what is next, and the capstones that each leads to."""
    lines = [f"Foundations: {len(all_exercises())} exercises, from tensors to the capstones. Any order; stop anywhere."]
    width = max(len(chapter.name) for chapter in CHAPTERS)
    for number, chapter in enumerate(CHAPTERS, 1):
        solved = [progress is not None and progress.has_passed(name) for name in chapter.exercises]
        bar = "".join("#" if done else "·" for done in solved)
        count = f"{sum(solved)}/{len(solved)}"
        mark = "done" if progress is not None and is_complete(progress, number - 1) else f"{chapter.hours} h"
        lines.append(f"  {number} {chapter.name:<{width}}  {bar:<13} {count:>5}  {mark:>4}  for: {chapter.leads_to}")
    if progress is None:
        lines += ["  start   puts the exercises into ./my_foundations", "  place   ten questions: where to begin"]
        return lines
    if progress.review:
        lines.append(f"  Questions that come back: {len(progress.review)}. review")
    following = next_exercise(progress)
    lines.append(f"  Next, if you like: check {following}" if following else "  All solved.")
    return lines


def is_complete(progress: Progress, chapter: int) -> bool:
    """Whether a chapter counts as done: every exercise, or its challenge, which is the last."""
    names = CHAPTERS[chapter].exercises
    return progress.has_passed(names[-1]) or all(progress.has_passed(name) for name in names)


def next_exercise(progress: Progress, after: str | None = None) -> str | None:
    """First exercise that is not passed, from the chapter of `after` on, complete chapters last. None if nothing is left."""
    start = CHAPTERS.index(find_chapter(after)) if after else 0
    for number in [*range(start, len(CHAPTERS)), *range(start)]:
        if not is_complete(progress, number):
            return next(name for name in CHAPTERS[number].exercises if not progress.has_passed(name))
    return next((name for name in all_exercises() if not progress.has_passed(name)), None)


def list_lines(progress: Progress) -> list[str]:
    """Every exercise with its state."""
    lines = []
    for chapter in CHAPTERS:
        lines.append(f"{chapter.name}: {chapter.title}")
        for name in chapter.exercises:
            entry = progress.entry(name)
            state = "passed" if progress.has_passed(name) else "changed since it passed" if entry.passed else ""
            extra = ", ".join(filter(None, [f"{entry.hints} hints" if entry.hints else "", "shown" if entry.shown else ""]))
            lines.append(f"  {name:<22} {state}{f' ({extra})' if extra else ''}".rstrip())
    return lines


def failure_lines(exercise: str, outcome: Outcome, seconds: float, hints: int) -> list[str]:
    """Lines about a check that failed: what holds, the smallest failing input, the probable cause, and the way on."""
    chapter = find_chapter(exercise).name
    if outcome.unwritten:
        where = outcome.line.split(":")[0] if outcome.line else "the file"
        return [
            f"{exercise}  NOT WRITTEN YET: {where} raises NotImplementedError",
            f"  Lesson: foundations/lessons/{chapter}.md ·{stuck_line(exercise, hints)[1:]}",
        ]
    total = len(outcome.passed) + 1 + len(outcome.not_reached)
    lines = [f"{exercise}  FAILED  {len(outcome.passed)} of {total} properties  {seconds:.1f} s"]
    known = [f"ok: {', '.join(outcome.passed)}"] if outcome.passed else []
    known += [f"not reached: {', '.join(outcome.not_reached)}"] if outcome.not_reached else []
    lines += [f"  {' · '.join(known)}"] if known else []
    if outcome.failed == "import":
        lines.append(f"  {outcome.reason}")
    else:
        lines.append(f"  {outcome.failed} (smallest failing input): {outcome.reason}")
    lines += [f"    {name} {value}" for name, value in outcome.inputs.items()]
    lines += [f"    expected {outcome.expected}"] if outcome.expected else []
    lines += [f"    got      {outcome.got}"] if outcome.got else []
    lines += [f"    your {outcome.line}"] if outcome.line else []
    lines += [f"  Probably: {outcome.probably}"] if outcome.probably else []
    lines.append(stuck_line(exercise, hints))
    return shorten(lines)


def stuck_line(exercise: str, hints: int) -> str:
    """Way on for someone who has seen so many hints."""
    return f"  Stuck? hint {exercise} ({hints + 1} of 3)" if hints < 3 else f"  Stuck? show {exercise} --give_up"


def shorten(lines: Sequence[str]) -> list[str]:
    """At most 20 lines of at most 160 letters; the last two always stay."""
    cut = [line if len(line) <= MAX_LINE else f"{line[: MAX_LINE - 1]}…" for line in lines]
    return cut if len(cut) <= MAX_LINES else [*cut[: MAX_LINES - 3], "    …", *cut[-2:]]


def passed_lines(exercise: str, outcome: Outcome, seconds: float, progress: Progress) -> list[str]:
    """Lines about a check that passed: where a capstone uses the same, and what comes next."""
    chapter = find_chapter(exercise)
    solved = sum(progress.has_passed(name) for name in chapter.exercises)
    lines = [f"{exercise}  PASSED  {len(outcome.passed)} properties  {seconds:.1f} s"]
    lines += [f"  {note}" for note in outcome.notes]
    lines.append(f"  Used in: {locate(outcome.link)}: {outcome.why}")
    lines.append(f"  Compare: show {exercise} · torch's way: source {exercise}")
    following = next_exercise(progress, exercise)
    if exercise == chapter.exercises[-1] or solved == len(chapter.exercises):
        hinted = sum(progress.entry(name).hints > 0 for name in chapter.exercises)
        shown = sum(progress.entry(name).shown for name in chapter.exercises)
        counts = f"{solved}/{len(chapter.exercises)} ({hinted} with hints, {shown} shown)"
        if solved == len(chapter.exercises):
            lines += [f"{chapter.name} COMPLETE: {counts}", f"  You can now: {chapter.skill}"]
        else:
            lines.append(f"{chapter.name}: its challenge is solved, so the chapter counts: {counts}")
            lines.append(f"  Open in it: {', '.join(name for name in chapter.exercises if not progress.has_passed(name))}")
    else:
        lines.append(f"  {chapter.name} {solved}/{len(chapter.exercises)}")
    lines.append(f"  Next, if you like: {following}, or any: list" if following else "  All solved.")
    return lines


def locate(link: str) -> str:
    """Object of a capstone with its file and line, looked up now without importing it.

    Args:
        link: `module:qualified.name`, or a module.

    Raises:
        LookupError: There is no such object.
    """
    module, _, qualified = link.partition(":")
    path = ROOT.parent / f"{module.replace('.', '/')}.py"
    if not path.is_file():
        raise LookupError(link)
    node: ast.AST = ast.parse(path.read_text(encoding="utf-8"))
    for name in filter(None, qualified.split(".")):
        node = _member(node, name, link)
    return f"{qualified or module}, {path.relative_to(ROOT.parent).as_posix()}:{getattr(node, 'lineno', 1)}"


def _member(node: ast.AST, name: str, link: str) -> ast.AST:
    for child in getattr(node, "body", []):
        if getattr(child, "name", None) == name:
            return child
        targets = getattr(child, "targets", [getattr(child, "target", None)])
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return child
    raise LookupError(link)
