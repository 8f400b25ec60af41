"""Prediction in batches equals one text at a time; attributions add up to what they explain."""

from __future__ import annotations

import pytest
import torch

from projects.bert_sentiment.inference import TextClassifier, attributions, integrated_gradients, predict_logits
from projects.bert_sentiment.networks import OwnHead
from projects.bert_sentiment.pretrained import new_model, train_tokenizer

TEXTS = ["the film is good", "not good", "good", "the plot , however , is not good at all and rather dull", "dull", ""]


@pytest.fixture
def classifier() -> TextClassifier:
    tokenizer = train_tokenizer(TEXTS, 60)
    encoder = {
        "model_type": "bert",
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "pad_token_id": 0,
        "initializer_range": 0.3,  # else it would say next to nothing
    }
    return TextClassifier(OwnHead(new_model(encoder, ["no", "so", "yes"])).eval(), tokenizer, ["no", "so", "yes"], 1.5, 64)


@pytest.mark.parametrize("batch_tokens", [1, 20, 4096])
def test_batches_give_what_each_text_gives_alone(classifier, batch_tokens):
    rows = classifier.encode(TEXTS)
    found = predict_logits(classifier.net, rows, 0, torch.device("cpu"), batch_tokens=batch_tokens)
    for row, ids in zip(found, rows, strict=True):
        with torch.no_grad():
            alone = classifier.net(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long))[0]
        torch.testing.assert_close(row, alone, rtol=1e-4, atol=1e-5)


def test_probabilities_are_calibrated_and_nothing_gives_nothing(classifier):
    cpu = torch.device("cpu")
    logits = predict_logits(classifier.net, classifier.encode(TEXTS), 0, cpu)
    torch.testing.assert_close(classifier.probabilities(TEXTS, cpu), (logits / 1.5).softmax(1))
    assert len(predict_logits(classifier.net, [], 0, cpu)) == 0


def test_attributions_add_up_to_what_the_words_change(classifier):
    ids = torch.tensor(classifier.encode(TEXTS[3:4])[0])
    replaced = torch.ones_like(ids, dtype=torch.bool)
    replaced[0] = replaced[-1] = False
    mask = torch.ones_like(ids)[None]
    values = integrated_gradients(classifier.net, ids, replaced, 0, 400)
    with torch.no_grad():
        text, blank = (classifier.net(row[None], mask)[0] for row in (ids, torch.where(replaced, 0, ids)))
    label = int(text.argmax())

    def margin(logits):
        return logits[label] - logits[[i for i in range(3) if i != label]].mean()

    torch.testing.assert_close(values.sum(), margin(text) - margin(blank), rtol=1e-3, atol=1e-4)
    assert values[0] == values[-1] == 0, "the same at both ends of the path"
    assert abs(float(margin(text) - margin(blank))) > 0.1, "else nothing was shown"


def test_attributions_of_a_linear_network_are_its_weights_times_the_way(classifier):
    class Linear(torch.nn.Module):
        def __init__(self, encoder):
            super().__init__()
            self.encoder, self.weight = encoder, torch.randn(16, 3)

        def forward(self, ids, mask, embeddings=None):
            given = self.encoder.get_input_embeddings()(ids) if embeddings is None else embeddings
            return (given @ self.weight).sum(1)

    net = Linear(classifier.net.encoder)
    ids = torch.tensor([5, 9, 7])
    values = integrated_gradients(net, ids, torch.tensor([True, True, False]), 0, 3)
    embed = net.encoder.get_input_embeddings()
    with torch.no_grad():
        label = int(net(ids[None], None).argmax())
        margin = 1.5 * net.weight[:, label] - net.weight.sum(1) / 2
        expected = (embed(ids) - embed(torch.tensor([0, 0, 7]))) @ margin
    torch.testing.assert_close(values, expected)


def test_a_word_has_the_sum_of_its_pieces(classifier):
    text = "The good  plot, undull"
    words, values = attributions(classifier, text, torch.device("cpu"), steps=8)
    assert words == ["The", "good", "plot", ",", "undull"]
    encoding = classifier.tokenizer(text)
    ids = torch.tensor(encoding["input_ids"])
    owners = encoding.word_ids()
    assert len(ids) > len(words) + 2, "a word has more than one piece"
    each = integrated_gradients(classifier.net, ids, torch.tensor([o is not None for o in owners]), 0, 8)
    for number, value in enumerate(values):
        pieces = [i for i, owner in enumerate(owners) if owner == number]
        torch.testing.assert_close(value, each[pieces].sum(), rtol=1e-4, atol=1e-6)
