"""Weight prepacking: prepacked layers compute what plain ones do, and leave the network they were made from as it is.

These tests fail if torch changes the private operators of oneDNN, `torch.ops.mkldnn._reorder_linear_weight` and
`_linear_pointwise`; without them, let `prepack_linear` return `net`: prediction is a fifth slower.
"""

import pytest
import torch
from torch import nn

from projects.bert_sentiment.prepacked_linear import PrepackedLinear, prepack_linear


@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 5), (1, 5)])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_a_prepacked_layer_is_the_plain_one(shape, bias):
    plain, x = nn.Linear(5, 9, bias), torch.randn(shape)
    torch.testing.assert_close(PrepackedLinear(plain)(x), plain(x))


@torch.no_grad()
def test_a_prepacked_network_is_a_copy_that_shares_what_is_not_linear():
    net = nn.Sequential(
        nn.Linear(4, 8), nn.LayerNorm(8), nn.Sequential(nn.ReLU(), nn.Linear(8, 2)), nn.Linear(2, 2).double()
    )
    prepacked, x = prepack_linear(net[:3]), torch.randn(3, 4)
    assert [type(part) for part in (prepacked[0], prepacked[2][1])] == [PrepackedLinear] * 2
    assert type(net[0]) is nn.Linear and prepacked[1].weight is net[1].weight
    torch.testing.assert_close(prepacked(x), net[:3](x))
    assert type(prepack_linear(net)[3]) is nn.Linear, "only float32 is prepacked"


def test_without_onednn_nothing_is_prepacked(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    net = nn.Sequential(nn.Linear(4, 8))
    assert prepack_linear(net) is net
