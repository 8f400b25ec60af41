"""Catalog: the chapters in order, and the exercises of each. Needs no torch: the map is drawn at once."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError

if TYPE_CHECKING:
    from foundations.exercise import Exercise

ROOT = Path(__file__).parent
SOLUTIONS = ROOT / "solutions"


@dataclass(frozen=True)
class Chapter:
    """Chapter of the course.

    Args:
        name: Name of its folder and of its lesson.
        title: What it is about.
        hours: Time that it takes.
        leads_to: Capstones that build on it.
        skill: What one can do afterwards; ends the sentence "You can now …".
        exercises: Their ids, in order; each has a file of that name.
    """

    name: str
    title: str
    hours: int
    leads_to: str
    skill: str
    exercises: tuple[str, ...]


CHAPTERS = (
    Chapter(
        "tensors",
        "Tensors: shapes, views, indexing, broadcasting",
        2,
        "every capstone",
        "read any shape error, mask, and reshape without copying",
        (
            "predict_shapes",
            "image_batch",
            "slicing",
            "view_reshape",
            "gather",
            "scatter_add",
            "broadcast_shapes",
            "channel_normalize",
            "masked_mean",
            "patchify",
        ),
    ),
    Chapter(
        "autograd",
        "Autograd: gradients by hand, accumulation, detach, an engine",
        2,
        "every capstone",
        "say what .grad holds, cut a graph on purpose, and check a gradient",
        (
            "predict_gradients",
            "mse_gradients",
            "numerical_gradient",
            "gradient_accumulation",
            "manual_update",
            "truncated_bptt",
            "safe_where",
            "autograd_engine",
        ),
    ),
    Chapter(
        "networks",
        "Networks from scratch: layers, losses, optimizers, initialization",
        4,
        "cifar10, seq2seq, bert_sentiment",
        "write any layer, loss or optimizer of torch, and see what flows through a network",
        (
            "predict_modules",
            "linear_regression",
            "mlp",
            "linear",
            "cross_entropy",
            "dropout",
            "batch_layer_norm",
            "embedding",
            "sgd",
            "adam",
            "init_and_hooks",
            "network_from_scratch",
        ),
    ),
    Chapter(
        "debugging",
        "Debugging: broken trainings that run without an error",
        5,
        "every capstone",
        "say from a curve what is wrong with a training, and prove it before you change the code",
        (
            "read_errors",
            "assert_shapes",
            "overfit_one_batch",
            "check_metrics",
            "plot_training",
        ),
    ),
)

TRAINING: frozenset[str] = frozenset()  # exercises whose check trains and may take longer than five seconds
RENAMED: dict[str, str] = {}  # id of an earlier version of the course -> id today: what was passed stays passed


def all_exercises() -> list[str]:
    """Ids of all exercises, in the order of the course."""
    return [name for chapter in CHAPTERS for name in chapter.exercises]


def find_chapter(exercise: str) -> Chapter:
    """Chapter of an exercise. Raises UserError if there is none of that name."""
    for chapter in CHAPTERS:
        if exercise in chapter.exercises:
            return chapter
    import difflib

    close = difflib.get_close_matches(exercise, all_exercises(), 1)
    raise UserError(f"no exercise {exercise!r}" + (f"; did you mean {close[0]}?" if close else "; `list` shows all"))


def solution_path(exercise: str) -> Path:
    """File of our solution; a prediction has none."""
    return SOLUTIONS / find_chapter(exercise).name / f"{exercise}.py"


def is_prediction(exercise: str) -> bool:
    """Whether the exercise is a set of questions instead of a file to be written."""
    return exercise.startswith("predict_")


def load_exercise(exercise: str) -> Exercise:
    """The exercise's checks; imports torch."""
    return importlib.import_module(f"foundations.exercises.{find_chapter(exercise).name}.{exercise}").exercise


def load_questions(exercise: str) -> Any:
    """The families of questions of a prediction; imports torch."""
    return importlib.import_module(f"foundations.exercises.{find_chapter(exercise).name}.{exercise}").families
