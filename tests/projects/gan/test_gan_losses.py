"""Adversarial losses against torch's own and against loops; gradient penalties against gradients known in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from projects.gan.losses import (
    LOSSES,
    interpolate_samples,
    squared_gradient_norms,
    wgan_gp_penalty,
    zero_centered_gradient_penalty,
)
from projects.gan.metrics import discriminator_metrics

Reference = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def logits(n: int = 50) -> tuple[Tensor, Tensor]:
    return 2 * torch.randn(n, dtype=torch.double) + 1, 2 * torch.randn(n, dtype=torch.double)


def losses(name: str, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    return LOSSES[name].discriminator(real, fake), LOSSES[name].generator(real, fake)


def mean(values: list[float]) -> Tensor:
    return torch.tensor(math.fsum(values) / len(values), dtype=torch.double)


def torch_reference(loss: nn.Module, scale: float = 1.0) -> Reference:
    """Reference by one of torch's losses, with targets 1 for real and 0 for fake."""

    def of_logits(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        one, zero = torch.ones_like(real), torch.zeros_like(real)
        return scale * (loss(real, one) + loss(fake, zero)), scale * loss(fake, one)

    return of_logits


def loop_reference(of_pair: Callable[[float, float], float]) -> Reference:
    """Reference by a loop: the discriminator's loss of each pair of logits; the generator's is -fake."""

    def of_logits(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        pairs = zip(real.tolist(), fake.tolist(), strict=True)
        return mean([of_pair(r, f) for r, f in pairs]), mean([-f for f in fake.tolist()])

    return of_logits


def relativistic_reference(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    one = torch.ones_like(real)
    return nn.SoftMarginLoss()(real - fake, one), nn.SoftMarginLoss()(real - fake, -one)


# a new loss needs a line here: losses of (discriminator, generator) computed in another way
REFERENCES: dict[str, Reference] = {
    "non_saturating": torch_reference(nn.BCEWithLogitsLoss()),
    "hinge": loop_reference(lambda real, fake: max(0.0, 1 - real) + max(0.0, 1 + fake)),
    "least_squares": torch_reference(nn.MSELoss(), scale=0.5),
    "wasserstein": loop_reference(lambda real, fake: fake - real),
    "relativistic": relativistic_reference,
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_those_of_torch_or_of_loops(name):
    assert name in REFERENCES, f"{name}: add a reference to REFERENCES, computed in another way than the loss"
    real, fake = logits()
    torch.testing.assert_close(losses(name, real, fake), REFERENCES[name](real, fake))


@pytest.mark.parametrize("name", LOSSES)
def test_logits_of_any_size_give_finite_losses_and_gradients(name):
    real, fake = (torch.tensor([1e4, -1e4, 0.0]).requires_grad_() for _ in range(2))
    for loss in losses(name, real, fake.flip(0)):
        gradients = torch.autograd.grad(loss, [real, fake], retain_graph=True, allow_unused=True)
        assert loss.isfinite() and all(gradient.isfinite().all() for gradient in gradients if gradient is not None)


@pytest.mark.parametrize("name", LOSSES)
def test_a_generator_looks_at_real_logits_only_where_pairs_are_compared(name):
    real, fake = logits()
    same = torch.equal(LOSSES[name].generator(real, fake), LOSSES[name].generator(real + 1, fake))
    assert same != LOSSES[name].relativistic


@pytest.mark.parametrize("name", LOSSES)
def test_there_is_no_boundary_exactly_where_a_shift_of_all_logits_changes_nothing(name):
    real, fake = logits()
    before, after = LOSSES[name].discriminator(real, fake), LOSSES[name].discriminator(real + 5, fake + 5)
    assert bool(torch.isclose(before, after)) == (LOSSES[name].boundary is None)


@pytest.mark.parametrize("name", LOSSES)
def test_both_losses_fall_when_their_own_side_gains(name):
    real, fake = torch.zeros(4, requires_grad=True), torch.zeros(4, requires_grad=True)
    ours, theirs = losses(name, real, fake)
    up, down = torch.autograd.grad(ours, [real, fake])
    assert (up < 0).all() and (down >= 0).all()
    assert (torch.autograd.grad(theirs, fake)[0] < 0).all()


def test_penalties_of_a_linear_discriminator():
    w = torch.randn(3, 4, 4, dtype=torch.double)
    x = torch.randn(6, 3, 4, 4, dtype=torch.double, requires_grad=True)
    value, norm = (x * w).sum((1, 2, 3)), w.norm()
    torch.testing.assert_close(squared_gradient_norms(value, x)[0], (norm**2).expand(6))
    torch.testing.assert_close(zero_centered_gradient_penalty(squared_gradient_norms(value, x)[0]), norm**2 / 2)
    torch.testing.assert_close(wgan_gp_penalty(squared_gradient_norms(value, x)[0]), (norm - 1) ** 2)


def test_penalties_of_a_quadratic_discriminator():
    x = torch.randn(6, 5, dtype=torch.double, requires_grad=True)
    value, norms = x.square().sum(1) / 2, x.norm(dim=1)
    torch.testing.assert_close(squared_gradient_norms(value, x)[0], norms**2)
    torch.testing.assert_close(zero_centered_gradient_penalty(squared_gradient_norms(value, x)[0]), (norms**2).mean() / 2)
    torch.testing.assert_close(wgan_gp_penalty(squared_gradient_norms(value, x)[0]), (norms - 1).square().mean())


@pytest.mark.parametrize("penalty", [zero_centered_gradient_penalty, wgan_gp_penalty])
def test_gradients_of_penalties_in_the_weights_are_the_numerical_ones(penalty):
    x = torch.randn(4, 3, dtype=torch.double)
    shapes = [(5, 3), (5,), (1, 5), (1,)]
    weights = [torch.randn(*shape, dtype=torch.double, requires_grad=True) for shape in shapes]

    def of_weights(w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        samples = x.clone().requires_grad_()
        logits = F.linear(F.linear(samples, w1, b1).tanh(), w2, b2).squeeze(1)
        # the last bias has no part in any gradient; `0 *` gives it one all the same
        return penalty(*squared_gradient_norms(logits, samples)) + 0 * b2.sum()

    assert torch.autograd.gradcheck(of_weights, weights)


def test_a_flat_discriminator_has_finite_gradients_of_the_wgan_gp_penalty():
    w = torch.zeros(3, requires_grad=True)
    x = torch.randn(4, 3, requires_grad=True)
    loss = wgan_gp_penalty(squared_gradient_norms(x @ w, x)[0])
    loss.backward()
    assert loss.item() == pytest.approx(1, abs=1e-5) and w.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(2,), (3, 4, 4)])
def test_interpolation_goes_from_fake_to_real_with_each_sample_at_its_own_weight(shape):
    real, fake = torch.randn(5, *shape, dtype=torch.double), torch.randn(5, *shape, dtype=torch.double)
    assert torch.equal(interpolate_samples(real, fake, torch.zeros(5).double()), fake)
    assert torch.equal(interpolate_samples(real, fake, torch.ones(5).double()), real)
    weight = torch.rand(5, dtype=torch.double)
    expected = torch.stack([s * r + (1 - s) * f for r, f, s in zip(real, fake, weight.tolist(), strict=True)])
    torch.testing.assert_close(interpolate_samples(real, fake, weight), expected)


@pytest.mark.parametrize(
    "boundary, right_real, right_fake",
    [(0.0, 3 / 4, 2 / 4), (0.5, 2 / 4, 3 / 4), (None, 1 / 4, 3 / 4)],  # the middle of the means is 0.625
)
def test_discriminator_metrics_by_hand(boundary, right_real, right_fake):
    real, fake = torch.tensor([0.6, 4.0, 0.5, -0.1]), torch.tensor([0.0, -2.0, 0.5, 1.5])
    got = {name: value.item() for name, value in discriminator_metrics(real, fake, boundary).items()}
    expected = {"accuracy_real": right_real, "accuracy_fake": right_fake, "logit_gap": 1.25}
    assert got == pytest.approx(expected)
