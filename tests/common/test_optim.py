"""Newton-Schulz orthogonalization against singular value decompositions; gradient clipping against torch's; schedules."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import common.nn.optim
from common.nn.optim import clip_gradients, lr_factor, orthogonalize, warmup_schedule


def polynomial(s: Tensor | float, steps: int) -> Tensor | float:
    """Singular value after `steps` Newton-Schulz iterations."""
    for _ in range(steps):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return s


def with_singular_values(values: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """Matrix with these singular values, and its left (rows, n) and right (columns, n) singular vectors."""
    n = len(values)
    left, right = torch.linalg.qr(torch.randn(rows, n))[0], torch.linalg.qr(torch.randn(columns, n))[0]
    return left * values @ right.T, left, right


@pytest.mark.parametrize("rows, columns", [(12, 40), (40, 12), (16, 16)])
def test_orthogonalize_keeps_singular_vectors_and_brings_values_to_about_one(rows, columns):
    values = torch.linspace(1, 0.1, min(rows, columns))
    matrix, left, right = with_singular_values(5 * values, rows, columns)
    got = left.T @ orthogonalize(matrix, 3) @ right  # diagonal, if the singular vectors are the same
    assert got.dtype == torch.float32
    reached = got.diag()
    assert reached.min() > 0.66 and reached.max() < 1.23
    torch.testing.assert_close(reached, polynomial(values / values.norm(), 3), atol=0.03, rtol=0)
    assert (got - torch.diag(reached)).abs().max() < 0.03, "bfloat16 has three digits"
    untouched = left.T @ (matrix / matrix.norm()) @ right
    assert untouched.diag().max() < 0.5, "values that are one already would prove nothing"


@pytest.mark.parametrize("native", [True, False])
def test_orthogonalize_computes_in_bfloat16_only_where_that_is_native(monkeypatch, native):
    monkeypatch.setattr(common.nn.optim, "has_bfloat16", lambda kind: native)
    values = torch.linspace(1, 0.1, 12)
    matrix, left, right = with_singular_values(values, 12, 20)
    got = left.T @ orthogonalize(matrix, 3) @ right
    error = (got.diag() - polynomial(values / values.norm(), 3)).abs().max()
    assert (1e-4 < error < 0.03) if native else (error < 1e-5)


def test_orthogonalize_leaves_tiny_values_below_one():
    matrix, left, right = with_singular_values(torch.tensor([1.0, 0.01]), 6, 9)
    small = (left.T @ orthogonalize(matrix, 3) @ right)[1, 1]
    assert float(small) == pytest.approx(0.01 * 3.4445**3, abs=0.06)


def test_each_matrix_of_a_stack_is_orthogonalized_by_itself():
    stack = torch.randn(2, 3, 6, 4) * torch.tensor([1.0, 100.0]).view(2, 1, 1, 1)
    together = orthogonalize(stack)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(together[i, j], orthogonalize(stack[i, j]), atol=0.02, rtol=0)


@pytest.mark.parametrize("algorithm", [None, "norm", "value"])
def test_gradient_clipping_is_by_norm_or_by_value(algorithm):
    layers = [nn.Linear(3, 2), nn.Linear(3, 2)]
    layers[1].load_state_dict(layers[0].state_dict())
    for layer in layers:
        (100 * layer(torch.ones(1, 3))).square().sum().backward()
    untouched = layers[0].weight.grad.clone()
    clip_gradients(layers[0].parameters(), None, algorithm)
    assert torch.equal(layers[0].weight.grad, untouched)
    clip_gradients(layers[0].parameters(), 0.5, algorithm)
    reference = nn.utils.clip_grad_value_ if algorithm == "value" else nn.utils.clip_grad_norm_
    reference(layers[1].parameters(), 0.5)
    assert not torch.equal(layers[0].weight.grad, untouched)
    torch.testing.assert_close(layers[0].weight.grad, layers[1].weight.grad)


def test_schedules_of_all_capstones_by_hand():
    """Bitwise: the recipes' runs are to stay as they were measured."""
    for step in range(40):
        done = min(1.0, step / 30)
        assert lr_factor(step, 30, "linear") == 1 - done  # CIFAR-10, policy gradient
        assert lr_factor(step, 30, "cosine") == 0.5 * (1 + math.cos(math.pi * done))
        assert lr_factor(step, 30, "linear", constant_fraction=0.25) == max(0.0, min(1.0, (1 - step / 30) / 0.75))  # GAN
        assert lr_factor(step, 0, "constant") == 1
        warm = (step + 1) / 5 if step < 5 else 1 - min(1.0, (step - 5) / 25)  # seq2seq, BERT
        assert lr_factor(step, 30, "linear", 5) == warm
    with_warmup = [lr_factor(step, 30, "linear", 6, constant_fraction=0.25) for step in (0, 5, 6, 12, 18, 30)]
    assert with_warmup == pytest.approx([1 / 6, 1, 1, 1, 2 / 3, 0])


@pytest.mark.parametrize(
    "schedule, factors",
    [
        ("linear", [0.5, 1, 1, 0.75, 0.5, 0.25, 0]),
        ("cosine", [0.5, 1, 1, 0.853553, 0.5, 0.146447, 0]),
        ("inverse_sqrt", [0.5, 1, (2 / 3) ** 0.5, 0.5**0.5, (2 / 5) ** 0.5, (2 / 6) ** 0.5, (2 / 7) ** 0.5]),
    ],
)
def test_warmup_schedule_by_hand(schedule, factors):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = warmup_schedule(optimizer, steps=6, warmup_steps=2, schedule=schedule)["lr_scheduler"]["scheduler"]
    lrs = []
    for _ in factors:
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert lrs == pytest.approx([2 * factor for factor in factors], abs=1e-5)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "inverse_sqrt"])
def test_without_warmup_a_schedule_begins_at_its_peak_and_decays(schedule):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = warmup_schedule(optimizer, steps=6, warmup_steps=0, schedule=schedule)["lr_scheduler"]["scheduler"]
    lrs = []
    for _ in range(6):
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert lrs[0] == 2 and lrs[-1] > 0 and lrs == sorted(set(lrs), reverse=True)
