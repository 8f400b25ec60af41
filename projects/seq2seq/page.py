"""Page of a translator: greedy search as it grows, the beam's hypotheses, and the attention of the best one."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from PIL import Image

from common.demo.html import table
from common.demo.page import Page, connect, drawn, plot_component
from common.errors import UserError
from common.io.text import is_blank
from projects.seq2seq.config import GenerationConfig
from projects.seq2seq.hypotheses import Hypothesis
from projects.seq2seq.inference import TranslationPipeline, load
from projects.seq2seq.plots import attention_maps, draw_attention
from projects.seq2seq.synthetic import make_pairs

if TYPE_CHECKING:
    import gradio as gr

NUM_EXAMPLES = 4
MAX_CHARACTERS = 1000


def encode(pipeline: TranslationPipeline, sentence: str) -> list[int]:
    """Source ids. Raises UserError for a sentence that is blank or too long."""
    if is_blank(sentence):
        raise UserError("there is no sentence yet; type one")
    sentence = " ".join(sentence.split())
    if len(sentence) > MAX_CHARACTERS:
        raise UserError(f"the sentence has {len(sentence):,} characters; at most {MAX_CHARACTERS:,} are translated here")
    return pipeline.encode([sentence])[0]


def grow(pipeline: TranslationPipeline, sentence: str) -> Iterator[str]:
    """Translation by greedy search after each of its tokens; the last one is complete."""
    ids, length = encode(pipeline, sentence), 0
    while True:
        # greedy search of one more token begins with the same ones, so each step is the whole search, and exact
        config = GenerationConfig(num_beams=1, max_length=length + 1)
        hypothesis = pipeline.hypotheses([ids], config)[0][0]
        yield pipeline.text(hypothesis)
        if hypothesis.finished or len(hypothesis.tokens) <= length:
            return
        length += 1


def search(
    pipeline: TranslationPipeline, sentence: str, num_beams: float, length_penalty: float
) -> tuple[str, Image.Image | None]:
    """Table of the beam's hypotheses, best first, and plot of the best one's attention."""
    ids, beams = encode(pipeline, sentence), int(num_beams)
    config = GenerationConfig(num_beams=beams, num_return_sequences=beams, length_penalty=length_penalty)
    found = pipeline.hypotheses([ids], config, attention=True)[0]
    return hypothesis_table(pipeline, found), plot_attention(pipeline, ids, found[0])


def hypothesis_table(pipeline: TranslationPipeline, found: list[Hypothesis]) -> str:
    """Table of hypotheses, the best one in bold."""
    header = ["hypotheses of beam search", "log p", "tokens", "score"]
    rows = [[pipeline.text(h), f"{h.log_probability:.3f}", len(h.tokens), f"{h.score:.3f}"] for h in found]
    return table(header, rows, chosen=0)


def plot_attention(pipeline: TranslationPipeline, ids: list[int], best: Hypothesis) -> Image.Image | None:
    """Attention matrix of a translation; None for a source without tokens."""
    maps = attention_maps([ids], [best], (pipeline.source_tokenizer, pipeline.target_tokenizer))
    return drawn(lambda path: draw_attention(maps, path)) if maps else None


def example_sentences(pipeline: TranslationPipeline) -> list[str]:
    """Sentences of the embedded sample in the source language."""
    german = pipeline.languages[0].startswith("de")
    return [pair[0 if german else 1] for pair in make_pairs(NUM_EXAMPLES, seed=7)]


def layout(pipeline: TranslationPipeline, page: gr.Blocks) -> None:
    """Components: the sentence and options on the left, translations and attention on the right."""
    import gradio as gr

    source, target = pipeline.languages
    examples = example_sentences(pipeline)
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            sentence = gr.Textbox(examples[0], label=f"sentence ({source})", lines=3, max_length=4 * MAX_CHARACTERS)
            button = gr.Button("Translate", variant="primary")
            beams = gr.Slider(1, 10, 5, step=1, label="beam size")
            penalty = gr.Slider(0, 2, 1, step=0.1, label="length penalty: score = log p / tokens ^ penalty")
            clicked = gr.Examples([[text] for text in examples], sentence, label="sentences of the embedded sample")
        with gr.Column(scale=3, min_width=320):
            growing = gr.Textbox(label=f"greedy search, token by token ({target})", interactive=False, lines=2)
            hypotheses = gr.HTML(elem_classes="answer")
            attention = plot_component()
    inputs = [sentence, beams, penalty]
    outputs = [hypotheses, attention]
    typed = [button.click, sentence.submit, page.load]
    connect(typed, partial(grow, pipeline), sentence, growing, clicked, stream=True)
    connect([*typed, beams.input, penalty.input], partial(search, pipeline), inputs, outputs, clicked)


PAGE = Page(
    "Translation (seq2seq)",
    "Greedy search takes the most probable token at each step; beam search keeps several hypotheses, and may find a "
    "translation whose total probability is higher.",
    load,
    layout,
)
