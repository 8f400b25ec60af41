"""Both networks: all steps at once equal one at a time, padding and future are invisible, and PyTorch agrees."""

import functools
from collections import Counter

import pytest
import torch
from torch import nn

from common.nn.dropout import Dropout
from projects.seq2seq.config import PAD, RecurrentConfig, TransformerConfig
from projects.seq2seq.hypotheses import map_tensors, take_hypotheses
from projects.seq2seq.networks import padding_mask
from projects.seq2seq.recurrent import RecurrentModel
from projects.seq2seq.transformer import TransformerModel, apply_rotary_emb, rotary_freqs, sinusoidal_embedding

VOCABULARY = 20

pytestmark = pytest.mark.usefixtures("double_precision")


def recurrent(tie="all", **options):
    return RecurrentModel((VOCABULARY, VOCABULARY), RecurrentConfig(embed_dim=6, hidden_dim=8, **options), tie)


def transformer(**options):
    config = TransformerConfig(d_model=8, ff_dim=12, num_heads=2, num_layers=2, **options)
    return TransformerModel((VOCABULARY, VOCABULARY), config)


NETWORKS = {
    "lstm": lambda: recurrent(),
    "gru, two layers": lambda: recurrent(cell="gru", num_layers=2),
    "additive": lambda: recurrent(attention="additive"),
    "no input feeding": lambda: recurrent(input_feeding=False),
    "no input feeding, additive, two layers": lambda: recurrent(input_feeding=False, attention="additive", num_layers=2),
    "untied": lambda: recurrent(tie="none"),
    "pre-norm": lambda: transformer(),
    "post-norm": lambda: transformer(norm_first=False),
    "rotary": lambda: transformer(position_embedding="rotary"),
}


def moved(net):
    """`net`, away from where training begins: no weight is zero, so that each has a part in the result."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


@pytest.fixture(params=NETWORKS)
def net(request):
    return moved(NETWORKS[request.param]()).eval()


def sentences(batch=3, source_time=5, target_time=6):
    source = torch.randint(4, VOCABULARY, (batch, source_time))
    lengths = torch.tensor([source_time, 2, 3])[:batch]
    source[~padding_mask(lengths, source_time)] = PAD
    return source, lengths, torch.randint(4, VOCABULARY, (batch, target_time))


def test_all_steps_at_once_equal_one_step_at_a_time(net):
    source, lengths, target = sentences()
    at_once = net.output_layer(net(source, lengths, target))  # (batch, time, vocabulary)
    memory = net.encode(source, lengths)
    state = net.init_state(memory, 2)
    for step in range(target.shape[1]):
        other = torch.randint(4, VOCABULARY, (len(target),))  # a second hypothesis must not disturb the first
        logits, state, attention = net.decode_step(torch.stack([target[:, step], other], 1), state, memory)
        torch.testing.assert_close(logits[:, 0], at_once[:, step])
        torch.testing.assert_close(attention.sum(-1), torch.ones(3, 2))
        assert (attention[1, :, 2:] == 0).all(), "padding was attended to"


def test_hypotheses_may_be_reordered_dropped_and_repeated_between_steps(net):
    source, lengths, _ = sentences()
    memory, beams = net.encode(source, lengths), 3
    state, histories = net.init_state(memory, beams), torch.zeros(3, beams, 0, dtype=torch.int64)
    for _ in range(12):  # more than a cache starts with
        tokens = torch.randint(4, VOCABULARY, (3, beams))
        histories = torch.cat([histories, tokens[:, :, None]], 2)
        logits, state, _ = net.decode_step(tokens, state, memory)
        for beam in range(beams):
            torch.testing.assert_close(logits[:, beam], net.output_layer(net(source, lengths, histories[:, beam]))[:, -1])
        parents = torch.randint(0, beams, (3, beams))
        take = functools.partial(take_hypotheses, parents=parents)
        state, histories = map_tensors(take, (state, histories), hypotheses=True)


def test_the_cache_of_a_transformer_forgets_what_no_hypothesis_has_any_more():
    net, beams, steps = transformer().eval(), 4, 40
    source, lengths, _ = sentences()
    memory = net.encode(source, lengths)
    state = net.init_state(memory, beams)
    for _ in range(steps):
        _, state, _ = net.decode_step(torch.randint(4, VOCABULARY, (3, beams)), state, memory)
        state = state.map_hypotheses(functools.partial(take_hypotheses, parents=torch.zeros(3, beams, dtype=torch.int64)))
    assert state.slot_mask.sum(2).eq(steps).all()  # each hypothesis has a position of every step ...
    assert (
        state.caches[0][0].shape[2] < steps + 10 * beams < steps * beams
    )  # ... and those of the dead are not kept for long


@pytest.mark.parametrize(
    ("make", "calls"),
    [
        (lambda: recurrent(dropout=0.3), 4),  # both embeddings, encoder states, attentional hidden states
        (lambda: recurrent(dropout=0.3, num_layers=2, input_feeding=False), 4 + 6),  # between the layers, in each step
        (lambda: transformer(dropout=0.3), 2 + 2 * 2 + 2 * 3),  # both embeddings, each sublayer
        (lambda: transformer(dropout=0.3, norm_first=False), 2 + 2 * 2 + 2 * 3),
    ],
    ids=["one layer", "two layers", "pre-norm", "post-norm"],
)
def test_dropout_acts_in_every_place(monkeypatch, make, calls):
    net, inputs = moved(make()).train(), sentences()
    if isinstance(net, RecurrentModel):
        assert net.encoder.dropout == (0.3 if net.encoder.num_layers > 1 else 0)
        net.encoder.dropout = 0.0
    assert {layer.p for layer in net.modules() if isinstance(layer, nn.Dropout)} == {0.3}
    count, dropped = 0, -1

    def forward(self, x):
        nonlocal count
        count += 1
        return torch.zeros_like(x) if count == dropped else x

    monkeypatch.setattr(Dropout, "forward", forward)
    plain = net(*inputs)
    assert count == calls
    for dropped in range(1, calls + 1):
        count = 0
        assert not torch.equal(net(*inputs), plain), f"dropout {dropped} of {calls} changes nothing"


def test_padding_changes_nothing(net):
    source, lengths, target = sentences()
    alone = net(source[1:2, :2], lengths[1:2], target[1:2])
    padded = net(torch.cat([source, torch.full((3, 4), PAD)], 1), lengths, target)
    torch.testing.assert_close(padded[1:2], alone)


def test_attention_is_causal(net):
    source, lengths, target = sentences()
    before = net(source, lengths, target)
    target[:, 4] = (target[:, 4] + 1 - 4) % (VOCABULARY - 4) + 4
    after = net(source, lengths, target)
    torch.testing.assert_close(before[:, :4], after[:, :4], rtol=0, atol=0)
    assert not torch.equal(before[:, 4], after[:, 4])


def test_every_parameter_gets_a_gradient(net):
    net.output_layer(net(*sentences())).logsumexp(-1).sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_encoder_reads_each_sentence_as_if_alone():
    net = recurrent().eval()
    source, lengths, _ = sentences()
    memory = net.encode(source, lengths)
    for row, length in enumerate(lengths.tolist()):
        x = net.source_embedding(source[row : row + 1, :length]) * 6**0.5
        torch.testing.assert_close(memory.values[row, :length], net.encoder(x)[0][0])


def test_without_teacher_forcing_inputs_are_the_own_predictions():
    net = recurrent().eval()
    source, lengths, target = sentences()
    outputs = net.output_layer(net(source, lengths, target, teacher_forcing=0.0))
    memory = net.encode(source, lengths)
    state, tokens = net.init_state(memory), target[:, :1]
    for step in range(target.shape[1]):
        logits, state, _ = net.decode_step(tokens, state, memory)
        torch.testing.assert_close(outputs[:, step], logits[:, 0])
        tokens = logits.argmax(-1)


def test_without_teacher_forcing_and_input_feeding_inputs_are_the_own_predictions():
    net = recurrent(input_feeding=False).eval()
    source, lengths, target = sentences()
    predicted = net.output_layer(net(source, lengths, target, teacher_forcing=0.0))
    again = net.output_layer(net(source, lengths, torch.cat([target[:, :1], predicted.argmax(-1)[:, :-1]], 1)))
    torch.testing.assert_close(predicted, again)


def copy_linear(ours, theirs):
    theirs.weight.data.copy_(ours.weight)
    theirs.bias.data.copy_(ours.bias)


def copy_attention(ours, theirs):
    theirs.in_proj_weight.data.copy_(torch.cat([ours.q_proj.weight, ours.kv_proj.weight]))
    theirs.in_proj_bias.data.copy_(torch.cat([ours.q_proj.bias, ours.kv_proj.bias]))
    copy_linear(ours.out_proj, theirs.out_proj)


@pytest.mark.parametrize("norm_first", [True, False])
def test_the_transformer_equals_torchs(norm_first):
    net = moved(transformer(norm_first=norm_first)).eval()
    theirs = nn.Transformer(8, 2, 2, 2, 12, 0.0, batch_first=True, norm_first=norm_first).eval()
    if not norm_first:
        theirs.encoder.norm = theirs.decoder.norm = None
    else:
        copy_linear(net.encoder_norm, theirs.encoder.norm)
        copy_linear(net.decoder_norm, theirs.decoder.norm)
    for a, b in zip(net.encoder, theirs.encoder.layers, strict=True):
        copy_attention(a.self_attn, b.self_attn)
        copy_linear(a.norm1, b.norm1)
        copy_linear(a.norm2, b.norm2)
        copy_linear(a.feed_forward[0], b.linear1)
        copy_linear(a.feed_forward[2], b.linear2)
    for a, b in zip(net.decoder, theirs.decoder.layers, strict=True):
        copy_attention(a.self_attn, b.self_attn)
        copy_attention(a.cross_attn, b.multihead_attn)
        copy_linear(a.norm1, b.norm1)
        copy_linear(a.norm2, b.norm2)
        copy_linear(a.norm3, b.norm3)
        copy_linear(a.feed_forward[0], b.linear1)
        copy_linear(a.feed_forward[2], b.linear2)

    source, lengths, target = sentences()
    padding = ~padding_mask(lengths, source.shape[1])
    weight = net.target_embedding.weight

    def embedded(tokens):
        return weight[tokens] * 8**0.5 + sinusoidal_embedding(tokens.shape[1], 8)

    mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
    expected = theirs(
        embedded(source), embedded(target), tgt_mask=mask, src_key_padding_mask=padding, memory_key_padding_mask=padding
    )
    actual = net(source, lengths, target)
    torch.testing.assert_close(actual, expected)
    direction = torch.randn_like(actual)
    torch.testing.assert_close(
        torch.autograd.grad((actual * direction).sum(), weight), torch.autograd.grad((expected * direction).sum(), weight)
    )


def dropped_out(net):
    """Shapes that the network's dropouts have seen in a training pass, with how often."""
    seen = Counter()
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(lambda module, inputs, output: seen.update([(module.p, *output.shape)]))
    net.train()(*sentences())
    return seen


@pytest.mark.parametrize("input_feeding", [True, False])
def test_recurrent_network_drops_out_in_every_place(input_feeding):
    net = recurrent(num_layers=2, dropout=0.25, input_feeding=input_feeding)
    assert net.encoder.dropout == 0.25, "between its layers"
    source, states, cells = (3, 5, 6), (3, 5, 8), (3, 1, 8)
    embeddings_and_outputs = (3, 6, 6)
    expected = {source: 1, states: 1, embeddings_and_outputs: 2, cells: 6}
    assert dropped_out(net) == {(0.25, *shape): count for shape, count in expected.items()}


def test_transformer_drops_out_embeddings_and_the_output_of_every_sublayer():
    net = transformer(dropout=0.25)
    # source: embeddings and two sublayers in each of two layers; target: embeddings and three sublayers
    assert dropped_out(net) == {(0.25, 3, 5, 8): 1 + 2 * 2, (0.25, 3, 6, 8): 1 + 2 * 3}


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_attention_to_plot_is_that_of_the_last_layer_but_one(num_layers):
    config = TransformerConfig(d_model=8, ff_dim=12, num_heads=2, num_layers=num_layers)
    net, weights = moved(TransformerModel((VOCABULARY, VOCABULARY), config)).eval(), []
    for layer in net.decoder:
        layer.register_forward_hook(lambda layer, inputs, output: weights.append(output[1]))
    source, lengths, target = sentences()
    with torch.no_grad():
        memory = net.encode(source, lengths)
        _, _, attention = net.decode_step(target[:, :1], net.init_state(memory), memory)
    torch.testing.assert_close(attention, weights[max(0, num_layers - 2)].mean(1), rtol=0, atol=0)
    assert len({float(each.sum(1)[0, 0, 0]) for each in weights}) == num_layers, "a poor test: layers attend alike"


def test_a_layer_starts_as_the_identity():
    net, x = transformer().eval(), torch.randn(3, 5, 8)
    for layer in net.encoder:
        torch.testing.assert_close(layer(x, torch.zeros(1, 1, 1, 5), None), x)
    source, lengths, _ = sentences()
    memory = net.encode(source, lengths)
    for layer, layer_memory in zip(net.decoder, memory.layers, strict=True):
        torch.testing.assert_close(layer(x, torch.zeros(1, 1, 5, 5), layer_memory, memory.attn_mask, None)[0], x)


def test_sinusoidal_embedding_by_hand():
    expected = torch.tensor([[0.0, 1, 0, 1], [0.841471, 0.540302, 0.0099998, 0.99995]])
    torch.testing.assert_close(sinusoidal_embedding(2, 4), expected, atol=1e-6, rtol=0)


@pytest.fixture
def bfloat16():
    torch.set_default_dtype(torch.bfloat16)  # as under --precision bf16-true
    yield
    torch.set_default_dtype(torch.float64)


def test_positions_are_right_where_the_network_is_in_bfloat16(bfloat16):
    time, dim = 1001, 16
    angles = 1000 * 10000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    expected = torch.stack([angles.sin(), angles.cos()], -1)
    torch.testing.assert_close(sinusoidal_embedding(time, dim)[-1].double(), expected.flatten(), rtol=0, atol=1e-3)
    torch.testing.assert_close(
        torch.view_as_real(rotary_freqs(time, dim)[-1]).double(), expected.flip(-1), rtol=0, atol=1e-3
    )


@pytest.mark.parametrize("position_embedding", ["sinusoidal", "rotary"])
def test_a_transformer_in_bfloat16_is_nearly_that_in_float64(position_embedding, bfloat16):
    torch.set_default_dtype(torch.float64)
    net = moved(transformer(position_embedding=position_embedding)).eval()
    source, lengths, target = sentences()
    with torch.no_grad():
        exact = net(source, lengths, target)
        net.bfloat16()
        for dtype in (torch.bfloat16, torch.float32):  # inside of a training step, and outside, as a callback is
            torch.set_default_dtype(dtype)
            found = net(source, lengths, target)
            assert found.dtype is torch.bfloat16
            torch.testing.assert_close(found.double(), exact, rtol=0, atol=0.15)
            memory = net.encode(source, lengths)
            logits, _, _ = net.decode_step(target[:, :1], net.init_state(memory), memory)
            torch.testing.assert_close(logits[:, 0], net.output_layer(found)[:, 0], rtol=0, atol=0.15)


def test_rotary_embedding_equals_that_of_transformers():
    from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb, create_sinusoidal_positions

    x = torch.randn(3, 2, 7, 8)  # (batch, heads, time, dim)
    sines, cosines = create_sinusoidal_positions(7, 8).double().chunk(2, -1)  # which are in single precision
    expected = apply_rotary_pos_emb(x.transpose(1, 2), sines[None], cosines[None]).transpose(1, 2)
    torch.testing.assert_close(apply_rotary_emb(x, rotary_freqs(7, 8)), expected, rtol=0, atol=1e-5)


def test_rotated_queries_and_keys_depend_on_their_distance_alone():
    query, key, freqs = torch.randn(8), torch.randn(8), rotary_freqs(9, 8)
    near, far = ((apply_rotary_emb(query, freqs) @ apply_rotary_emb(key, freqs).T).diagonal(offset) for offset in (1, 4))
    torch.testing.assert_close(near, near[:1].expand(8))
    torch.testing.assert_close(far, far[:1].expand(5))
    assert not torch.allclose(near[0], far[0])


def test_tying_shards_the_matrix():
    everything, target, nothing = (recurrent(tie=tie) for tie in ("all", "target", "none"))
    assert everything.source_embedding.weight is everything.target_embedding.weight is everything.output_layer.weight
    assert target.source_embedding.weight is not target.target_embedding.weight
    assert target.target_embedding.weight is target.output_layer.weight
    assert nothing.target_embedding.weight is not nothing.output_layer.weight
