"""Numerical gradient check: right gradients pass, also at kinks, and planted faults do not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from debug_modules import Classifier, Detached, Diverging, FrozenBody, first_batch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from common import debug
from common.debug.gradients import tiny_double_batch
from common.errors import UserError


class WrongScale(torch.autograd.Function):
    """x * weight, with a backward that multiplies the gradient of the weight by `factor`."""

    @staticmethod
    def forward(context, x, weight, factor):
        context.save_for_backward(x, weight)
        context.factor = factor
        return x * weight

    @staticmethod
    def backward(context, gradient):
        x, weight = context.saved_tensors
        return gradient * weight, context.factor * (gradient * x).sum(0), None


class Wrong(Classifier):
    def __init__(self) -> None:
        super().__init__(dropout=0.3)
        self.scale = nn.Parameter(torch.rand(128) + 0.5)

    def features(self, images):
        return WrongScale.apply(super().features(images), self.scale, 2.0)


def test_gradients_of_a_correct_module_pass(capsys):
    module = Classifier(dropout=0.3)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    checks = debug.check_gradients(module, first_batch())
    assert {check.parameter for check in checks} == {name for name, _ in module.named_parameters()}
    assert checks == sorted(checks, key=lambda check: -check.relative_error)
    assert checks[0].relative_error < 1e-4
    assert any(abs(check.autograd) > 0.01 for check in checks), "gradients of 0 would agree without any check"
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    debug.print_gradients(checks)
    assert f"worst is {checks[0].parameter}" in capsys.readouterr().out


def test_gradients_are_the_same_every_time():
    module, batch = Classifier(dropout=0.3), first_batch()
    first = debug.check_gradients(module, batch)
    torch.rand(7)
    assert debug.check_gradients(module, batch) == first


def test_gradients_name_exactly_the_wrong_parameter():
    checks = debug.check_gradients(Wrong(), first_batch())
    assert [check.parameter for check in checks if check.relative_error > 1e-4] == ["scale"]
    assert checks[0].autograd == pytest.approx(2 * checks[0].numerical, rel=1e-4)
    with pytest.raises(UserError, match="the gradient of scale is wrong: autograd says"):
        debug.print_gradients(checks)


def test_gradients_before_a_matrix_of_zeros_are_checked():
    module = Wrong()
    nn.init.zeros_(module.head.weight)
    checks = debug.check_gradients(module, first_batch())
    assert [check.parameter for check in checks if check.relative_error > 1e-4] == ["scale"]
    assert not module.head.weight.any(), "the module itself is unchanged"


def test_gradients_of_detached_parameters_are_wrong():
    checks = debug.check_gradients(Detached(), first_batch())
    assert all(check.autograd == 0 for check in checks)
    wrong = {check.parameter for check in checks if check.relative_error > 1e-4}
    assert wrong == {name for name, _ in Detached().named_parameters()}
    checks = debug.check_gradients(FrozenBody(), first_batch())
    wrong = {check.parameter for check in checks if check.relative_error > 1e-4}
    assert wrong == {"conv.weight", "norm.weight", "norm.bias"}


class Awkward(Classifier):
    """Bias in front of batch normalization (gradient 0), unused parameter, frozen parameter, noise of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=True)
        self.unused = nn.Parameter(torch.ones(3))
        self.head.bias.requires_grad_(False)

    def features(self, images):
        return super().features(images) + self.pool(self.norm(torch.randn(len(images), 8, 8, 8))).flatten(1)


def test_gradients_that_are_zero_on_both_sides_pass():
    checks = {check.parameter: check for check in debug.check_gradients(Awkward(), first_batch())}
    assert "head.bias" not in checks
    assert checks["unused"].relative_error == 0
    assert abs(checks["conv.bias"].autograd) < 1e-9
    debug.print_gradients(list(checks.values()))


class Kinked(Classifier):
    """ReLU of parameters at its kink, or closer to it than the first step is long."""

    def __init__(self, distances: list[float]) -> None:
        super().__init__()
        self.near = nn.Parameter(torch.tensor(distances))

    def compute_loss(self, batch):
        return super().compute_loss(batch) + F.relu(self.near).sum()


@pytest.mark.parametrize(
    "distances", [[0.0, 0.0], [1e-10], [5e-8, -5e-8, 6e-8]], ids=["at the kink", "half a step", "a shorter step"]
)
def test_gradients_at_kinks_pass(distances):
    checks = debug.check_gradients(Kinked(distances), first_batch())
    assert "near" in [check.parameter for check in checks]
    assert checks[0].relative_error < 1e-4


class Spectral(Classifier):
    """Spectral norm, whose power iteration takes a step in each forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = spectral_norm(self.conv), spectral_norm(self.head)


def test_gradients_through_spectral_norm_pass():
    assert debug.check_gradients(Spectral(), first_batch())[0].relative_error < 1e-4


class Negated(torch.autograd.Function):
    """Identity, with a backward of the wrong sign."""

    forward = staticmethod(lambda context, x: x.clone())
    backward = staticmethod(lambda context, gradient: -gradient)


FAULTS = {
    "1 % too large": lambda x, weight: WrongScale.apply(x, weight, 1.01),
    "1 % too small": lambda x, weight: WrongScale.apply(x, weight, 0.99),
    "detached branch": lambda x, weight: x * weight + 0.1 * x.detach() * weight,
    "wrong sign": lambda x, weight: Negated.apply(x) * weight,
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("base", [Classifier, Spectral], ids=["plain", "spectral norm"])
def test_gradients_with_a_planted_fault_are_wrong_also_where_the_loss_has_kinks(base, fault):
    class Faulty(base):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.rand(128) + 0.5)
            self.near = nn.Parameter(torch.zeros(128))

        def features(self, images):
            return FAULTS[fault](super().features(images), self.scale) + F.relu(self.near)

    checks = debug.check_gradients(Faulty(), first_batch())
    wrong = {check.parameter for check in checks if check.relative_error > 1e-4}
    behind = {name for name, _ in base().named_parameters() if not name.startswith("head")}
    assert wrong == ({"scale"} if "too" in fault else behind)
    with pytest.raises(UserError, match="is wrong"):
        debug.print_gradients(checks)


class Grid(Classifier):
    """Loss over (4, 4, ...) samples of which the first dimension is a step, the second an environment."""

    def compute_loss(self, batch):
        steps, last = batch
        return super().compute_loss((torch.cat([steps, last[None]]).flatten(0, 1), torch.arange(len(steps) * 5 + 5) % 4))


def test_gradients_of_a_batch_that_cannot_be_cut_are_those_of_all_of_it():
    images = torch.randint(0, 256, (5, 5, 3, 8, 8), dtype=torch.uint8)
    checks = debug.check_gradients(Grid(), (images, images[0]))
    assert checks[0].relative_error < 1e-4 and max(abs(check.autograd) for check in checks) > 0.01


class Empty(Classifier):
    """Mean over the samples beyond the fourth."""

    def compute_loss(self, batch):
        return super().compute_loss((batch[0][4:], batch[1][4:]))


def test_gradients_of_a_loss_that_is_not_finite_are_an_error():
    assert debug.check_gradients(Empty(), first_batch())[0].relative_error < 1e-4, "all samples have a loss"
    with pytest.raises(UserError, match="the loss of the first batch is nan"):
        debug.check_gradients(Diverging(), first_batch())

    class Root(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.zero = nn.Parameter(torch.zeros(1))

        def compute_loss(self, batch):
            return super().compute_loss(batch) + self.zero.square().sqrt().sum()

    with pytest.raises(UserError, match="the gradient of zero is not finite"):
        debug.print_gradients(debug.check_gradients(Root(), first_batch()))


def test_gradients_need_a_float64_loss_and_a_trainable_parameter():
    class Rounding(Classifier):
        def compute_loss(self, batch):
            return super().compute_loss(batch).float()

    with pytest.raises(UserError, match=r"torch\.float32"):
        debug.check_gradients(Rounding(), first_batch())
    with pytest.raises(UserError, match="no parameter is trainable"):
        debug.print_gradients(debug.check_gradients(Classifier().requires_grad_(False), first_batch()))


class Pair(NamedTuple):
    left: Tensor
    right: Tensor


@dataclass
class Sample:
    images: Tensor
    pair: Pair
    name: str


def test_tiny_batches_keep_their_structure():
    pair = Pair(torch.rand(9, 2), torch.arange(9))
    batch = {"sample": Sample(torch.zeros(9, 3, dtype=torch.uint8), pair, "x"), "rest": [torch.rand(7), 3]}
    tiny = tiny_double_batch(batch)
    sample, (weights, number) = tiny["sample"], tiny["rest"]
    assert isinstance(sample, Sample) and isinstance(sample.pair, Pair)
    assert (sample.images.dtype, tuple(sample.images.shape), sample.name) == (torch.uint8, (4, 3), "x")
    assert (sample.pair.left.dtype, tuple(sample.pair.left.shape)) == (torch.float64, (4, 2))
    assert torch.equal(sample.pair.right, torch.arange(4))
    assert (weights.dtype, tuple(weights.shape), number) == (torch.float64, (7,), 3)
    assert len(batch["sample"].images) == 9, "the batch itself stays whole"
