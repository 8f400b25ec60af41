"""Fast dropout: its probability, its mean, replacement of torch's dropout."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from common.nn.dropout import Dropout, dropout_mask, replace_dropout


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5])
def test_a_dropout_mask_has_its_probability_and_mean_one(p):
    mask = dropout_mask((1000, 1003), p, torch.zeros(()))
    assert (mask == 0).double().mean().item() == pytest.approx(p, abs=1 / 512 + 3e-3)
    assert mask.mean().item() == pytest.approx(1, abs=5e-3)
    assert len(mask.unique()) == 2
    # neighbors come from one random integer, but are independent
    assert torch.corrcoef(torch.stack([mask.flatten()[:-1], mask.flatten()[1:]]))[0, 1].abs() < 5e-3


def test_dropout_samples_each_element_and_does_nothing_in_eval_mode():
    x = torch.ones(50, 9, 40)
    dropped = Dropout(0.5)(x)
    assert not (dropped == dropped[:, :1]).all()
    assert torch.equal(Dropout(0.5).eval()(x), x)


@pytest.mark.parametrize("p", [0.001, 0.999, 1.0])
def test_a_probability_that_256ths_cannot_express_is_kept(p):
    dropped = Dropout(p)(torch.ones(1000, 1000))
    assert (dropped == 0).double().mean().item() == pytest.approx(p, abs=3e-4)
    assert dropped.isfinite().all() and (p == 1 or dropped.mean().item() == pytest.approx(1, abs=0.15))


def test_every_dropout_of_torch_is_replaced_and_nothing_else():
    net = nn.Sequential(
        nn.Dropout(0.2), nn.ModuleDict({"deep": nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.4))}), nn.Dropout1d()
    )
    own = Dropout(0.3)
    net.append(own).eval()
    replace_dropout(net)
    assert [type(net[0]), type(net[1]["deep"][1]), type(net[2])] == [Dropout, Dropout, nn.Dropout1d]
    assert (net[0].p, net[1]["deep"][1].p, net[0].training) == (0.2, 0.4, False)
    assert net[3] is own
