"""The networks' layers equal those from first principles, and these equal PyTorch's, forward and gradient."""

import pytest
import seq2seq_reference as reference
import torch
import torch.nn.functional as F
from torch import nn

from projects.seq2seq.attention import Attention
from projects.seq2seq.networks import padding_mask
from projects.seq2seq.recurrent import RecurrentCell
from projects.seq2seq.transformer import MultiHeadAttention, additive_mask

pytestmark = pytest.mark.usefixtures("double_precision")


def assert_equal_with_gradients(ours, theirs, inputs):
    """The same value, and the same gradient with respect to every input, of two functions without arguments."""
    a, b = ours(), theirs()
    torch.testing.assert_close(a, b)
    direction = torch.randn_like(a)
    gradients = [torch.autograd.grad((x * direction).sum(), inputs) for x in (a, b)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_the_fast_cell_equals_the_courses_solution(kind):
    cell = RecurrentCell(kind, 5, 7)
    x = torch.randn(3, 5, requires_grad=True)
    state = tuple(torch.randn(3, 7, requires_grad=True) for _ in range(2 if kind == "lstm" else 1))
    weights = (cell.ih.weight, cell.hh.weight, cell.ih.bias, cell.hh.bias)
    simple = getattr(reference.solution("lstm_gru"), f"{kind}_cell")

    def theirs():
        new = simple(x, *state, *weights)
        return torch.stack(new) if kind == "lstm" else new[None]

    assert_equal_with_gradients(lambda: torch.stack(cell(cell.ih(x), state)), theirs, [x, *state, *weights])


def test_softmax_equals_torch_and_does_not_overflow():
    x = torch.randn(4, 6) * 1000
    torch.testing.assert_close(reference.softmax(x), x.softmax(-1))


def test_scaled_dot_product_attention_equals_torch():
    q, k, v = (torch.randn(2, 3, n, 8, requires_grad=True) for n in (4, 5, 5))
    mask = torch.rand(2, 1, 4, 5) < 0.7
    mask[..., 0] = True
    assert_equal_with_gradients(
        lambda: reference.scaled_dot_product_attention(q, k, v, mask)[0],
        lambda: F.scaled_dot_product_attention(q, k, v, mask),
        [q, k, v],
    )


@pytest.mark.parametrize("own", [True, False])
def test_multi_head_attention_equals_torch(own):
    layer = nn.MultiheadAttention(12, 3, batch_first=True)
    nn.init.normal_(layer.in_proj_bias)
    x = torch.randn(2, 4, 12, requires_grad=True)
    memory = x if own else torch.randn(2, 6, 12, requires_grad=True)
    padding = padding_mask(torch.tensor([3, memory.shape[1]]), memory.shape[1])
    weights = (layer.in_proj_weight, layer.in_proj_bias, layer.out_proj.weight, layer.out_proj.bias)
    inputs = [x, *weights] if own else [x, memory, *weights]
    assert_equal_with_gradients(
        lambda: reference.multi_head_attention(x, memory, *weights, heads=3, mask=padding[:, None, None]),
        lambda: layer(x, memory, memory, key_padding_mask=~padding, need_weights=False)[0],
        inputs,
    )


def test_the_fast_multi_head_attention_equals_the_reference():
    layer = MultiHeadAttention(12, 3)
    torch.nn.init.normal_(layer.out_proj.weight)  # which begins as zero
    x, memory = torch.randn(2, 4, 12, requires_grad=True), torch.randn(2, 6, 12, requires_grad=True)
    mask = padding_mask(torch.tensor([3, 6]), 6)[:, None, None]

    def theirs():
        w_in = torch.cat([layer.q_proj.weight, layer.kv_proj.weight])
        b_in = torch.cat([layer.q_proj.bias, layer.kv_proj.bias])
        return reference.multi_head_attention(x, memory, w_in, b_in, layer.out_proj.weight, layer.out_proj.bias, 3, mask)

    assert_equal_with_gradients(
        lambda: layer(x, *layer.project_kv(memory), additive_mask(mask))[0], theirs, [x, memory, *layer.parameters()]
    )


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
    assert_equal_with_gradients(lambda: layer(query, layer.key(values), values, mask)[1], theirs, inputs)


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
