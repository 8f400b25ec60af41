"""Both translators: all steps at once equal one at a time, nothing sees the padding or the future, and PyTorch agrees."""

import functools

import pytest
import torch
from torch import nn

from projects.seq2seq.networks import (
    PAD,
    RecurrentTranslator,
    TransformerTranslator,
    padding_mask,
    sinusoids,
    turn,
    turns,
)
from projects.seq2seq.search import map_tensors, take_hypotheses

VOCABULARY = 20

pytestmark = pytest.mark.usefixtures("double_precision")


def recurrent(**options):
    return RecurrentTranslator((VOCABULARY, VOCABULARY), width=6, hidden=8, **options)


def transformer(**options):
    return TransformerTranslator((VOCABULARY, VOCABULARY), width=8, inner=12, heads=2, layers=2, **options)


NETWORKS = {
    "lstm": lambda: recurrent(),
    "gru, two layers": lambda: recurrent(cell="gru", layers=2),
    "additive": lambda: recurrent(attention="additive"),
    "no input feeding": lambda: recurrent(input_feeding=False),
    "no input feeding, additive, two layers": lambda: recurrent(input_feeding=False, attention="additive", layers=2),
    "untied": lambda: recurrent(tie="none"),
    "pre-norm": lambda: transformer(),
    "post-norm": lambda: transformer(pre_norm=False),
    "rotary": lambda: transformer(positions="rotary"),
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
    at_once = net.output(net(source, lengths, target))  # (batch, time, vocabulary)
    memory = net.encode(source, lengths)
    live = net.start(memory, 2)
    for step in range(target.shape[1]):
        other = torch.randint(4, VOCABULARY, (len(target),))  # a second hypothesis must not disturb the first
        logits, live, attention = net.step(torch.stack([target[:, step], other], 1), live, memory)
        torch.testing.assert_close(logits[:, 0], at_once[:, step])
        torch.testing.assert_close(attention.sum(-1), torch.ones(3, 2))
        assert (attention[1, :, 2:] == 0).all(), "padding was attended to"


def test_hypotheses_may_be_reordered_dropped_and_repeated_between_steps(net):
    source, lengths, _ = sentences()
    memory, beams = net.encode(source, lengths), 3
    live, histories = net.start(memory, beams), torch.zeros(3, beams, 0, dtype=torch.int64)
    for _ in range(25):  # more than a cache begins with
        tokens = torch.randint(4, VOCABULARY, (3, beams))
        histories = torch.cat([histories, tokens[:, :, None]], 2)
        logits, live, _ = net.step(tokens, live, memory)
        for beam in range(beams):
            torch.testing.assert_close(logits[:, beam], net.output(net(source, lengths, histories[:, beam]))[:, -1])
        parents = torch.randint(0, beams, (3, beams))
        take = functools.partial(take_hypotheses, parents=parents)
        live, histories = map_tensors(take, (live, histories), hypotheses=True)


def test_the_cache_of_a_transformer_forgets_what_no_hypothesis_has_any_more():
    net, beams, steps = transformer().eval(), 4, 40
    source, lengths, _ = sentences()
    memory = net.encode(source, lengths)
    live = net.start(memory, beams)
    for _ in range(steps):
        _, live, _ = net.step(torch.randint(4, VOCABULARY, (3, beams)), live, memory)
        live = live.map_hypotheses(functools.partial(take_hypotheses, parents=torch.zeros(3, beams, dtype=torch.int64)))
    assert live.own.sum(2).eq(steps).all()  # each hypothesis has a position of every step ...
    assert live.caches[0][0].shape[2] < steps + 10 * beams < steps * beams  # ... and those of the dead are not kept for long


def test_padding_changes_nothing(net):
    source, lengths, target = sentences()
    alone = net(source[1:2, :2], lengths[1:2], target[1:2])
    padded = net(torch.cat([source, torch.full((3, 4), PAD)], 1), lengths, target)
    torch.testing.assert_close(padded[1:2], alone)


def test_no_step_sees_the_future(net):
    source, lengths, target = sentences()
    before = net(source, lengths, target)
    target[:, 4] = (target[:, 4] + 1 - 4) % (VOCABULARY - 4) + 4
    after = net(source, lengths, target)
    torch.testing.assert_close(before[:, :4], after[:, :4], rtol=0, atol=0)
    assert not torch.equal(before[:, 4], after[:, 4])


def test_every_parameter_gets_a_gradient(net):
    net.output(net(*sentences())).logsumexp(-1).sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_encoder_reads_each_sentence_as_if_alone():
    net = recurrent().eval()
    source, lengths, _ = sentences()
    memory = net.encode(source, lengths)
    for row, length in enumerate(lengths.tolist()):
        x = net.source_embedding(source[row : row + 1, :length]) * 6**0.5
        torch.testing.assert_close(memory.values[row, :length], net.encoder(x)[0][0])


def test_without_teacher_forcing_the_model_reads_itself():
    net = recurrent().eval()
    source, lengths, target = sentences()
    outputs = net.output(net(source, lengths, target, teacher_forcing=0.0))
    memory = net.encode(source, lengths)
    live, tokens = net.start(memory), target[:, :1]
    for step in range(target.shape[1]):
        logits, live, _ = net.step(tokens, live, memory)
        torch.testing.assert_close(outputs[:, step], logits[:, 0])
        tokens = logits.argmax(-1)


def test_teacher_forcing_without_input_feeding_reads_itself_too():
    net = recurrent(input_feeding=False).eval()
    source, lengths, target = sentences()
    own = net.output(net(source, lengths, target, teacher_forcing=0.0))
    again = net.output(net(source, lengths, torch.cat([target[:, :1], own.argmax(-1)[:, :-1]], 1)))
    torch.testing.assert_close(own, again)


def copy_linear(ours, theirs):
    theirs.weight.data.copy_(ours.weight)
    theirs.bias.data.copy_(ours.bias)


def copy_attention(ours, theirs):
    theirs.in_proj_weight.data.copy_(torch.cat([ours.query.weight, ours.key_value.weight]))
    theirs.in_proj_bias.data.copy_(torch.cat([ours.query.bias, ours.key_value.bias]))
    copy_linear(ours.out, theirs.out_proj)


@pytest.mark.parametrize("pre_norm", [True, False])
def test_the_transformer_equals_torchs(pre_norm):
    net = moved(transformer(pre_norm=pre_norm)).eval()
    theirs = nn.Transformer(8, 2, 2, 2, 12, 0.0, batch_first=True, norm_first=pre_norm).eval()
    if not pre_norm:
        theirs.encoder.norm = theirs.decoder.norm = None
    else:
        copy_linear(net.encoder_norm, theirs.encoder.norm)
        copy_linear(net.decoder_norm, theirs.decoder.norm)
    for a, b in zip(net.encoder, theirs.encoder.layers, strict=True):
        copy_attention(a.attention, b.self_attn)
        copy_linear(a.around_attention.norm, b.norm1)
        copy_linear(a.around_feed_forward.norm, b.norm2)
        copy_linear(a.feed_forward[0], b.linear1)
        copy_linear(a.feed_forward[2], b.linear2)
    for a, b in zip(net.decoder, theirs.decoder.layers, strict=True):
        copy_attention(a.attention, b.self_attn)
        copy_attention(a.cross_attention, b.multihead_attn)
        copy_linear(a.around_attention.norm, b.norm1)
        copy_linear(a.around_cross_attention.norm, b.norm2)
        copy_linear(a.around_feed_forward.norm, b.norm3)
        copy_linear(a.feed_forward[0], b.linear1)
        copy_linear(a.feed_forward[2], b.linear2)

    source, lengths, target = sentences()
    padding = ~padding_mask(lengths, source.shape[1])
    weight = net.target_embedding.weight

    def embedded(tokens):
        return weight[tokens] * 8**0.5 + sinusoids(tokens.shape[1], 8)

    mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
    expected = theirs(
        embedded(source), embedded(target), tgt_mask=mask, src_key_padding_mask=padding, memory_key_padding_mask=padding
    )
    actual = net(source, lengths, target)
    torch.testing.assert_close(actual, expected)
    slope = torch.randn_like(actual)
    torch.testing.assert_close(
        torch.autograd.grad((actual * slope).sum(), weight), torch.autograd.grad((expected * slope).sum(), weight)
    )


def test_a_layer_begins_by_adding_nothing():
    net, x = transformer().eval(), torch.randn(3, 5, 8)
    for layer in net.encoder:
        torch.testing.assert_close(layer(x, torch.zeros(1, 1, 1, 5), None), x)
    source, lengths, _ = sentences()
    memory = net.encode(source, lengths)
    for layer, (keys, values) in zip(net.decoder, memory.layers, strict=True):
        torch.testing.assert_close(layer(x, keys, values, memory.barred, torch.zeros(1, 1, 5, 5), None), x)


def test_sinusoids_by_hand():
    expected = torch.tensor([[0.0, 1, 0, 1], [0.841471, 0.540302, 0.0099998, 0.99995]])
    torch.testing.assert_close(sinusoids(2, 4), expected, atol=1e-6, rtol=0)


def test_turning_by_positions_equals_transformers():
    from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb, create_sinusoidal_positions

    x = torch.randn(3, 2, 7, 8)  # (batch, heads, time, width)
    sines, cosines = create_sinusoidal_positions(7, 8).double().chunk(2, -1)  # which are in single precision
    expected = apply_rotary_pos_emb(x.transpose(1, 2), sines[None], cosines[None]).transpose(1, 2)
    torch.testing.assert_close(turn(x, turns(7, 8)), expected, rtol=0, atol=1e-5)


def test_turned_queries_and_keys_know_their_distance_alone():
    query, key, by = torch.randn(8), torch.randn(8), turns(9, 8)
    near, far = ((turn(query, by) @ turn(key, by).T).diagonal(offset) for offset in (1, 4))
    torch.testing.assert_close(near, near[:1].expand(8))
    torch.testing.assert_close(far, far[:1].expand(5))
    assert not torch.allclose(near[0], far[0])


def test_tying_shares_the_matrix():
    everything, target, nothing = (recurrent(tie=tie) for tie in ("all", "target", "none"))
    assert everything.source_embedding.weight is everything.target_embedding.weight is everything.output.weight
    assert target.source_embedding.weight is not target.target_embedding.weight
    assert target.target_embedding.weight is target.output.weight
    assert nothing.target_embedding.weight is not nothing.output.weight
    with pytest.raises(ValueError, match="joint vocabulary"):
        RecurrentTranslator((20, 30), 6, 8)


def test_word_dropout_blanks_whole_words():
    net = recurrent(word_dropout=0.5).train()
    x = net.embed(net.target_embedding, torch.randint(4, VOCABULARY, (60, 50)))
    blank = (x == 0).all(-1)
    assert blank.double().mean().item() == pytest.approx(0.5, abs=0.05)
    assert (blank | (x != 0).all(-1)).all()
    assert (net.eval().embed(net.target_embedding, torch.randint(4, VOCABULARY, (60, 50))) != 0).all()
