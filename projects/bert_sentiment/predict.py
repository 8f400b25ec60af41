"""Prediction command: `python -m projects.bert_sentiment.predict TEXT ... --checkpoint PATH`.

Without a text on the command line, each line of a file or of the standard input is one. `--save_pseudo_labels FILE` writes
confident predictions as training data (pseudo-labels: Lee, "Pseudo-Label", 2013) for `train --data.extra_train_data FILE`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.cli.command import (
    OneLineParser,
    add_accelerator,
    add_checkpoint,
    add_precision,
    add_pseudo_labels,
    report_errors,
)
from common.errors import UserError, one_line
from common.io.files import write_text_atomically
from common.io.text import is_blank, read_lines

if TYPE_CHECKING:
    from torch import Tensor

    from projects.bert_sentiment.inference import TextClassifier

MAX_TEXTS = 8  # in the plot of attributions


def new_parser() -> OneLineParser:
    """Parser of the command's flags; imports no torch, so that `--help` answers at once."""
    parser = OneLineParser(
        prog="python -m projects.bert_sentiment.predict",
        description="Prints the predicted class of each text, its probability and the text.",
        epilog="Pseudo-labels are predictions: check a few before you train on them.",
    )
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="A text; without any, the lines of --file.")
    help_text = "Texts, one per line, or a table such as .csv; unset, the standard input."
    parser.add_argument("--file", type=Path, metavar="PATH", help=help_text)
    add_checkpoint(parser)
    parser.add_argument("--all", action="store_true", help="Print the probability of every class.")
    help_text = f"Draw the first {MAX_TEXTS} texts, each word colored by its attribution to the predicted class."
    parser.add_argument("--attributions", type=Path, metavar="PNG", help=help_text)
    add_accelerator(parser)
    add_precision(parser)
    help_text = "Write confident predictions to a JSON-lines file for train --data.extra_train_data FILE."
    add_pseudo_labels(parser, "FILE", help_text)
    help_text = "Names of the columns in that file and in a table as --file (default: sentence label)."
    columns = ("sentence", "label")
    parser.add_argument("--columns", nargs=2, default=columns, metavar=("TEXT", "LABEL"), help=help_text)
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code (see `common.errors`)."""
    parser = new_parser()
    options = parser.parse_args(args)
    if options.texts and options.file is not None:
        parser.error("give texts or --file, not both")
    if len(set(options.columns)) == 1:
        parser.error(f"argument --columns: {options.columns[0]} cannot be both")
    if options.save_pseudo_labels is not None and options.save_pseudo_labels.exists():
        parser.error(f"argument --save_pseudo_labels: {options.save_pseudo_labels} exists already")
    return report_errors(lambda: predict(options))


def predict(options: argparse.Namespace) -> None:
    """Prints predictions; reads everything first, so that a bad file stops it before any output."""
    from common.nn.device import check_precision, choose_device, default_precision
    from projects.bert_sentiment.inference import load

    device = choose_device(options.accelerator)
    precision = options.precision or default_precision(options.accelerator)
    check_precision(precision, options.accelerator)
    classifier = load(options.checkpoint, device)
    texts = options.texts or read_texts(options.file, options.columns[0])
    probabilities = classifier(texts, precision)
    if truncated := classifier.count_truncated(texts):
        limit = f"{classifier.max_length} tokens, as in training"
        print(f"{truncated} of {len(texts)} texts are truncated to {limit}", file=sys.stderr)
    if blank := sum(map(is_blank, texts)):
        print(f"{blank} of {len(texts)} texts are blank", file=sys.stderr)
    for text, row in zip(texts, probabilities, strict=True):
        print(f"{describe(row, classifier.class_names, options.all)}\t{' '.join(text.split())}")
    if options.attributions is not None:
        plot_attributions(classifier, texts, probabilities, options.attributions)
    if options.save_pseudo_labels is not None:
        save_pseudo_labels(classifier, texts, probabilities, options)


def read_texts(path: Path | None, column: str) -> list[str]:
    """Lines of a text file or the standard input, or the cells of a table's `column`. Raises UserError if it has none."""
    from common.data.sources import Source, load_splits, read_column
    from common.data.tables import READERS

    if path is None or path.suffix.lower() not in (set(READERS) - {".txt"}):
        return read_lines(path)
    source = Source("file", str(path))
    table = load_splits(source)["train"]
    if column not in table.column_names:
        raise UserError(f"--columns {column}: the columns of {path} are {', '.join(table.column_names)}")
    return ["" if value is None else str(value) for value in read_column(source, table, column)]


def describe(probabilities: Tensor, class_names: Sequence[str], all_classes: bool) -> str:
    """The most probable of (classes,), or all of them by their probabilities, separated by tabs."""
    order = probabilities.argsort(descending=True).tolist()
    return "\t".join(f"{class_names[i]} {100 * probabilities[i].item():.1f} %" for i in order[: None if all_classes else 1])


def plot_attributions(classifier: TextClassifier, texts: Sequence[str], probabilities: Tensor, path: Path) -> None:
    """Draws the first texts that have words. Raises UserError if there is none, or the file cannot be written."""
    from projects.bert_sentiment.attribution import word_attributions
    from projects.bert_sentiment.plots import draw_attributions

    shown = [pair for pair in zip(texts, probabilities, strict=True) if pair[0].strip()][:MAX_TEXTS]
    try:
        rows = [(describe(row, classifier.class_names, False), *word_attributions(classifier, text)) for text, row in shown]
    except (AttributeError, NotImplementedError, RuntimeError, TypeError) as error:
        raise UserError(f"--attributions {path}: the encoder has no embeddings to follow: {one_line(error)}") from error
    if not rows:
        raise UserError(f"--attributions {path}: there is no text to draw")
    try:
        print(draw_attributions(rows, path), file=sys.stderr)
    except (OSError, ValueError) as error:  # no such folder, or an unknown suffix
        raise UserError(f"--attributions {path}: {error}") from error


def save_pseudo_labels(
    classifier: TextClassifier, texts: Sequence[str], probabilities: Tensor, options: argparse.Namespace
) -> None:
    """Writes the texts whose largest probability reaches the threshold, with their classes, to a new file."""
    path, (text_column, label_column) = options.save_pseudo_labels, options.columns
    confidence, labels = probabilities.max(1)
    lines = [
        json.dumps({text_column: text, label_column: classifier.class_names[label]}) + "\n"
        for text, label, p in zip(texts, labels.tolist(), confidence.tolist(), strict=True)
        if p >= options.threshold and text.strip()
    ]
    try:
        write_text_atomically(path, "".join(lines))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    print(f"{len(lines)} of {len(texts)} texts reach {options.threshold:g}: written to {path}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
