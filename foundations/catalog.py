"""Catalog: the chapters in order, and the exercises of each. Needs no torch: the map is drawn at once."""

from __future__ import annotations

import importlib
import importlib.util
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
        "data",
        "Data: datasets, batches, padding, splits, augmentation",
        3,
        "every capstone",
        "write any dataset and loader, repeat each batch by seed, and keep validation data out of training",
        (
            "predict_batches",
            "dataset",
            "dataloader",
            "pad_collate",
            "bucket_batches",
            "worker_seeds",
            "grouped_split",
            "augmentations",
            "vocabulary",
            "fast_loader",
        ),
    ),
    Chapter(
        "loops",
        "Training loops: five of them, evaluation, early stopping, resuming",
        5,
        "every capstone",
        "write the training loop for any problem, evaluate it exactly, and resume it where it was killed",
        (
            "evaluate",
            "image_loop",
            "regression_loop",
            "sequence_loop",
            "imbalanced_loop",
            "multilabel_loop",
            "early_stopping",
            "gan_step",
            "policy_gradient_step",
            "lightning_modules",
            "resume",
        ),
    ),
    Chapter(
        "architectures",
        "Architectures: convolutions, recurrent networks, attention, Transformers",
        5,
        "cifar10, seq2seq, bert_sentiment",
        "build a residual network, an LSTM or a Transformer from its parts, and load torch's weights into it",
        (
            "predict_sizes",
            "conv2d_pooling",
            "residual_block",
            "rnn",
            "lstm_gru",
            "packed_sequence",
            "last_hidden_state",
            "attention",
            "multihead_attention",
            "positional_encoding",
            "encoder_layer",
            "decoder_layer",
            "tiny_translator",
        ),
    ),
    Chapter(
        "debugging",
        "Debugging: messages, metrics, broken trainings that run without an error",
        7,
        "every capstone",
        "say from a curve what is wrong with a training, and prove it before you change the code",
        (
            "read_errors",
            "assert_shapes",
            "overfit_one_batch",
            "check_metrics",
            "plot_training",
            "unstable_loss",
            "stuck_loss",
            "too_good",
            "wont_generalize",
            "two_faults",
        ),
    ),
    Chapter(
        "tricks",
        "Tricks that win: views, ensembles, schedules, mixed precision, fine-tuning, search",
        4,
        "every capstone",
        "say what a trick buys, with its spread, and build a paper from its formulas",
        (
            "tta_ensemble",
            "clip_grad_norm",
            "pseudo_labels",
            "lr_schedule",
            "mixed_precision",
            "fine_tune",
            "data_parallel",
            "beam_search",
            "from_a_paper",
            "competition",
        ),
    ),
)

CASES = frozenset({"unstable_loss", "stuck_loss", "too_good", "wont_generalize", "two_faults"})  # broken trainings to mend
# exercises whose check trains and may take longer than five seconds
TRAINING = CASES | {"lightning_modules", "tiny_translator", "competition"}
NEEDS = {  # exercise -> module and package that its check needs besides torch
    "image_loop": ("sklearn", "scikit-learn"),
    "regression_loop": ("sklearn", "scikit-learn"),
    "lightning_modules": ("lightning", "lightning"),
}
RENAMED: dict[str, str] = {}  # id of an earlier version of the course -> id today: its progress and its file go with it


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


def missing_package(exercise: str) -> str:
    """Package that the exercise's check needs and that is not installed; empty if there is none."""
    module, package = NEEDS.get(exercise, ("", ""))
    return package if module and importlib.util.find_spec(module) is None else ""
