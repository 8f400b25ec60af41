"""The networks' layers equal those from first principles."""

import pytest
import seq2seq_reference as reference
import torch
import torch.nn.functional as F

from projects.seq2seq.attention import Attention
from projects.seq2seq.networks import padding_mask

pytestmark = pytest.mark.usefixtures("double_precision")


def test_softmax_equals_torch_and_does_not_overflow():
    x = torch.randn(4, 6) * 1000
    torch.testing.assert_close(reference.softmax(x), x.softmax(-1))


def test_additive_attention_equals_the_reference():
    layer = Attention("additive", 5, 7)
    query, values = torch.randn(2, 3, 5, requires_grad=True), torch.randn(2, 6, 7, requires_grad=True)
    lengths = torch.tensor([4, 6])
    mask = padding_mask(lengths, 6)

    def theirs():
        rows = []
        for b in range(2):
            for q in range(3):
                n = int(lengths[b])
                # the bias of the keys is added before tanh, as another input of the reference's sum would be
                keys = torch.cat([values[b, :n], torch.ones(n, 1)], 1)
                u = torch.cat([layer.key.weight, layer.key.bias[:, None]], 1)
                weights = reference.additive_attention(query[b, q], keys, layer.query.weight, u, layer.score.weight[0])
                rows.append(F.pad(weights, (0, 6 - n)))
        return torch.stack(rows).view(2, 3, 6)

    inputs = [query, values, *layer.parameters()]
    reference.assert_equal_with_gradients(lambda: layer(query, layer.key(values), values, mask)[1], theirs, inputs)


def test_multiplicative_attention_is_a_softmax_of_scaled_products():
    layer = Attention("multiplicative", 5, 7)
    query, values = torch.randn(2, 3, 5), torch.randn(2, 6, 7)
    mask = padding_mask(torch.tensor([4, 6]), 6)
    context, weights = layer(query, layer.key(values), values, mask)
    for b, n in enumerate((4, 6)):
        expected = reference.softmax(query[b] @ layer.key.weight @ values[b, :n].T / 5**0.5)
        torch.testing.assert_close(weights[b, :, :n], expected)
        torch.testing.assert_close(context[b], expected @ values[b, :n])
    assert (weights[0, :, 4:] == 0).all()
