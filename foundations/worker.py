"""Check of an answer, in a process of its own: imports it, and tries the exercise's properties in order."""

from __future__ import annotations

import contextlib
import random
import traceback
from pathlib import Path
from types import ModuleType

import torch

from foundations.barring import Barred, barred
from foundations.catalog import load_exercise, solution_path
from foundations.comparing import Failure, Note, describe, value_digest
from foundations.exercise import Exercise, Variant, replace
from foundations.imports import ExerciseFinder, exercise_imports, forget_modules, import_answer
from foundations.outcome import Outcome

SEED = 20260


def check_file(exercise: str, path: str, own: dict[str, str]) -> Outcome:
    """Checks the file `path` as the answer to an exercise.

    Args:
        exercise: Its id.
        path: The learner's file.
        own: Other exercises' files that the learner has passed, by id; for all others ours are imported.
    """
    torch.set_num_threads(1)
    task = load_exercise(exercise)
    files = {name: Path(file) for name, file in own.items()}
    with exercise_imports({**files, exercise: Path(path)}) as finder, barred_for(task, [path]):
        outcome = try_answer(task, exercise)
        outcome.link, outcome.why = task.link, task.why
        if outcome.failed and not outcome.unwritten and outcome.failed != "import":
            outcome.probably = diagnose(task, exercise, outcome, finder)
        return outcome


def barred_for(task: Exercise, paths: list[str]) -> contextlib.AbstractContextManager[None]:
    """Context in which the exercise's barred functions raise for code of `paths`."""
    return barred(task.barred, [str(Path(path).resolve()) for path in paths]) if task.barred else contextlib.nullcontext()


def try_answer(task: Exercise, exercise: str, variant: Variant | None = None) -> Outcome:
    """Imports the answer, replaces what `variant` says, and tries the properties until one fails."""
    try:
        answer = import_answer(exercise)
        if variant is not None:
            replace(answer, variant)
    except BaseException as error:
        reason = f"the file cannot be imported: {type(error).__name__}"
        return Outcome(failed="import", reason=reason, got=describe(error), line=_line_of(error, exercise))
    return try_properties(task, exercise, answer)


def try_properties(task: Exercise, exercise: str, answer: ModuleType) -> Outcome:
    """Tries the properties of `task` in order, until one fails."""
    titles, notes = [item.title for item in task.properties], []
    for number, item in enumerate(task.properties):
        outcome = Outcome(passed=titles[:number], failed=item.title, not_reached=titles[number + 1 :])
        torch.manual_seed(SEED + number)
        try:
            notes.append(item.check(answer, random.Random(SEED + number)))
        except Failure as failure:
            outcome.reason = failure.reason
            outcome.inputs = {name: describe(value) for name, value in failure.inputs.items()}
            outcome.expected = "" if failure.expected is None else describe(failure.expected)
            no_value = failure.expected is None or isinstance(failure.expected, Note)
            outcome.got = "" if failure.got is None and no_value else describe(failure.got)
            outcome.got_digest = value_digest(failure.got)
            if isinstance(failure.got, BaseException):
                outcome.line = _line_of(failure.got, exercise)
                if isinstance(failure.got, Barred):
                    outcome.reason = "uses a function that is barred here"
            return outcome
        except NotImplementedError as error:
            outcome.unwritten, outcome.reason, outcome.line = True, "not written yet", _line_of(error, exercise)
            return outcome
        except Exception as error:  # an answer that is used by the check itself, such as a module's method
            outcome.reason, outcome.got = f"raises {type(error).__name__}", describe(error)
            outcome.got_digest = value_digest(error)
            outcome.line = _line_of(error, exercise)
            return outcome
    return Outcome(passed=titles, notes=[note for note in notes if note])


def diagnose(task: Exercise, exercise: str, outcome: Outcome, finder: ExerciseFinder) -> str:
    """Message of the known wrong answer that fails as `outcome` did; empty if none does."""
    own = finder.files[exercise]
    finder.files[exercise] = solution_path(exercise)
    try:
        for variant in task.wrong_answers:
            forget_modules(finder)
            if try_answer(task, exercise, variant).fingerprint == outcome.fingerprint:
                return variant.message
        return ""
    finally:
        finder.files[exercise] = own


def check_variants(exercise: str) -> tuple[Outcome, list[Outcome], list[Outcome]]:
    """Outcomes of our solution, of each known wrong answer, and of each correct answer in another style; for the tests."""
    torch.set_num_threads(1)
    task = load_exercise(exercise)
    with exercise_imports({}) as finder, barred_for(task, [str(solution_path(exercise))]):
        solution = try_answer(task, exercise)
        groups: list[list[Outcome]] = []
        for variants in (task.wrong_answers, task.other_answers):
            groups.append([])
            for variant in variants:
                forget_modules(finder)
                groups[-1].append(try_answer(task, exercise, variant))
        known = list(zip(task.wrong_answers, groups[0], strict=True))
        for outcome in (each for group in groups for each in group if each.failed):
            # as `diagnose` finds it, without trying every wrong answer again for each
            same = (variant.message for variant, other in known if other.fingerprint == outcome.fingerprint)
            outcome.probably = next(same, "")
    return solution, groups[0], groups[1]


def _line_of(error: BaseException, exercise: str) -> str:
    """The last line of the learner's file in a traceback, as `line 7: x = y`; empty if there is none."""
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: {(error.text or '').strip()}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).stem == exercise]
    mine = [frame for frame in frames if "foundations/exercises" not in Path(frame.filename).as_posix()]
    return f"line {mine[-1].lineno}: {mine[-1].line}" if mine else ""
