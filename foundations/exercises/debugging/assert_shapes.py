"""Exercise assert_shapes: names of sizes that hold across calls."""

import random
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from foundations.comparing import Failure, check_that
from foundations.exercise import Exercise

exercise = Exercise(
    title="Assert shapes: sizes with names, the same in every call",
    level="warm-up",
    minutes=20,
    link="common.debug.shapes:layer_shapes",
    why="`--debug shapes` prints the shapes of every layer, where one sees them; a check sees them at every call",
    hints=(
        "Keep a dict from name to size. A name that is in it is compared, one that is not is put there.",
        "spec.split() gives one part for each dimension: compare a number itself, a name by sizes[name] == x.shape[i].",
        "Work on a copy, known = {**self.sizes, **sizes}; known.setdefault(name, size) == size; keep the copy if all fits.",
    ),
    source="torch._prims_common:check_same_shape",
    look_at="torch checks that tensors have one shape with this. Which shapes does its message say?",
)

Call = tuple[tuple[int, ...], str]


def run(answer: ModuleType, start: dict[str, int], calls: list[Call], **sizes: int) -> Any:
    """`expect` for each call in turn, on one checker; `sizes` go to the last. Returns the last result or ValueError."""
    shown: dict[str, Any] = {f"call {i}": f"{shape} as {spec!r}" for i, (shape, spec) in enumerate(calls, 1)}
    shown = {**({"ShapeChecker": start} if start else {}), **shown, **({"with": sizes} if sizes else {})}
    checker = answer.ShapeChecker(**start)
    for i, (shape, spec) in enumerate(calls, 1):
        x = torch.zeros(shape)
        try:
            result = checker.expect(x, spec, **(sizes if i == len(calls) else {}))
        except ValueError as error:
            if i < len(calls):
                raise Failure(f"call {i} fits and raises", shown, got=error) from error
            return error, shown
        except (NotImplementedError, Failure):
            raise
        except Exception as error:
            raise Failure(f"raises {type(error).__name__} in place of ValueError", shown, got=error) from error
        check_that(result is x, "expect does not return its tensor", "x itself", result, **shown)
    return None, shown


def accepts(answer: ModuleType, start: dict[str, int], *calls: Call, **sizes: int) -> None:
    """Checks that all calls are accepted."""
    error, shown = run(answer, start, list(calls), **sizes)
    check_that(error is None, "a shape that fits raises", "no error", error, **shown)


def refuses(answer: ModuleType, start: dict[str, int], *calls: Call, holds: tuple[str, ...] = (), **sizes: int) -> None:
    """Checks that the last call raises ValueError, with spec, shape and the texts `holds` in its message."""
    error, shown = run(answer, start, list(calls), **sizes)
    check_that(error is not None, "a shape that does not fit is accepted", "ValueError", "no error", **shown)
    shape, spec = calls[-1]
    for text in (str(shape), spec, *holds):
        check_that(text in str(error), "the message does not hold a part", text, error, **shown)


@exercise.property("numbers and new names")
def single(answer: ModuleType, rng: random.Random) -> None:
    accepts(answer, {}, ((2,), "2"))
    accepts(answer, {}, ((2, 3), "B T"))
    accepts(answer, {}, ((), ""))
    accepts(answer, {}, ((4, 3, 5, 5), "B 3 H H"))
    accepts(answer, {}, ((0, 12), "batch 12"))


@exercise.property("a size that differs")
def differs(answer: ModuleType, rng: random.Random) -> None:
    refuses(answer, {}, ((2,), "3"))
    refuses(answer, {"B": 4}, ((2, 3), "B T"), holds=("B=4",))
    refuses(answer, {}, ((2, 3), "B T"), B=4, holds=("B=4",))
    accepts(answer, {}, ((4, 3), "B T"), B=4)
    refuses(answer, {"time": 0}, ((3,), "time"), holds=("time=0",))
    refuses(answer, {}, ((12,), "2"))


@exercise.property("the number of dimensions")
def dimensions(answer: ModuleType, rng: random.Random) -> None:
    for shape, spec in [((2, 3), "B"), ((2,), "B T"), ((), "B"), ((1,), "")]:
        refuses(answer, {}, (shape, spec))


@exercise.property("a name holds across calls")
def across(answer: ModuleType, rng: random.Random) -> None:
    refuses(answer, {}, ((2, 3), "B T"), ((2, 4), "B T"), holds=("B=2", "T=3"))
    accepts(answer, {}, ((2, 3), "B T"), ((3, 5), "T D"), ((5, 2), "D B"))
    refuses(answer, {}, ((4,), "B"), ((2, 3), "B T"), holds=("B=4",))
    refuses(answer, {}, ((4,), "B"), ((4,), "B"), B=3)
    refuses(answer, {}, ((4,), "B"), ((3,), "B"), B=3)
    refuses(answer, {}, ((4,), "B"), ((2, 2), "T T"), B=3)
    accepts(answer, {}, ((5,), "D"), ((2,), "B"), B=2)
    first, second = answer.ShapeChecker(), answer.ShapeChecker()
    first.expect(torch.zeros(2), "B")
    second.expect(torch.zeros(3), "B")


@exercise.property("a name twice in one shape")
def twice(answer: ModuleType, rng: random.Random) -> None:
    refuses(answer, {}, ((2, 3), "N N"))
    accepts(answer, {}, ((2, 3, 3), "B T T"))


@exercise.property("a size of 1 is not special")
def ones(answer: ModuleType, rng: random.Random) -> None:
    refuses(answer, {"B": 4}, ((1, 3), "B T"), holds=("B=4",))
    refuses(answer, {"T": 1}, ((4, 3), "B T"), holds=("T=1",))
    refuses(answer, {}, ((1,), "3"))
    refuses(answer, {}, ((3,), "1"))


@exercise.property("a call that fails binds nothing")
def rolls_back(answer: ModuleType, rng: random.Random) -> None:
    checker = answer.ShapeChecker(B=2)
    for shape, spec, sizes in [((5, 3), "T B", {}), ((3,), "3", {"B": 4, "T": 9}), ((7,), "8", {"T": 7})]:
        try:
            checker.expect(torch.zeros(shape), spec, **sizes)
        except ValueError:
            continue
    try:
        checker.expect(torch.zeros(2, 6), "B T")
    except ValueError as error:
        raise Failure(
            "a name was bound by a call that failed", {"B": 2, "failed before": "(5, 3) as 'T B'"}, got=error
        ) from error


def checker(fault: str) -> type:
    """ShapeChecker with one of the known faults."""

    class ShapeChecker:
        def __init__(self, **sizes: int) -> None:
            self.sizes = dict(sizes)

        def expect(self, x: Tensor, spec: str, **sizes: int) -> Tensor:
            old = dict(self.sizes)
            if any(old.get(name, size) != size for name, size in sizes.items()):
                raise ValueError(self.message(spec, {**sizes, **old}, x))
            known = {**old, **sizes}
            before = dict(known)
            fits = fault == "zip" or len(spec.split()) == x.ndim
            for part, size in zip(spec.split(), x.shape, strict=False):
                bound = int(part) if part.isdigit() else known.setdefault(part, size)
                fits = fits and (bound == size or (fault == "broadcast" and 1 in (bound, size)))
                if fault == "binds_at_once":
                    self.sizes = known
            check = (fits, self.message(spec, before, x))
            if fault == "tuple":
                assert check  # as `assert (fits, message)`
            elif not fits:
                raise ValueError(f"shape {tuple(x.shape)} does not fit" if fault == "message" else check[1])
            if fault != "anew":
                self.sizes = known
            return x

        @staticmethod
        def message(spec: str, known: dict[str, int], x: Tensor) -> str:
            sizes = ", ".join(f"{part}={known[part]}" for part in dict.fromkeys(spec.split()) if part in known)
            return f"{tuple(x.shape)} is not {spec} with {sizes}"

    return ShapeChecker


exercise.wrong(
    "ShapeChecker",
    "Every shape is accepted. `assert (condition, message)` asserts a tuple, which is always true; without parentheses it "
    "would raise AssertionError, and ValueError is asked for.",
)(checker("tuple"))
exercise.wrong(
    "ShapeChecker", "The names are bound anew for each tensor: what the first call has bound, the second must hold."
)(checker("anew"))
exercise.wrong(
    "ShapeChecker",
    "A size of 1 lets everything through, as in broadcasting. That is the mistake that nothing else reports: compare by ==.",
)(checker("broadcast"))
exercise.wrong(
    "ShapeChecker", "zip ends with the shorter of the two: compare the number of dimensions with that of the parts as well."
)(checker("zip"))
exercise.wrong("ShapeChecker", "The message says the tensor's shape alone: who reads it needs what was expected as well.")(
    checker("message")
)
exercise.wrong(
    "ShapeChecker",
    "Names are bound before the whole shape was compared: a call that fails must leave the others as they were.",
)(checker("binds_at_once"))
exercise.also_right("ShapeChecker")(checker(""))


@exercise.also_right("ShapeChecker")
class ByErrors:
    """A dict that is copied first and put back after an error."""

    def __init__(self, **names: int) -> None:
        self.names = names

    def expect(self, tensor: Tensor, spec: str, **more: int) -> Tensor:
        saved = self.names.copy()
        try:
            for name, size in more.items():
                self.bind(name, size)
            words = spec.split()
            if len(words) != tensor.dim():
                raise KeyError(spec)
            for i, word in enumerate(words):
                self.bind(word, tensor.size(i))
        except KeyError as error:
            known = {**more, **saved}
            lines = [f"{word}={known[word]}" for word in spec.split() if word in known]
            self.names = saved
            raise ValueError(f"wanted: {spec}\nwhere {lines}\ngot: {tuple(tensor.size())}") from error
        return tensor

    def bind(self, word: str, size: int) -> None:
        if int(word) != size if word.isnumeric() else self.names.setdefault(word, size) != size:
            raise KeyError(word)
