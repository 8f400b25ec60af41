"""Exercise dropout: inverted dropout as a module."""

import random
from types import ModuleType

import torch
from torch import Tensor, nn

from foundations.comparing import Failure, call, check_equal, check_that
from foundations.exercise import Exercise

exercise = Exercise(
    title="Dropout: units that are absent, at random, in training",
    level="core",
    minutes=12,
    link="common.nn.dropout:Dropout",
    why="the same with fewer random bits, which is faster on a CPU",
    hints=(
        "In training, each entry is kept with probability 1 - p, by a random number of its own.",
        "keep = rand >= p; y = x * keep / (1 - p), so that the expectation stays x.",
        "if not self.training or p == 0: return x; if p == 1: return x * 0; return x * (torch.rand_like(x) >= p) / (1 - p)",
    ),
    source="torch._refs.nn.functional:dropout",
    look_at="The case p == 1 has a line of its own here, too. Where does the mask come from?",
    barred=("dropout", "feature_dropout", "alpha_dropout", "torch.nn.Dropout", "torch.nn.Dropout1d", "torch.nn.Dropout2d"),
)


@exercise.property("evaluation does nothing")
def evaluation(answer: ModuleType, rng: random.Random) -> None:
    layer = answer.Dropout(0.5).eval()
    for shape in [(4,), (2, 3), (0, 2)]:
        x = torch.randn(shape)
        check_equal(layer, x, expected=x)


@exercise.property("p = 0 and p = 1")
def ends(answer: ModuleType, rng: random.Random) -> None:
    x = torch.tensor([1.0, -2.0, 3.0])
    check_equal(answer.Dropout(0.0).train(), x, expected=x)
    check_equal(answer.Dropout(1.0).train(), x, expected=torch.zeros(3))


@exercise.property("entries are 0 or x / (1 - p)")
def entries(answer: ModuleType, rng: random.Random) -> None:
    for p in (0.25, 0.5, 0.9):
        x = torch.rand(40, 50) + 0.5
        y = call(answer.Dropout(p).train(), x)
        check_that(y.shape == x.shape, "the shape differs", tuple(x.shape), tuple(y.shape), p=p)
        kept = y != 0
        wrong = kept & ~torch.isclose(y, x / (1 - p), rtol=1e-4)
        if wrong.any():
            raise Failure(
                "an entry that is kept is not x / (1 - p)", {"p": p, "x": x[wrong][0]}, x[wrong][0] / (1 - p), y[wrong][0]
            )
        check_that(
            abs((~kept).float().mean().item() - p) < 0.04, "the fraction of zeros", p, (~kept).float().mean().item(), p=p
        )


@exercise.property("each entry on its own, anew at each call")
def independent(answer: ModuleType, rng: random.Random) -> None:
    layer, x = answer.Dropout().train(), torch.ones(64, 64)
    y = call(layer, x)
    for name, parts in (("rows", y.unbind(0)), ("columns", y.unbind(1))):
        check_that(any(0 < (part == 0).sum() < len(part) for part in parts), f"whole {name} are dropped")
        check_that(not torch.equal(parts[0], parts[1]), f"two {name} have the same entries dropped")
    check_that(not torch.equal(y, call(layer, x)), "two calls drop the same entries")
    torch.manual_seed(1)
    first = call(layer, x)
    torch.manual_seed(1)
    check_that(torch.equal(first, call(layer, x)), "the same seed does not give the same mask")


@exercise.property("gradient is the mask over 1 - p")
def gradient(answer: ModuleType, rng: random.Random) -> None:
    x = torch.ones(50, requires_grad=True)
    y = call(answer.Dropout(0.5).train(), x)
    y.sum().backward()
    check_that(x.grad is not None and torch.allclose(x.grad, y.detach()), "gradient", y, x.grad)


def dropout(fault: str) -> type:
    """Dropout with one of the known faults."""

    class Dropout(nn.Module):
        def __init__(self, p: float = 0.5) -> None:
            super().__init__()
            self.p = p

        def forward(self, x: Tensor) -> Tensor:
            if (not self.training and fault != "always") or self.p == 0:
                return x * (1 - self.p) if fault == "scaled_in_eval" and not self.training else x
            if self.p == 1 and fault != "zero_by_zero":
                return x * 0
            shape = {"one_mask": x.shape[-1:], "rows": (*x.shape[:-1], 1)}.get(fault, x.shape)
            keep = torch.rand(shape) < self.p if fault == "inverted" else torch.rand(shape) >= self.p
            return x * keep if fault in ("unscaled", "scaled_in_eval") else x * keep / (1 - self.p)

    return Dropout


exercise.wrong("Dropout", "What is kept is not divided by 1 - p: evaluation would see larger values than training.")(
    dropout("unscaled")
)
exercise.wrong("Dropout", "self.training is not asked: dropout stays on in evaluation, as F.dropout does by default.")(
    dropout("always")
)
exercise.wrong("Dropout", "With p = 1 this is 0 / 0: give zeros.")(dropout("zero_by_zero"))
exercise.wrong("Dropout", "One mask for all rows: every sample loses the same units.")(dropout("one_mask"))
exercise.wrong("Dropout", "Whole rows are dropped: each entry needs a random number of its own.")(dropout("rows"))
exercise.wrong("Dropout", "p is the probability of being dropped, not of being kept.")(dropout("inverted"))
exercise.wrong(
    "Dropout", "Scaling in evaluation is the original form; the inverted one scales in training and leaves evaluation alone."
)(dropout("scaled_in_eval"))


@exercise.also_right("Dropout")
class ByBernoulli(nn.Module):
    """A Bernoulli mask, with where."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.keep = 1 - p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.keep == 1:
            return x
        mask = torch.bernoulli(torch.full_like(x, self.keep)).bool()
        return torch.where(mask, x / self.keep if self.keep else x, torch.zeros_like(x))


@exercise.also_right("Dropout")
class InPlaceOfACopy(nn.Module):
    """A copy whose entries are overwritten."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        y = x.clone()
        y[torch.rand(x.shape, device=x.device) < self.p] = 0
        return y if self.p in (0, 1) else y / (1 - self.p)
