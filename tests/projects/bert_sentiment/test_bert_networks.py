"""Heads, pooling, layer depths, freezing and re-initialization: held to transformers' own models of several kinds."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from projects.bert_sentiment.networks import (
    MeanPooling,
    SequenceClassifier,
    build_classifier,
    freeze_layers,
    layer_depths,
    layer_stack,
    reinit_top_layers,
    set_dropout,
)
from projects.bert_sentiment.pretrained import new_model

SMALL = {"vocab_size": 60, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
KINDS = {
    "bert": SMALL,
    "roberta": SMALL,
    "electra": {**SMALL, "embedding_size": 8},
    "distilbert": {"vocab_size": 60, "dim": 16, "hidden_dim": 24, "n_layers": 3, "n_heads": 2},
    "mpnet": SMALL,
    "deberta-v2": {**SMALL, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "modernbert": {**SMALL, "pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2},
}


def make(kind: str):
    return new_model({"model_type": kind, "pad_token_id": 0, **KINDS[kind]}, ["no", "yes"])


@pytest.fixture
def batch():
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    return torch.randint(5, 60, (2, 5)) * mask, mask


@pytest.mark.parametrize("kind", KINDS)
def test_a_sequence_classifier_has_the_models_own_head(kind, batch):
    model = make(kind).eval()
    ids, mask = batch
    torch.testing.assert_close(SequenceClassifier(model)(ids, mask), model(input_ids=ids, attention_mask=mask).logits)
    assert SequenceClassifier(model).encoder is model.base_model


def test_the_mean_is_over_real_tokens_only(batch):
    encoder = make("bert").base_model.eval()
    net = MeanPooling(encoder, 16, 2, 0.0).eval()
    ids, mask = batch
    logits = net(ids, mask)
    for row, length in enumerate(mask.sum(1).tolist()):
        alone = encoder(input_ids=ids[row : row + 1, :length]).last_hidden_state.mean(1)
        torch.testing.assert_close(logits[row : row + 1], net.classifier(alone), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_every_weight_under_a_head_has_a_gradient(kind, pooling, batch):
    net = build_classifier(make(kind), pooling, 2)
    logits = net(*batch)
    assert logits.shape == (2, 2)
    logits.sum().backward()
    assert [name for name, parameter in net.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("kind", KINDS)
def test_depths_follow_the_layers(kind):
    net = SequenceClassifier(make(kind))
    depths = layer_depths(net, 3)
    assert set(depths) == {name for name, _ in net.named_parameters()}
    numbers = {"0": 3, "1": 2, "2": 1}
    for name, depth in depths.items():
        layer = next((numbers[part] for part in name.split(".") if part in numbers), None)
        if "embeddings" in name and "rel_embeddings" not in name and "position_embeddings" not in name:
            assert depth == 4, name
        elif layer is not None and (".layer." in name or ".layers." in name):
            assert depth == layer, name
        elif name.startswith(("model.classifier", "model.pre_classifier", "model.head")):
            assert depth == 0, name


def test_freezing_stops_the_embeddings_and_the_lowest_layers():
    net = SequenceClassifier(make("bert"))
    freeze_layers(net, 1, 3)
    frozen = {name for name, parameter in net.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in net.named_parameters() if "embeddings" in name or "encoder.layer.0." in name}


def test_reinit_layers_changes_the_top_layers_alone():
    model, fresh = make("bert"), make("bert")
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    reinit_top_layers(model.base_model, fresh.base_model, 1, 3)
    for name, weight in model.named_parameters():
        changed = not torch.equal(before[name], weight)
        assert changed == ("encoder.layer.2." in name and weight.dim() > 1), name
    assert abs(model.bert.encoder.layer[2].output.dense.weight.std().item() - 0.02) < 0.004


def test_layers_that_share_weights_cannot_be_reinitialized():
    model = new_model({"model_type": "albert", **SMALL, "embedding_size": 8}, ["no", "yes"])
    assert layer_stack(model.base_model, 3) is None
    with pytest.raises(ValueError, match="no 1 layers of their own weights"):
        reinit_top_layers(model.base_model, model.base_model, 1, 3)


def test_dropout_is_set_everywhere(batch):
    model = make("bert").train()
    set_dropout(model, 0.0)
    assert {part.p for part in model.modules() if isinstance(part, nn.Dropout)} == {0.0}
    net = SequenceClassifier(model)
    torch.testing.assert_close(net(*batch), net(*batch), rtol=0, atol=0)
