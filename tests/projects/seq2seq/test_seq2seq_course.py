"""The networks' layers equal the course's solutions, forward and gradient."""

import pytest
import torch
from seq2seq_reference import assert_equal_with_gradients
from torch import nn
from torch.func import functional_call

from foundations.imports import exercise_imports, import_answer
from projects.seq2seq.config import TransformerConfig
from projects.seq2seq.networks import padding_mask
from projects.seq2seq.recurrent import RecurrentCell
from projects.seq2seq.transformer import (
    DecoderLayer,
    EncoderLayer,
    MultiHeadAttention,
    additive_mask,
    sinusoidal_embedding,
)

pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.fixture
def course():
    """Module of a solution of the course, by its exercise's name; the course checks each against PyTorch."""
    with exercise_imports({}):
        yield import_answer


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_the_fast_cell_equals_the_courses(course, kind):
    cell = RecurrentCell(kind, 5, 7)
    x = torch.randn(3, 5, requires_grad=True)
    state = tuple(torch.randn(3, 7, requires_grad=True) for _ in range(2 if kind == "lstm" else 1))
    weights = (cell.ih.weight, cell.hh.weight, cell.ih.bias, cell.hh.bias)
    simple = getattr(course("lstm_gru"), f"{kind}_cell")

    def theirs():
        new = simple(x, *state, *weights)
        return torch.stack(new) if kind == "lstm" else new[None]

    assert_equal_with_gradients(lambda: torch.stack(cell(cell.ih(x), state)), theirs, [x, *state, *weights])


def attention_weights(attention, prefix=""):
    """Weights of an attention by the names of the course and of PyTorch."""
    return {
        f"{prefix}in_proj_weight": torch.cat([attention.q_proj.weight, attention.kv_proj.weight]),
        f"{prefix}in_proj_bias": torch.cat([attention.q_proj.bias, attention.kv_proj.bias]),
        f"{prefix}out_proj.weight": attention.out_proj.weight,
        f"{prefix}out_proj.bias": attention.out_proj.bias,
    }


def layer_weights(layer):
    """Weights of an encoder or decoder layer by the names of the course and of PyTorch."""
    weights = attention_weights(layer.self_attn, "self_attn.")
    modules = {
        "linear1": layer.feed_forward[0],
        "linear2": layer.feed_forward[2],
        "norm1": layer.norm1,
        "norm2": layer.norm2,
    }
    if isinstance(layer, DecoderLayer):
        weights |= attention_weights(layer.cross_attn, "multihead_attn.")
        modules["norm3"] = layer.norm3
    for name, module in modules.items():
        weights |= {f"{name}.weight": module.weight, f"{name}.bias": module.bias}
    return weights


def random_weights(layer):
    """`layer` with no weight as it begins, so that each has a part in the result."""
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


def test_multi_head_attention_equals_the_courses(course):
    layer = random_weights(MultiHeadAttention(12, 3))
    theirs = course("multihead_attention").MultiheadAttention(12, 3)
    x, memory = torch.randn(2, 4, 12, requires_grad=True), torch.randn(2, 6, 12, requires_grad=True)
    mask = padding_mask(torch.tensor([3, 6]), 6)
    assert_equal_with_gradients(
        lambda: layer(x, *layer.project_kv(memory), additive_mask(mask)[:, None, None])[0],
        lambda: functional_call(theirs, attention_weights(layer), (x, memory, memory, ~mask)),
        [x, memory, *layer.parameters()],
    )


@pytest.mark.parametrize("norm_first", [True, False])
def test_encoder_layer_equals_the_courses(course, norm_first):
    layer = random_weights(EncoderLayer(TransformerConfig(d_model=12, ff_dim=5, num_heads=3, norm_first=norm_first)).eval())
    theirs = course("encoder_layer").EncoderLayer(12, 3, 5, norm_first=norm_first)
    x, mask = torch.randn(2, 4, 12, requires_grad=True), padding_mask(torch.tensor([3, 4]), 4)
    assert_equal_with_gradients(
        lambda: layer(x, additive_mask(mask)[:, None, None], None),
        lambda: functional_call(theirs, layer_weights(layer), (x, ~mask)),
        [x, *layer.parameters()],
    )


@pytest.mark.parametrize("norm_first", [True, False])
def test_decoder_layer_equals_the_courses(course, norm_first):
    layer = random_weights(DecoderLayer(TransformerConfig(d_model=12, ff_dim=5, num_heads=3, norm_first=norm_first)).eval())
    theirs = course("decoder_layer").DecoderLayer(12, 3, 5, norm_first=norm_first)
    x, memory = torch.randn(2, 4, 12, requires_grad=True), torch.randn(2, 6, 12, requires_grad=True)
    mask = padding_mask(torch.tensor([3, 6]), 6)
    causal = additive_mask(torch.ones(1, 1, 4, 4, dtype=torch.bool).tril())
    assert_equal_with_gradients(
        lambda: layer(x, causal, layer.cross_attn.project_kv(memory), additive_mask(mask)[:, None, None], None)[0],
        lambda: functional_call(theirs, layer_weights(layer), (x, memory, ~mask)),
        [x, memory, *layer.parameters()],
    )


def test_sinusoidal_embedding_equals_the_courses(course):
    expected = course("positional_encoding").sinusoids(50, 12).double()
    torch.testing.assert_close(sinusoidal_embedding(50, 12), expected, rtol=0, atol=1e-5)
