"""Progress: which exercises a learner has passed, with how many hints, as JSON in the learner's own folder."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common.errors import UserError
from foundations.catalog import CASES, RENAMED, all_exercises, find_chapter
from foundations.faults import draw_case, faults_to_find

FILE = ".progress.json"


@dataclass
class Entry:
    """What is known of one exercise.

    Args:
        passed: Digest of the file that passed; of a prediction "answered"; empty if none did.
        hints: Hints that were shown.
        shown: Whether the solution was shown before it was passed.
        found: Faults of a broken training that were found and mended.
    """

    passed: str = ""
    hints: int = 0
    shown: bool = False
    found: list[str] = field(default_factory=list)


@dataclass
class Progress:
    """Progress of a learner.

    Args:
        folder: The learner's folder.
        entries: What is known of each exercise, by id.
        review: Questions that were answered wrongly and come back: exercise, family, seed.
        seed: Of the questions that are asked.
    """

    folder: Path
    entries: dict[str, Entry] = field(default_factory=dict)
    review: list[tuple[str, str, int]] = field(default_factory=list)
    seed: int = 0

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

    def save(self) -> None:
        """Writes the progress, atomically."""
        content = {
            "entries": {name: asdict(entry) for name, entry in sorted(self.entries.items()) if entry != Entry()},
            "review": self.review,
            "seed": self.seed,
        }
        partial = self.folder / f"{FILE}.tmp"
        partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
        partial.replace(self.folder / FILE)


def load_progress(folder: Path) -> Progress:
    """Progress of the learner's folder; that of exercises which have another name today goes with them.

    Raises:
        UserError: The file of the progress is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return Progress(folder)
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        entries = {RENAMED.get(name, name): Entry(**entry) for name, entry in content["entries"].items()}
        review = [(RENAMED.get(name, name), str(family), int(seed)) for name, family, seed in content["review"]]
        return Progress(folder, entries, review, int(content["seed"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged: delete it, then `check --all` finds out what is solved") from error


def digest(path: Path) -> str:
    """Digest of a file's content; empty if there is no file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else ""
