"""Page of a text classifier: the classes of `load`, and the words with their attributions."""

from __future__ import annotations

import re

import pytest

from common.errors import UserError
from projects.bert_sentiment import page
from projects.bert_sentiment.attribution import word_attributions
from projects.bert_sentiment.inference import load
from projects.bert_sentiment.page import MAX_CHARACTERS, classify, example_texts

TEXT = "the film is not good , <b> but the plot is dull"


@pytest.fixture(scope="module")
def classifier(plain_checkpoint):
    return load(plain_checkpoint)


def test_the_page_shows_classes_and_attributions(classifier, monkeypatch):
    words, values = word_attributions(classifier, TEXT)
    values = 5 * values / values.abs().max()  # those of a small network would be rounded to nothing
    monkeypatch.setattr(page, "word_attributions", lambda *args: (words, values))
    answer = classify(classifier, TEXT)
    probabilities = classifier([TEXT])[0]
    names = re.findall(r"<td>([a-z]+)</td>", answer)
    order = probabilities.argsort(descending=True).tolist()
    assert names == [classifier.class_names[i] for i in order]
    shown = [float(percent) for percent in re.findall(r"([\d.]+)&nbsp;%", answer)]
    assert shown == pytest.approx([100 * probabilities[i].item() for i in order], abs=0.06)
    spans = re.findall(r'title="([+-][\d.]+)">(.*?)</span>', answer)
    assert [word.replace("&lt;", "<").replace("&gt;", ">") for _, word in spans] == words
    assert [float(value) for value, _ in spans] == pytest.approx(values.tolist(), abs=0.006)
    assert "truncated" not in answer and "<b>" not in answer


def test_a_long_text_says_that_it_is_truncated(classifier):
    assert f"truncated to {classifier.max_length} tokens" in classify(classifier, "good film " * 200)


@pytest.mark.parametrize(
    "text, message",
    [
        (" \n", "there is no text yet; type one"),
        ("a" * (MAX_CHARACTERS + 1), "the text has 5,001 characters; at most 5,000 are classified here"),
    ],
)
def test_bad_texts_are_named(classifier, text, message):
    with pytest.raises(UserError) as raised:
        classify(classifier, text)
    assert str(raised.value) == message


def test_an_encoder_without_embeddings_is_one_line(classifier, monkeypatch):
    monkeypatch.setattr(classifier.net.encoder, "get_input_embeddings", lambda: None)
    with pytest.raises(UserError, match=r"^the encoder has no embeddings to follow: "):
        classify(classifier, TEXT)


def test_examples_are_texts_of_the_sample():
    assert len(set(example_texts())) == 5 and all(text.strip() for text in example_texts())


def test_the_layout_connects_button_and_examples(classifier):
    gr = pytest.importorskip("gradio")
    from projects.bert_sentiment.page import layout

    with gr.Blocks(analytics_enabled=False) as page:
        layout(classifier, page)
    events = [target[1] for fn in page.fns.values() if fn.concurrency_id == "compute" for target in fn.targets]
    assert sorted(events) == ["click", "load", "submit", "then"]
