"""Progress: which exercises a learner has passed, with how many hints, as JSON in the learner's own folder."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common.errors import UserError
from foundations.catalog import CASES, RENAMED, all_exercises, find_chapter, is_prediction
from foundations.faults import draw_case, faults_to_find
from foundations.stubs import is_stub

FILE = ".progress.json"
COPY = ".progress.copy.json"  # the same content: what is read if the file is damaged
LOCK = ".progress.lock"

Item = tuple[str, str, int]  # question that comes back: exercise, family, seed


@dataclass
class Entry:
    """What is known of one exercise.

    Args:
        passed: Digest of the file that passed; of a prediction "answered"; empty if none did.
        hints: Hints that were shown.
        shown: Whether the solution was shown before it was passed.
        found: Faults of a broken training that were found and mended.
        stub: Digest of the file as `start` or `reset` wrote it.
        case: Number of the broken training that was drawn last; 0 if none was.
    """

    passed: str = ""
    hints: int = 0
    shown: bool = False
    found: list[str] = field(default_factory=list)
    stub: str = ""
    case: int = 0


@dataclass
class Progress:
    """Progress of a learner. Several commands may run at once: each saves what it has changed itself, and no more.

    Args:
        folder: The learner's folder.
        entries: What is known of each exercise, by id.
        review: Questions that were answered wrongly and come back: exercise, family, seed.
        seed: Of the questions that are asked.
        saved: Entries and questions as they were in the file when this was read.
    """

    folder: Path
    entries: dict[str, Entry] = field(default_factory=dict)
    review: list[Item] = field(default_factory=list)
    seed: int = 0
    saved: tuple[dict[str, Entry], list[Item]] = field(default_factory=lambda: ({}, []), repr=False, compare=False)

    def entry(self, exercise: str) -> Entry:
        """Entry of an exercise, made where there is none."""
        return self.entries.setdefault(exercise, Entry())

    def path(self, exercise: str) -> Path:
        """The learner's file of an exercise."""
        return self.folder / find_chapter(exercise).name / f"{exercise}.py"

    def has_passed(self, exercise: str) -> bool:
        """Whether it was passed, and its file has not changed since; of broken trainings, whether all faults were found."""
        if exercise in CASES and len(self.entry(exercise).found) >= faults_to_find(exercise):
            return self.path(exercise).is_file()  # whatever it holds by now: another case, for practice
        passed = self.entry(exercise).passed
        return passed == "answered" or (bool(passed) and passed == digest(self.path(exercise)))

    def changed_since(self, exercise: str) -> bool:
        """Whether it was passed by a file that has changed since."""
        return bool(self.entry(exercise).passed) and not self.has_passed(exercise)

    def cases(self) -> dict[str, int]:
        """Number of the case that comes next in each of the broken trainings."""
        return {name: draw_case(name, self.seed, self.entry(name).found) for name in all_exercises() if name in CASES}

    def note_stubs(self, written: list[str], cases: dict[str, int]) -> None:
        """Keeps what `start` or `reset` has written: the digests, and the cases that were drawn."""
        for name in written:
            entry = self.entry(name)
            entry.stub, entry.case = digest(self.path(name)), cases.get(name, 0)

    def save(self) -> None:
        """Writes what was changed since this was read; what another command has saved meanwhile is kept.

        Raises:
            UserError: It cannot be written.
        """
        path = self.folder / FILE
        try:
            with _locked(self.folder / LOCK):
                content = self._merge(_read(path))
                for name in (FILE, COPY):
                    _write(self.folder / name, json.dumps(content, indent=1))
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror}): what was done now is not kept") from error
        self.saved = copy.deepcopy((self.entries, self.review))

    def _merge(self, content: dict[str, Any] | None) -> dict[str, Any]:
        """Content of the file: what it holds now, with the changes that were made here. They are here, too, afterwards."""
        if content is not None:
            before, asked = self.saved
            entries, review, self.seed = _parse(content)
            for name, mine in self.entries.items():
                theirs, old = entries.setdefault(name, Entry()), before.get(name, Entry())
                for key, value in vars(mine).items():
                    if key == "found":
                        mine.found += [fault for fault in theirs.found if fault not in value + old.found]
                    elif value == getattr(old, key):
                        setattr(mine, key, getattr(theirs, key))
            self.entries = {**entries, **self.entries}
            kept = [item for item in review if item in self.review or item not in asked]
            self.review = kept + [item for item in self.review if item not in asked and item not in kept]
        known = (content or {}).get("entries", {})  # with fields of a later version
        own = {name: {**known.get(name, {}), **asdict(entry)} for name, entry in self.entries.items() if entry != Entry()}
        return {**(content or {}), "entries": dict(sorted(own.items())), "review": self.review, "seed": self.seed}


def load_progress(folder: Path) -> Progress:
    """Progress of the learner's folder; that of exercises which have another name today goes with them, as do their files.

    A damaged file is kept beside it, and the copy takes its place.

    Raises:
        UserError: The file of the progress is damaged and has no copy, or cannot be read.
    """
    path = folder / FILE
    try:
        content = _read(path)
        if content is None and path.exists():
            backup = free_name(path.with_suffix(".json.bak"))
            with _locked(folder / LOCK):
                path.rename(backup)
                content = _read(folder / COPY)
                if content is not None:
                    _write(path, json.dumps(content, indent=1))
            if content is None:
                raise UserError(
                    f"{path} was damaged and is kept as {backup}. `check --all` finds out which files pass; lost are the "
                    "answered predictions, the questions that come back, the hints and the faults found"
                )
            print(f"{path} was damaged and is kept as {backup}; its copy takes its place", file=sys.stderr)
        if content is None:
            return Progress(folder)
        entries, review, seed = _parse(content)
        for old, new in RENAMED.items():
            _move_file(folder, old, new, entries)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    return Progress(folder, entries, review, seed, copy.deepcopy((entries, review)))


def _read(path: Path) -> dict[str, Any] | None:
    """Content of a file of the progress; None if there is none, or it is damaged."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        _parse(content)
        return content
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _parse(content: dict[str, Any]) -> tuple[dict[str, Entry], list[Item], int]:
    """Entries, questions that come back, and seed; without fields and questions that this version does not know."""
    entries: dict[str, Entry] = {}
    for name, raw in content["entries"].items():
        entry = Entry()
        for key, default in vars(Entry()).items():
            value = raw.get(key, default)
            if type(value) is not type(default):
                raise TypeError(f"{name}: {key} is {value!r}")
            setattr(entry, key, list(value) if key == "found" else value)
        today = RENAMED.get(name, name)
        if name == today or today not in content["entries"]:
            entries[today] = entry
    known = {name for name in all_exercises() if is_prediction(name)}
    asked = [(RENAMED.get(name, name), str(family), int(seed)) for name, family, seed in content["review"]]
    return entries, [item for item in asked if item[0] in known], int(content["seed"])


def _move_file(folder: Path, old: str, new: str, entries: dict[str, Entry]) -> None:
    """Moves the file of an exercise that has another name today, unless the new one is written already."""
    files = [path for path in sorted(folder.glob(f"*/{old}.py")) if old not in all_exercises()]
    path = folder / find_chapter(new).name / f"{new}.py"
    if not files or (path.exists() and digest(path) != entries.get(new, Entry()).stub and not is_stub(new, path)):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    files[0].replace(path)


def _write(path: Path, text: str) -> None:
    """Writes a file, atomically, by a name that no other process has."""
    descriptor, partial = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(partial).replace(path)
    finally:
        Path(partial).unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Context that one process at a time is in, where the system has such locks."""
    with path.open("a") as file:
        with contextlib.suppress(ImportError):
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def free_name(path: Path) -> Path:
    """`path`, or with the first number behind it that no file has."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}{number}")
    return free


def digest(path: Path) -> str:
    """Digest of a file's content; empty if there is no file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else ""
