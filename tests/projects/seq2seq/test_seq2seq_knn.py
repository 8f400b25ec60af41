"""kNN-MT: neighbors are the nearest, their distribution are the paper's, and a search uses them."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from common.errors import UserError
from projects.seq2seq.batch_decoding import translate_ids
from projects.seq2seq.config import BOS, EOS, GenerationConfig, RecurrentConfig, TransformerConfig
from projects.seq2seq.decoding import beam_search
from projects.seq2seq.knn import Datastore, KNNConfig, KNNModel, build_datastore
from projects.seq2seq.recurrent import RecurrentModel
from projects.seq2seq.transformer import TransformerModel

pytest.importorskip("faiss")

CPU, VOCABULARY = torch.device("cpu"), 30
VOCAB_SIZES = (VOCABULARY, VOCABULARY)
NETWORKS = {
    "recurrent": lambda: RecurrentModel(VOCAB_SIZES, RecurrentConfig(16, 16)),
    "transformer": lambda: TransformerModel(VOCAB_SIZES, TransformerConfig(16, 24, 2, 2)),
    "rotary": lambda: TransformerModel(VOCAB_SIZES, TransformerConfig(16, 24, 2, 2, position_embedding="rotary")),
}


@pytest.fixture(params=NETWORKS)
def net(request):
    torch.manual_seed(0)
    net = NETWORKS[request.param]()
    for parameter in net.parameters():  # some begin as zero, and would have no part in anything
        nn.init.normal_(parameter, std=0.3)
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def pairs():
    """60 pairs of random ids, no two sources alike."""
    generator = torch.Generator().manual_seed(1)

    def sentences():
        lengths = torch.randint(1, 9, (60,), generator=generator).tolist()
        return [torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]

    return [[3 + i % 27, 3 + i // 27, *ids] for i, ids in enumerate(sentences())], sentences()


def step_by_step(net, source, target):
    """What the output layer reads at each token of one pair, in the way of a search: (tokens, dim)."""
    memory = net.encode(torch.tensor([[*source, EOS]]), torch.tensor([len(source) + 1]))
    state, states = net.init_state(memory, 1), []
    for token in [BOS, *target]:
        hidden, state, _ = net.decode_hidden(torch.tensor([[token]]), state, memory)
        states.append(hidden[0, 0])
    return torch.stack(states)


def test_neighbors_are_those_of_all_distances():
    keys, queries, values = torch.randn(900, 8), torch.randn(20, 8), torch.arange(900)
    squared, tokens = Datastore(keys, values).search(queries, 30)  # 14 cells, all of them looked into
    expected = torch.cdist(queries.double(), keys.double()).square().topk(30, largest=False)
    assert torch.equal(tokens, expected.indices)
    torch.testing.assert_close(squared.double(), expected.values, rtol=1e-4, atol=1e-5)


def test_a_few_of_many_cells_hold_nearly_all_neighbors():
    torch.manual_seed(0)
    keys = torch.randn(200, 1, 16) + 0.3 * torch.randn(200, 100, 16)  # clouds, as states of a network are
    queries, keys = keys[:50, 0], keys.flatten(0, 1)
    store = Datastore(keys, torch.arange(len(keys)))
    assert store.index.nlist > 10 * store.index.nprobe
    _, found = store.search(queries, 20)
    expected = torch.cdist(queries, keys).topk(20, largest=False).indices
    recall = (found[:, :, None] == expected[:, None]).any(2).double().mean()
    assert recall > 0.95
    alone = torch.cat([store.search(query[None], 20)[1] for query in queries])
    assert torch.equal(alone, found)  # whatever else is asked for at the same time


def test_fewer_keys_than_neighbors_are_all_of_them():
    squared, tokens = Datastore(torch.eye(3), torch.tensor([5, 6, 7])).search(torch.eye(3)[:1], 8)
    assert tokens.tolist()[0][0] == 5 and sorted(tokens.tolist()[0]) == [5, 6, 7]
    torch.testing.assert_close(squared, torch.tensor([[0.0, 2.0, 2.0]]))


def test_a_neighbor_that_was_not_found_has_no_weight(net):
    store = Datastore(torch.randn(2000, 16), torch.full((2000,), 4))
    store.index.nprobe = 1  # a cell of some 64 keys, of which more are asked for
    votes = KNNModel(net, store, KNNConfig(1000)).knn_probabilities(torch.randn(5, 16), VOCABULARY)
    expected = torch.zeros(5, VOCABULARY).index_fill(1, torch.tensor(4), 1.0)
    torch.testing.assert_close(votes, expected)


def test_keys_are_the_states_of_a_search_and_values_what_came_next(net, pairs):
    store = build_datastore(net, pairs, CPU, batch_size=7)
    assert len(store.values) == sum(len(target) + 1 for target in pairs[1])
    for source, target in list(zip(*pairs, strict=True))[:10]:
        squared, tokens = store.search(step_by_step(net, source, target), 1)
        assert tokens[:, 0].tolist() == [*target, EOS]
        assert squared.max() < 1e-8


def test_the_batches_and_the_cores_that_read_them_change_nothing(net, pairs):
    def found(threads, batch_size):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return build_datastore(net, pairs, CPU, batch_size).search(torch.ones(1, 16), 9)
        finally:
            torch.set_num_threads(before)

    (one, tokens), (other, again) = found(1, 60), found(2, 4)
    torch.testing.assert_close(one, other)
    assert torch.equal(tokens, again)


def test_probabilities_are_those_of_the_paper(net, pairs):
    options = KNNConfig(5, 0.4, 3.0)
    knn_model = KNNModel(net, build_datastore(net, pairs, CPU), options)
    hidden = torch.randn(4, 16)
    keys = torch.cat([step_by_step(net, *pair) for pair in zip(*pairs, strict=True)])
    values = [token for target in pairs[1] for token in [*target, EOS]]
    for row, query in zip(knn_model.knn_probabilities(hidden, VOCABULARY), hidden, strict=True):
        nearest = sorted(range(len(keys)), key=lambda i: (keys[i] - query).square().sum().item())[:5]
        weights = [torch.exp(-(keys[i] - query).square().sum() / 3.0).item() for i in nearest]
        expected = torch.zeros(VOCABULARY)
        for i, weight in zip(nearest, weights, strict=True):
            expected[values[i]] += weight / sum(weights)
        torch.testing.assert_close(row, expected, rtol=1e-3, atol=1e-5)


def test_a_score_is_that_of_the_mixed_probabilities(net, pairs):
    store, options = build_datastore(net, pairs, CPU), KNNConfig(8, 0.3, 2.0)
    knn_model = KNNModel(net, store, options)
    sources = [[5, 9, 4], [20, 3, 8, 8, 7]]
    found = translate_ids(knn_model, sources, GenerationConfig(num_beams=4, num_return_sequences=3, max_length=7), CPU)
    for source, hypotheses in zip(sources, found, strict=True):
        assert len(hypotheses) == 3
        for h in hypotheses:
            hidden = step_by_step(net, source, h.tokens[:-1])
            mixed = 0.7 * net.output_layer(hidden).softmax(1) + 0.3 * knn_model.knn_probabilities(hidden, VOCABULARY)
            expected = mixed.gather(1, torch.tensor(h.tokens)[:, None]).log().sum()
            assert h.log_probability == pytest.approx(expected.item(), rel=1e-4)


def test_with_interpolation_0_the_network_is_alone(net, pairs):
    source, lengths = torch.tensor([[5, 9, EOS], [7, EOS, 0]]), torch.tensor([3, 2])
    options = GenerationConfig(num_beams=3, num_return_sequences=3, max_length=6)
    alone = beam_search(net, net.encode(source, lengths), options)
    knn_model = KNNModel(net, build_datastore(net, pairs, CPU), KNNConfig(4, 0.0, 1.0))
    together = beam_search(knn_model, knn_model.encode(source, lengths), options)
    assert [[h.tokens for h in row] for row in together] == [[h.tokens for h in row] for row in alone]
    assert [h.score for row in together for h in row] == pytest.approx([h.score for row in alone for h in row], rel=1e-5)


def test_an_untrained_network_translates_the_pairs_of_its_datastore(net, pairs):
    knn_model = KNNModel(net, build_datastore(net, pairs, CPU), KNNConfig(4, 0.999, 1e-5))
    found = translate_ids(knn_model, pairs[0], GenerationConfig(num_beams=2, max_length=12), CPU, batch_size=9)
    assert [h[0].tokens for h in found] == [[*target, EOS] for target in pairs[1]]
    alone = translate_ids(net, pairs[0], GenerationConfig(num_beams=2, max_length=12), CPU, batch_size=9)
    assert sum(h[0].tokens == [*target, EOS] for h, target in zip(alone, pairs[1], strict=True)) < 5


def first_step(knn_model, **autocast):
    """Log probabilities of the first token."""
    memory = knn_model.encode(torch.tensor([[5, 9, EOS]]), torch.tensor([3]))
    with torch.autocast("cpu", **autocast):  # but not the encoder: not every processor has an LSTM in bfloat16
        return knn_model.decode_step(torch.tensor([[BOS]]), knn_model.init_state(memory, 1), memory)[0]


def test_bfloat16_is_close_and_float64_equal(net, pairs, request):
    knn_model = KNNModel(net, build_datastore(net, pairs, CPU), KNNConfig(8, 0.5, 2.0))
    expected = first_step(knn_model, enabled=False)
    rounded = first_step(knn_model, dtype=torch.bfloat16)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded.exp(), expected.exp(), rtol=0, atol=0.05)
    request.getfixturevalue("double_precision")
    net.double()
    torch.testing.assert_close(first_step(knn_model, enabled=False), expected.double(), rtol=1e-4, atol=1e-4)


def test_without_faiss_an_error_names_what_to_install_before_anything_is_read(monkeypatch, net, pairs):
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr(type(net), "forward", None)
    for make in (lambda: Datastore(torch.eye(3), torch.arange(3)), lambda: build_datastore(net, pairs, CPU)):
        with pytest.raises(UserError, match=r"pip install .*knn"):
            make()
