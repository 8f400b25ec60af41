"""Imports of a learner's files: `from networks.linear import Linear` finds theirs, or ours if it is not solved."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from foundations.catalog import CHAPTERS, all_exercises, find_chapter, is_prediction, solution_path


class ExerciseFinder(MetaPathFinder):
    """Finder of the modules `CHAPTER` and `CHAPTER.EXERCISE`.

    Args:
        files: Exercise -> file that is imported for it.
    """

    def __init__(self, files: dict[str, Path]) -> None:
        self.files = files
        self.chapters = {chapter.name for chapter in CHAPTERS}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in self.chapters:
            spec = ModuleSpec(fullname, None, is_package=True)
            spec.submodule_search_locations = []
            return spec
        chapter, _, name = fullname.partition(".")
        if chapter in self.chapters and name in self.files:
            return importlib.util.spec_from_file_location(fullname, self.files[name])
        return None


@contextmanager
def exercise_imports(own: dict[str, Path]) -> Iterator[ExerciseFinder]:
    """Makes the chapters' modules importable: the files of `own`, and our solutions for all other exercises."""
    files = {name: own.get(name, solution_path(name)) for name in all_exercises() if not is_prediction(name)}
    finder = ExerciseFinder(files)
    sys.meta_path.insert(0, finder)
    try:
        yield finder
    finally:
        sys.meta_path.remove(finder)
        forget_modules(finder)


def forget_modules(finder: ExerciseFinder) -> None:
    """Removes the chapters' modules, so that the next import reads the files anew."""
    for name in [name for name in sys.modules if name.partition(".")[0] in finder.chapters]:
        del sys.modules[name]


def import_answer(exercise: str) -> ModuleType:
    """Module of an exercise, read anew."""
    name = f"{find_chapter(exercise).name}.{exercise}"
    sys.modules.pop(name, None)
    return importlib.import_module(name)
