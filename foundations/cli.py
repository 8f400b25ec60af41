"""Commands of the course: map, start, check, hint, show, reset, list, place, review, graduate, source."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from common.cli.command import OneLineParser, report_errors
from common.errors import UserError
from foundations.catalog import (
    CASES,
    CHAPTERS,
    TRAINING,
    all_exercises,
    find_chapter,
    is_prediction,
    load_exercise,
    missing_package,
    solution_path,
)
from foundations.progress import FILE, Progress, digest, free_name, load_progress
from foundations.stubs import is_stub, write_stubs

FOLDER = Path("my_foundations")
SECONDS = {False: 30.0, True: 180.0}  # limit of a check, without and with training


def new_parser() -> OneLineParser:
    """Parser of the commands."""
    parser = OneLineParser(prog="python -m foundations", description="The course. Without a command: the map.")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="Your exercises (default: ./my_foundations).")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], int | None], text: str, nargs: str | None = "") -> OneLineParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        if nargs != "":
            command.add_argument("name", metavar="NAME", nargs=nargs, help="An exercise.")
        return command

    def add_answers(command: OneLineParser) -> None:
        command.add_argument("--answers", nargs="+", metavar="ANSWER", help="Answers to the questions, in order.")

    start = add("start", run_start, "Put the exercises into a folder of yours; what is there stays as it is.")
    start.add_argument("--to", type=Path, metavar="FOLDER", help="The folder (default: ./my_foundations).")
    check = add("check", run_check, "Check an exercise; without a name, those that changed since they passed.", nargs="?")
    check.add_argument("--all", action="store_true", help="Check every exercise that is written: finds out what is solved.")
    add_answers(check)
    add("hint", run_hint, "Show the next of three hints: the idea, the formula, the line.", nargs=None)
    show = add("show", run_show, "Show our solution beside yours, once it passed.", nargs=None)
    show.add_argument("--give_up", action="store_true", help="Show it before.")
    add("reset", run_reset, "Put an exercise's file back to the start; yours is kept beside it.", nargs=None)
    add("list", run_list, "List all exercises.")
    add_answers(add("place", run_place, "Ten questions that say where to begin."))
    add_answers(add("review", run_review, "Ask again what was answered wrongly, in new variants."))
    add("graduate", run_graduate, "Train a capstone's sample and a classifier with the parts that you have written.")
    add("source", run_source, "Open torch's own code of what an exercise builds.", nargs=None)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs a command and returns its exit code."""
    arguments = new_parser().parse_args(argv)
    return report_errors(lambda: arguments.run(arguments) if arguments.command else run_map(arguments))


def open_progress(arguments: argparse.Namespace) -> Progress:
    """Progress in the learner's folder. Raises UserError if there is none yet."""
    if not arguments.folder.is_dir():
        raise UserError(
            f"{arguments.folder}: no such folder; `python -m foundations start` makes it, `--folder` names another"
        )
    return load_progress(arguments.folder)


def run_map(arguments: argparse.Namespace) -> None:
    """Draws the map of the course."""
    from foundations.report import map_lines

    print("\n".join(map_lines(load_progress(arguments.folder) if arguments.folder.is_dir() else None)))


def run_start(arguments: argparse.Namespace) -> None:
    """Writes the stubs that the folder lacks."""
    folder = arguments.to or arguments.folder
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder: --to FOLDER")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / FILE).exists():
            if not (folder / ".gitignore").exists():
                (folder / ".gitignore").write_text("*\n", encoding="utf-8")
            Progress(folder, seed=int(time.time()) % 100_000).save()
        progress = load_progress(folder)
        written = write_stubs(folder, all_exercises(), progress.cases())
        progress.note_stubs(written, progress.cases())
        for name in all_exercises():  # of a folder that an earlier version has made
            if not is_prediction(name) and not progress.entry(name).stub and is_stub(name, progress.path(name)):
                progress.entry(name).stub = digest(progress.path(name))
        progress.save()
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}; name another folder: --to FOLDER") from error
    print(f"{len(written)} exercises written to {folder}; what was there is as it was.")
    command = "python -m foundations" + ("" if folder == FOLDER else f" --folder {folder}")
    first = CHAPTERS[0]
    print(f"Begin with foundations/lessons/{first.name}.md, then: {command} check {first.exercises[0]}")


def run_check(arguments: argparse.Namespace) -> int:
    """Checks one exercise, all that are written, or those that changed; 1 if one does not pass."""
    progress = open_progress(arguments)
    if arguments.name:
        find_chapter(arguments.name)
        if is_prediction(arguments.name):
            from foundations.quiz import ask_prediction

            return ask_prediction(progress, arguments.name, arguments.answers)
        if arguments.name in CASES and progress.path(arguments.name).is_file() and not is_written(progress, arguments.name):
            from foundations.cases import ask_case

            return ask_case(progress, arguments.name, arguments.answers)
        if arguments.answers:
            print(f"{arguments.name} is checked, nothing is asked: --answers is not used")
        return check_exercise(progress, arguments.name)
    names = [name for name in all_exercises() if not is_prediction(name) and is_written(progress, name)]
    if not arguments.all:
        names = [name for name in names if not progress.has_passed(name)]
    if not names:
        print("Nothing to check: no file differs from its start, or all that do have passed. `list` shows the exercises.")
    failed = sum(check_exercise(progress, name, brief=True) for name in names)
    return int(failed > 0)


def is_written(progress: Progress, exercise: str) -> bool:
    """Whether the learner has changed the stub."""
    path = progress.path(exercise)
    if not path.is_file():
        return False
    entry = progress.entry(exercise)
    return digest(path) != entry.stub and not is_stub(exercise, path, entry.case)


def check_exercise(progress: Progress, name: str, brief: bool = False) -> int:
    """Checks a file in a sandbox, prints the outcome, keeps it; 1 if it does not pass."""
    from foundations.cases import mended_lines, note_found
    from foundations.report import failure_lines, passed_lines, shorten
    from foundations.sandbox import run_sandboxed

    path = progress.path(name)
    if not path.is_file():
        raise UserError(f"{path}: no such file; `python -m foundations start` writes what is missing")
    if package := missing_package(name):
        print(f"{name}  NOT CHECKED: it needs {package}: pip install {package}")
        return 1
    limit = SECONDS[name in TRAINING]
    if name in TRAINING:
        print(f"{name} trains: it may take longer than five seconds.", flush=True)
    others = [other for other in all_exercises() if other != name and not is_prediction(other)]
    own = {other: str(progress.path(other).resolve()) for other in others if progress.has_passed(other)}
    begin, checked = time.monotonic(), digest(path)
    result = run_sandboxed("foundations.worker:check_file", name, str(path.resolve()), own, seconds=limit)
    seconds = time.monotonic() - begin
    outcome, entry = result.value, progress.entry(name)
    passed = outcome is not None and not outcome.failed
    is_last = note_found(progress, name) if passed and name in CASES else passed  # of the broken trainings of this exercise
    stays = not is_last and entry.passed == checked  # the same file has passed before: this was slow, or chance
    if not stays:
        entry.passed = checked if is_last else ""
    if outcome is None:
        reason = f"took longer than {limit:.0f} s" if result.ended == "time" else result.ended
        lines = shorten([f"{name}  FAILED: {reason}", *_printed(result.printed), f"  Stuck? hint {name}"])
    elif outcome.failed:
        lines = failure_lines(name, outcome, seconds, entry.hints)
        lines = [*lines[:-1], *_printed(result.printed)[: 20 - len(lines)], lines[-1]]
    else:
        lines = passed_lines(name, outcome, seconds, progress) if is_last else mended_lines(progress, name, seconds)
        lines = [lines[0], *_printed(result.printed), *lines[1:]]
    if stays:
        lines[0] = f"{lines[0]}; it stays passed: the file is as it was"
    print("\n".join(lines[:1] if brief else lines))
    progress.save()
    return int(not passed)


def _printed(text: str) -> list[str]:
    """The last lines that the learner's code printed."""
    lines = text.strip().splitlines()
    return [f"  printed: {line}" for line in lines[-4:]]


def run_hint(arguments: argparse.Namespace) -> None:
    """Shows the hints so far and the next one."""
    progress = open_progress(arguments)
    find_chapter(arguments.name)
    if is_prediction(arguments.name):
        raise UserError(f"{arguments.name}: questions have no hints; a wrong answer is explained at once")
    task, entry = load_exercise(arguments.name), progress.entry(arguments.name)
    entry.hints = min(entry.hints + 1, len(task.hints))
    progress.save()
    for number, hint in enumerate(task.hints[: entry.hints], 1):
        print(f"{number} of {len(task.hints)}: {hint}")


def run_show(arguments: argparse.Namespace) -> None:
    """Shows our solution beside the learner's file."""
    from foundations.viewing import print_side_by_side

    progress, name = open_progress(arguments), arguments.name
    find_chapter(name)
    if is_prediction(name):
        raise UserError(f"{name}: its answers are what the code gives when it is run")
    if not progress.has_passed(name):
        if not arguments.give_up:
            raise UserError(f"{name} has not passed yet: `hint {name}` helps, `show {name} --give_up` shows the solution")
        progress.entry(name).shown = True
        progress.save()
    print_side_by_side(progress.path(name), solution_path(name))


def run_reset(arguments: argparse.Namespace) -> None:
    """Puts a file back to the start, and keeps the learner's beside it."""
    progress = open_progress(arguments)
    path, cases = progress.path(arguments.name), {}
    if is_prediction(arguments.name):
        progress.entry(arguments.name).passed = ""
        progress.save()
        print(f"{arguments.name}: its questions will be asked anew")
        return
    if arguments.name in CASES:
        from foundations.cases import next_case, standing

        cases = {arguments.name: next_case(progress, arguments.name)}
    if path.is_file():
        backup = free_name(path.with_suffix(".py.bak"))
        path.rename(backup)
        print(f"yours is kept as {backup}")
    progress.note_stubs(write_stubs(arguments.folder, [arguments.name], cases), cases)
    progress.save()
    lines = [f"{path} holds case {number}: {standing(progress, name)}" for name, number in cases.items()]
    print("\n".join(lines or [f"{path} is back at the start"]))


def run_list(arguments: argparse.Namespace) -> None:
    """Lists all exercises with their states."""
    from foundations.report import list_lines

    print("\n".join(list_lines(open_progress(arguments))))


def run_place(arguments: argparse.Namespace) -> None:
    """Asks ten questions, and says where to begin."""
    from foundations.quiz import place

    place(arguments.answers)


def run_review(arguments: argparse.Namespace) -> int:
    """Asks again what was answered wrongly."""
    from foundations.quiz import review

    return review(open_progress(arguments), arguments.answers)


def run_graduate(arguments: argparse.Namespace) -> int:
    """Trains with the learner's parts, and ours for what is not solved."""
    from foundations.graduate import graduate

    return graduate(open_progress(arguments))


def run_source(arguments: argparse.Namespace) -> None:
    """Prints torch's code of an exercise's subject."""
    from foundations.viewing import print_source

    find_chapter(arguments.name)
    if is_prediction(arguments.name):
        raise UserError(f"{arguments.name}: questions have no single function of torch behind them; see `list`")
    print_source(load_exercise(arguments.name))
