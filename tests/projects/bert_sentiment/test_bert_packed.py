"""Packed layers compute what plain ones do, and leave the network that they were made from as it is."""

import pytest
import torch
from torch import nn

from projects.bert_sentiment.packed import PackedLinear, packed


@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 5), (1, 5)])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_a_packed_layer_is_the_plain_one(shape, bias):
    plain, x = nn.Linear(5, 9, bias), torch.randn(shape)
    torch.testing.assert_close(PackedLinear(plain)(x), plain(x))


@torch.no_grad()
def test_a_packed_network_is_a_copy_that_shares_what_is_not_linear():
    net = nn.Sequential(
        nn.Linear(4, 8), nn.LayerNorm(8), nn.Sequential(nn.ReLU(), nn.Linear(8, 2)), nn.Linear(2, 2).double()
    )
    twin, x = packed(net[:3]), torch.randn(3, 4)
    assert [type(part) for part in (twin[0], twin[2][1])] == [PackedLinear] * 2
    assert type(net[0]) is nn.Linear and twin[1].weight is net[1].weight
    torch.testing.assert_close(twin(x), net[:3](x))
    assert type(packed(net)[3]) is nn.Linear, "only float32 is packed"


def test_without_onednn_nothing_is_packed(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    net = nn.Sequential(nn.Linear(4, 8))
    assert packed(net) is net
