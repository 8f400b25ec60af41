"""Page of a text classifier: class probabilities, and which words moved the answer."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING

from common.demo.html import attributed_words, probability_table
from common.demo.page import Page, connect
from common.errors import UserError, one_line
from common.io.text import is_blank
from projects.bert_sentiment.attribution import word_attributions
from projects.bert_sentiment.inference import TextClassifier, load
from projects.bert_sentiment.synthetic import sample_opinion

if TYPE_CHECKING:
    import gradio as gr

NUM_EXAMPLES = 5
MAX_CHARACTERS = 5000


def classify(classifier: TextClassifier, text: str) -> str:
    """Table of class probabilities, and the words colored by their attributions to the predicted class."""
    if is_blank(text):
        raise UserError("there is no text yet; type one")
    if len(text) > MAX_CHARACTERS:
        raise UserError(f"the text has {len(text):,} characters; at most {MAX_CHARACTERS:,} are classified here")
    probabilities = classifier([text])[0]
    answer = probability_table(classifier.class_names, {"probability": probabilities.tolist()})
    if classifier.count_truncated([text]):
        answer += f"<p>The text is truncated to {classifier.max_length} tokens, as in training.</p>"
    return answer + attributed_words(*attributions(classifier, text))


def attributions(classifier: TextClassifier, text: str) -> tuple[list[str], list[float]]:
    """Words of a text, and their attributions by integrated gradients, in logits."""
    try:
        words, values = word_attributions(classifier, text)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError) as error:
        raise UserError(f"the encoder has no embeddings to follow: {one_line(error)}") from error
    return words, values.tolist()


def example_texts() -> list[str]:
    """Opinions of the embedded sample."""
    rng = random.Random(5)
    return [sample_opinion(bool(i % 2), rng) for i in range(NUM_EXAMPLES)]


def layout(classifier: TextClassifier, page: gr.Blocks) -> None:
    """Components: the text on the left, classes and words on the right."""
    import gradio as gr

    examples = example_texts()
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            text = gr.Textbox(examples[-1], label="text", lines=4, max_length=4 * MAX_CHARACTERS)
            button = gr.Button("Classify", variant="primary")
            clicked = gr.Examples([[each] for each in examples], text, label="texts of the embedded sample")
        with gr.Column(scale=1, min_width=300):
            answer = gr.HTML(elem_classes="answer")
    triggers = [button.click, text.submit, page.load]
    connect(triggers, partial(classify, classifier), text, answer, clicked)


PAGE = Page(
    "Text classification (bert_sentiment)",
    "Change one word, such as a negation, and see which words now speak for the predicted class, and which against it.",
    load,
    layout,
)
