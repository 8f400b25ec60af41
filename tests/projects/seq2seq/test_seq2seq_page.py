"""Page of a translator: greedy search grows to what `load` gives, the table has the beam's hypotheses."""

from __future__ import annotations

import re

import pytest

from common.errors import UserError
from projects.seq2seq.config import GenerationConfig
from projects.seq2seq.inference import load
from projects.seq2seq.page import MAX_CHARACTERS, example_sentences, grow, plot_attention, search
from projects.seq2seq.tokenizer import token_names

SENTENCE = "Anna hat heute drei Bücher gekauft."


@pytest.fixture(scope="module")
def pipeline(plain_run):
    return load(next(plain_run.glob("checkpoints/best-*.ckpt")))


@pytest.mark.parametrize("sentence", [SENTENCE, f"  {SENTENCE}\n\n{SENTENCE}", "x"])
def test_the_translation_grows_token_by_token_to_that_of_greedy_search(pipeline, sentence):
    shown = list(grow(pipeline, sentence))
    config = GenerationConfig(num_beams=1, max_length=1000)
    best = pipeline.hypotheses(pipeline.encode([" ".join(sentence.split())]), config)[0][0]
    assert shown[-1] == pipeline.text(best)
    expected = [pipeline.target_tokenizer.decode(best.tokens[: i + 1]).strip() for i in range(len(best.tokens))]
    assert len(shown) in (len(expected), len(expected) + 1), "the end of an unfinished one shows by one step more"
    for text, tokens in zip(shown, expected, strict=False):
        assert " ".join(tokens.replace("</s>", "").split()) == text


@pytest.mark.parametrize("num_beams, penalty", [(1, 1.0), (4, 0.0), (4, 2.0)])
def test_the_table_has_the_hypotheses_of_the_beam(pipeline, num_beams, penalty):
    text, plot = search(pipeline, SENTENCE, num_beams, penalty)
    config = GenerationConfig(num_beams=num_beams, num_return_sequences=num_beams, length_penalty=penalty)
    expected = pipeline.hypotheses(pipeline.encode([SENTENCE]), config)[0]
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in text.split("</tr>")[1:-1]]
    assert [row[1:] for row in rows] == [
        [f"{h.log_probability:.3f}", str(len(h.tokens)), f"{h.score:.3f}"] for h in expected
    ]
    assert len(rows) == num_beams and min(plot.size) > 100


def test_the_attention_is_that_of_the_best_hypothesis(pipeline, figures):
    ids = pipeline.encode([SENTENCE])[0]
    best, other = pipeline.hypotheses([ids], GenerationConfig(num_beams=2, num_return_sequences=2), attention=True)[0]
    search(pipeline, SENTENCE, 2, 1.0)
    axes = figures[0].axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == token_names(pipeline.target_tokenizer, best.tokens)[: len(names)]
    shown = axes.images[0].get_array()
    height, width = shown.shape
    assert (shown == best.attention[:height, :width].numpy()).all() and best.tokens != other.tokens
    assert plot_attention(pipeline, [], best) is None


@pytest.mark.parametrize(
    "sentence, message",
    [
        ("", "there is no sentence yet; type one"),
        (" \n ", "there is no sentence yet; type one"),
        ("a" * (MAX_CHARACTERS + 1), "the sentence has 1,001 characters; at most 1,000 are translated here"),
    ],
)
def test_bad_sentences_are_named(pipeline, sentence, message):
    with pytest.raises(UserError) as raised:
        search(pipeline, sentence, 2, 1.0)
    assert str(raised.value) == message
    with pytest.raises(UserError):
        next(grow(pipeline, sentence))


def test_examples_are_in_the_source_language(pipeline):
    german = " ".join(example_sentences(pipeline))
    pipeline.languages, before = pipeline.languages[::-1], pipeline.languages
    english = " ".join(example_sentences(pipeline))
    pipeline.languages = before
    assert before == ("de", "en") and " the " in english.lower() and " the " not in german.lower()


def test_the_layout_streams_greedy_search(pipeline):
    gr = pytest.importorskip("gradio")
    from projects.seq2seq.page import layout

    with gr.Blocks(analytics_enabled=False) as page:
        layout(pipeline, page)
    assert {fn.types_generator for fn in page.fns.values() if fn.concurrency_limit == 8} == {True}
    assert {fn.concurrency_id for fn in page.fns.values() if fn.concurrency_limit == 1} == {"compute"}
