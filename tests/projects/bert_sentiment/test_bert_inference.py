"""Inference: batches give what each text gives alone; attributions are complete (integrated gradients)."""

from __future__ import annotations

import pytest
import torch

from projects.bert_sentiment.attribution import integrated_gradients, word_attributions
from projects.bert_sentiment.inference import TextClassifier, predict_logits
from projects.bert_sentiment.networks import SequenceClassifier
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
    return TextClassifier(
        SequenceClassifier(new_model(encoder, ["no", "so", "yes"])).eval(), tokenizer, ["no", "so", "yes"], 1.5, 64
    )


@pytest.mark.parametrize("max_tokens", [1, 20, 4096])
def test_batches_give_what_each_text_gives_alone(classifier, max_tokens):
    rows = classifier.tokenize(TEXTS)
    found = predict_logits(classifier.net, rows, 0, torch.device("cpu"), max_tokens=max_tokens)
    for row, ids in zip(found, rows, strict=True):
        with torch.no_grad():
            alone = classifier.net(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long))[0]
        torch.testing.assert_close(row, alone, rtol=1e-4, atol=1e-5)


def test_probabilities_are_calibrated_and_nothing_gives_nothing(classifier):
    cpu = torch.device("cpu")
    logits = predict_logits(classifier.net, classifier.tokenize(TEXTS), 0, cpu)
    torch.testing.assert_close(classifier(TEXTS), (logits / 1.5).softmax(1))
    assert len(predict_logits(classifier.net, [], 0, cpu)) == 0


def test_attributions_add_up_to_what_the_words_change(classifier):
    ids = torch.tensor(classifier.tokenize(TEXTS[3:4])[0])
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


def test_attributions_of_a_linear_network_are_its_weights_times_the_difference(classifier):
    class Linear(torch.nn.Module):
        def __init__(self, encoder):
            super().__init__()
            self.encoder, self.weight = encoder, torch.randn(16, 3)

        def forward(self, input_ids, attention_mask):
            return (self.encoder.get_input_embeddings()(input_ids) @ self.weight).sum(1)

    net = Linear(classifier.net.encoder)
    ids = torch.tensor([5, 9, 7])
    values = integrated_gradients(net, ids, torch.tensor([True, True, False]), 0, 3)
    embed = net.encoder.get_input_embeddings()
    with torch.no_grad():
        label = int(net(ids[None], None).argmax())
        margin = 1.5 * net.weight[:, label] - net.weight.sum(1) / 2
        expected = (embed(ids) - embed(torch.tensor([0, 0, 7]))) @ margin
    torch.testing.assert_close(values, expected)


def test_the_attribution_of_a_word_is_the_sum_over_its_tokens(classifier):
    text = "The good  plot, undull"
    words, values = word_attributions(classifier, text, n_steps=8)
    assert words == ["The", "good", "plot", ",", "undull"]
    encoding = classifier.tokenizer(text)
    ids = torch.tensor(encoding["input_ids"])
    word_ids = encoding.word_ids()
    assert len(ids) > len(words) + 2, "a word has more than one token"
    each = integrated_gradients(classifier.net, ids, torch.tensor([word is not None for word in word_ids]), 0, 8)
    for number, value in enumerate(values):
        pieces = [i for i, word in enumerate(word_ids) if word == number]
        torch.testing.assert_close(value, each[pieces].sum(), rtol=1e-4, atol=1e-6)
