"""Graduation command: whose parts the trainings are made of, what they reach, and their plot."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UserError
from foundations.catalog import all_exercises, is_prediction
from foundations.progress import Progress

if TYPE_CHECKING:
    pass

SEED = 0
DIGIT_EPOCHS = 8
PAIRS = 4400  # of seq2seq's sample: for training, validation and test
PLOT = "graduation.png"


def graduate(progress: Progress) -> int:
    """Trains seq2seq's sample and a classifier of digits with the learner's parts; 1 if their code fails.

    What is not solved is taken from our solutions. Needs scikit-learn and sacrebleu.

    Raises:
        UserError: A package is missing.
    """
    import torch

    from foundations.graduation import DIGITS, TRANSLATION, TranslationSettings, train_digits, train_translator
    from foundations.graduation_plot import draw_graduation
    from foundations.imports import exercise_imports
    from projects.seq2seq.synthetic import make_pairs

    torch.set_num_threads(1)
    written = [name for name in all_exercises() if not is_prediction(name)]
    own = {name: progress.path(name).resolve() for name in written if progress.has_passed(name)}
    needed = [name for name in written if name in {*TRANSLATION, *DIGITS}]
    ours = [name for name in needed if name not in own]
    print(f"{len(needed) - len(ours)} of {len(needed)} parts are yours.")
    for name in ours:
        print(f"  {name}: ours")
    with exercise_imports(own):
        try:
            print("Translation: your Transformer, optimizer and search on seq2seq's sample, about a minute", flush=True)
            translation = train_translator(make_pairs(PAIRS, seed=0), TranslationSettings(), SEED, say)
            print(f"  BLEU {translation.test_score:.1f} on {len(translation.examples)} sentences never seen")
            print("Digits: your convolutions, loop and loader on scikit-learn's images", flush=True)
            digits = train_digits(SEED, DIGIT_EPOCHS, say)
            print(f"  accuracy {digits.test_score:.1f} % on {len(digits.examples)} images never seen")
        except ModuleNotFoundError as error:
            raise UserError(f"graduate needs the package {error.name}: pip install -e .") from error
        except Exception as error:
            return report_fault(error, progress)
    path = draw_graduation(translation, digits, progress.folder / PLOT)
    print(f"{closing(len(ours))} {path}")
    return 0


def say(line: str) -> None:
    """Prints a line at once."""
    print(line, flush=True)


def report_fault(error: Exception, progress: Progress) -> int:
    """Prints where the learner's code has failed, and returns 1. Raises `error` again if it is not in their code."""
    files = {str(path.resolve()) for path in progress.folder.rglob("*.py")}
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if str(Path(frame.filename).resolve()) in files]
    if not frames:
        raise error
    where = Path(frames[-1].filename)
    print(f"  {type(error).__name__}: {error}\n  your {where.name}, line {frames[-1].lineno}: {frames[-1].line}")
    print(f"  It passed its check, so it is right by itself; compare: show {where.stem}")
    return 1


def closing(ours: int) -> str:
    """Sentence before the plot's path."""
    return "Every part is yours. You have graduated:" if not ours else f"{ours} parts are still ours; the result so far:"
