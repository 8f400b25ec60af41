"""Temperature scaling against a grid of temperatures."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from common.nn.calibration import fit_temperature


@pytest.mark.parametrize("scale", [0.3, 1.0, 12.0])
def test_temperature_scaling_has_the_least_loss_of_a_grid(scale):
    truth = torch.randn(2000, 3)
    labels = torch.multinomial(truth.softmax(1), 1).squeeze(1)
    logits = scale * truth
    found = float(fit_temperature(logits, labels))
    grid = scale * torch.logspace(-0.5, 0.5, 301)
    losses = torch.stack([F.cross_entropy(logits.double() / t, labels) for t in grid])
    best = float(grid[losses.argmin()])
    assert found == pytest.approx(best, rel=0.005) and found == pytest.approx(scale, rel=0.15)


def test_worthless_confidence_has_the_highest_temperature():
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    assert fit_temperature(logits, torch.tensor([1, 0, 1])) == 100


def test_no_mistakes_leave_the_temperature_at_one():
    assert fit_temperature(torch.eye(3), torch.arange(3)) == 1
    assert fit_temperature(torch.empty(0, 2), torch.empty(0, dtype=torch.long)) == 1
