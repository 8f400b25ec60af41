"""Broken trainings, as they are met: the curves, then what `--debug` reports, each with the question what is wrong."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import math
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from common.errors import UserError
from foundations.faults import NAMES, Case, faults_to_find, find_case
from foundations.progress import Progress
from foundations.signs import CURVES, REPORTS

PLOT_ROWS, PLOT_COLUMNS = 11, 72
TELLING_SEEDS = (103, 105, 103, 108, 101, 105, 102, 105, 107)  # of the nine cases of `too_good`
MARKS = "·o"  # training, validation


def ask_case(progress: Progress, exercise: str, answers: Sequence[str] | None) -> int:
    """Shows the curves and the report of a broken training, asks after each what is wrong, and says what comes next.

    Args:
        progress: The learner's.
        exercise: Its id; the case is that of the learner's file, in which nothing was changed yet.
        answers: Numbers of the menu, or names of faults; None to ask in the terminal.
    """
    from foundations.quiz import Asker

    path = progress.path(exercise)
    case = find_case(exercise, path.read_text(encoding="utf-8"))
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
    found = progress.entry(exercise).found
    return [
        f"{exercise}  MENDED  {seconds:.1f} s",
        f"  Found {len(found)} of {faults_to_find(exercise)}: {', '.join(NAMES[name] for name in found)}",
        f"  Next broken training: reset {exercise} (yours is kept beside it), then check {exercise}",
    ]


def note_found(progress: Progress, exercise: str) -> bool:
    """Keeps the faults of the learner's file as found; returns whether all of the exercise are."""
    path = progress.path(exercise)
    case = find_case(exercise, path.read_text(encoding="utf-8", errors="replace"))
    found = progress.entry(exercise).found
    found += [name for name in case.faults if name not in found]
    return len(found) >= faults_to_find(exercise)


def data_seed(exercise: str, case: Case) -> int:
    """Seed of a case's data. Those of `too_good` are such that the fault shows in the numbers, not by chance the other way."""
    return TELLING_SEEDS[case.number - 1] if exercise == "too_good" else 100 + case.number


def data_of(exercise: str, seed: int) -> tuple[Any, ...]:
    """Arguments of an exercise's training, without its seed."""
    from foundations.trainings import days, patients, sorted_clusters, spirals

    if exercise == "unstable_loss":
        return (*sorted_clusters(400, seed, 1), *sorted_clusters(100, seed, 2))
    if exercise == "too_good":
        return patients(52, seed, 1)
    if exercise == "wont_generalize":
        return days(150, seed, 1)
    return (*spirals(480, seed, 1), *spirals(100, seed, 2))


def run_case(exercise: str, case: Case) -> tuple[Any, list[str]]:
    """An observed run of a broken training, and lines about what its curves do not show."""
    import torch

    from foundations.trainings import load_training, observe, patients

    seed = data_seed(exercise, case)
    data = data_of(exercise, seed)
    with quiet():
        run = observe(load_training(exercise, case.changes), *data, seed, rows_of=data[0])
    lines: list[str] = []
    if exercise == "too_good":
        x, y, _ = patients(60, seed, 3)
        with torch.no_grad():
            right = [run.model(row).argmax(1).item() == label for row, label in zip(x.split(1), y.tolist(), strict=True)]
        lines.append(
            f"last val/accuracy {run.history['val/accuracy'][-1]:.2f}; "
            f"accuracy for new patients, one measurement at a time: {sum(right) / len(right):.2f}"
        )
    return run, lines


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


def report_lines(exercise: str, case: Case, run: Any) -> list[str]:
    """What the gradient norm, the dead units, `--debug overfit`, `shapes` and `gradients` say of a broken training."""
    import torch

    from common.callbacks.activations import RECTIFIERS, dead_fraction

    norms = [step.norm for step in run.steps]
    picked = [norms[i * (len(norms) - 1) // 9] for i in range(10)]
    layers = ", ".join(f"{name} {norm:.2g}" for name, norm in run.first_norms.items() if name.endswith("weight"))
    lines = [
        f"grad/norm over the training: {' '.join(f'{norm:.2g}' for norm in picked)}",
        f"gradient norms, first step: {layers}",
    ]
    dead: list[str] = []
    model = copy.deepcopy(run.beginning)
    for name, module in model.named_modules():
        if isinstance(module, RECTIFIERS):
            module.register_forward_hook(
                lambda module, inputs, output, name=name: dead.append(f"{name} {dead_fraction(output.detach()):.0%}")
            )
    x = data_of(exercise, data_seed(exercise, case))[0]
    with torch.no_grad():
        output = model(x[:32])
    lines += [f"act/dead at the start: {', '.join(dead)}"] if dead else []
    lines.append(f"outputs of the first batch: {tuple(output.shape)}, from {output.min():.2g} to {output.max():.2g}")
    if exercise == "too_good":
        lines.append(f"the last validation again, one measurement at a time: {validation_again(exercise, case, run):.2f}")
    return [*lines, *debug_lines(exercise, case, run)]


def validation_again(exercise: str, case: Case, run: Any) -> float:
    """Accuracy on the rows of the validation, each asked alone."""
    import torch

    x, y = data_of(exercise, data_seed(exercise, case))[:2]
    rows = torch.cat([rows for rows, _ in run.evaluations]).unique()
    with torch.no_grad():
        answers = torch.cat([run.model(row).argmax(1) for row in x[rows].split(1)])
    return (answers == y[rows]).float().mean().item()


def debug_lines(exercise: str, case: Case, run: Any) -> list[str]:
    """What the three checks of `--debug` print, of the model before its first step."""
    try:
        from common.debug.gradients import check_gradients
        from common.debug.overfit import overfit_one_batch
        from common.debug.shapes import layer_shapes, shape_text
    except ImportError:
        return ["--debug needs Lightning: pip install lightning"]
    module, data = lightning_module(exercise, case, run)
    lines = []
    with quiet() as printed:
        rows = layer_shapes(module, data.batch)
        shapes = [shape_text(rows[0].inputs), *(shape_text(row.outputs) for row in rows)]
        lines.append("--debug shapes: " + " -> ".join(shapes))
        try:
            checks = check_gradients(module, data.batch)
            worst = checks[0]
            count = len(list(module.parameters()))
            lines.append(
                f"--debug gradients: {len(checks)} of {count} parameters are trainable; "
                f"worst relative error {worst.relative_error:.1e} ({worst.parameter})"
            )
        except UserError as error:
            lines.append(str(error))
        try:
            options = {"accelerator": "cpu", "devices": 1}
            overfit_one_batch(module, data, options, steps=200)
            lines.append("--debug overfit: " + printed.getvalue().strip().splitlines()[-1])
        except UserError as error:
            lines.append(f"--debug overfit: {error}")
    return lines


def lightning_module(exercise: str, case: Case, run: Any) -> tuple[Any, Any]:
    """The model before its first step, with its loss and optimizer as a LightningModule, and the first batch as its data."""
    import torch
    from lightning.pytorch import LightningDataModule, LightningModule

    from foundations.trainings import load_training

    training = load_training(exercise, case.changes)
    x, y = data_of(exercise, data_seed(exercise, case))[:2]
    if exercise == "wont_generalize":
        x, y = training.make_pairs(x, y)
    rows = run.steps[0].rows.clamp(max=len(x) - 1)
    optimizer, defaults = run.optimizer
    names = {name for name, p in run.beginning.named_parameters() if p.requires_grad}

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = copy.deepcopy(run.beginning)

        def compute_loss(self, batch: Any) -> torch.Tensor:
            return training.compute_loss(self.net, *batch)

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return self.compute_loss(batch)

        def configure_optimizers(self) -> Any:
            return optimizer([p for name, p in self.net.named_parameters() if name in names], **defaults)

    class Data(LightningDataModule):
        batch = (x[rows], y[rows])

        def train_dataloader(self) -> Any:
            return [self.batch]

    return Module(), Data()


@contextlib.contextmanager
def quiet() -> Iterator[io.StringIO]:
    """Context in which what is printed is kept, and neither warnings nor Lightning's log appear."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()) as printed:
            warnings.simplefilter("ignore")
            yield printed
    finally:
        logger.setLevel(level)
