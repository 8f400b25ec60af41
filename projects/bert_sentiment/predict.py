"""What texts are: `python -m projects.bert_sentiment.predict TEXT ... --checkpoint PATH`; `--help` lists the flags.

Without a text on the command line, each line of a file or of the standard input is one. With `--save_pseudo_labels FILE` the
texts that the network is sure of go to a file with the class that it takes them for (pseudo-labels: Lee, "Pseudo-Label",
2013), which `train --data.extra FILE` reads.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.cli.command import OneLineParser, add_accelerator, add_precision, add_pseudo_labels
from common.errors import UserError
from common.io.text import read_lines

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from projects.bert_sentiment.inference import TextClassifier


def new_parser() -> OneLineParser:
    """The command line's flags; needs no torch, so `--help` answers at once."""
    parser = OneLineParser(
        prog="python -m projects.bert_sentiment.predict",
        description="Prints the class of each text, its probability and the text.",
        epilog="Pseudo-labels are the network's own opinion: check a few before you train on them.",
    )
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="A text; without any, the lines of --file.")
    parser.add_argument("--file", type=Path, metavar="PATH", help="Texts, one a line; unset, the standard input.")
    parser.add_argument("--checkpoint", required=True, type=Path, metavar="PATH", help="A checkpoint of a run.")
    parser.add_argument("--all", action="store_true", help="Print the probability of every class.")
    parser.add_argument(
        "--attributions",
        type=Path,
        metavar="PNG",
        help="Draw the first eight texts, each word coloured by how much it speaks for the class that was found.",
    )
    add_accelerator(parser)
    add_precision(parser)
    add_pseudo_labels(
        parser,
        "FILE",
        "Write the texts that are sure enough, with their classes, to a JSON-lines file for train --data.extra FILE.",
    )
    parser.add_argument(
        "--columns",
        nargs=2,
        default=("sentence", "label"),
        metavar=("TEXT", "LABEL"),
        help="Names of the columns in that file (default: sentence label).",
    )
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code (see `common.errors`)."""
    parser = new_parser()
    options = parser.parse_args(args)
    if options.texts and options.file is not None:
        parser.error("give texts or --file, not both")
    if options.save_pseudo_labels is not None and options.save_pseudo_labels.exists():
        parser.error(f"argument --save_pseudo_labels: {options.save_pseudo_labels} exists already")
    from common.cli.command import report_errors  # after the parser has answered --help

    return report_errors(lambda: predict(options))


def predict(options: argparse.Namespace) -> None:
    """Does what the parsed command line asks for: reads everything first, so that a bad file stops it before any output."""
    from common.nn.device import check_precision, choose_device, default_precision
    from projects.bert_sentiment.inference import load_classifier

    device = choose_device(options.accelerator)
    precision = options.precision or default_precision(options.accelerator)
    check_precision(precision, options.accelerator)
    classifier = load_classifier(options.checkpoint)
    classifier.net.to(device)
    texts = options.texts or read_lines(options.file)
    probabilities = classifier.probabilities(texts, device, precision)
    for text, row in zip(texts, probabilities, strict=True):
        print(describe(text, row, classifier.class_names, options.all))
    if options.attributions is not None:
        draw(classifier, texts, device, options.attributions)
    if options.save_pseudo_labels is not None:
        found = list(zip(texts, probabilities, strict=True))
        sure = [(text, row) for text, row in found if row.max() >= options.threshold and text.strip()]
        lines = [
            json.dumps({options.columns[0]: text, options.columns[1]: classifier.class_names[int(row.argmax())]})
            for text, row in sure
        ]
        write_new(options.save_pseudo_labels, "".join(f"{line}\n" for line in lines))
        place = options.save_pseudo_labels
        print(f"{len(sure)} of {len(texts)} texts reach {options.threshold:g}: written to {place}", file=sys.stderr)


def describe(text: str, probabilities: Tensor, class_names: Sequence[str], every: bool) -> str:
    """The line that is printed for a text: the likeliest of (classes,), or all of them, and the text."""
    best = probabilities.argsort(descending=True).tolist()
    shown = best if every else best[:1]
    return "\t".join([*(f"{class_names[i]} {100 * probabilities[i].item():.1f} %" for i in shown), " ".join(text.split())])


def write_new(path: Path, text: str) -> None:
    """Writes a file that is not there yet. Raises UserError if it cannot."""
    try:
        with path.open("x") as file:
            file.write(text)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error


def draw(classifier: TextClassifier, texts: Sequence[str], device: torch.device, path: Path, count: int = 8) -> None:
    """Draws the first `count` texts that hold words."""
    from common.plots.text import draw_texts
    from projects.bert_sentiment.inference import attributions

    rows = []
    for text in [text for text in texts if text.strip()][:count]:
        words, values = attributions(classifier, text, device)
        probabilities = classifier.probabilities([text], device)[0]
        label = int(probabilities.argmax())
        rows.append((f"{classifier.class_names[label]} {100 * probabilities[label].item():.0f} %", words, values))
    if not rows:
        raise UserError(f"--attributions {path}: there is no text to draw")
    try:
        print(draw_texts(rows, path), file=sys.stderr)
    except (OSError, ValueError) as error:  # no such folder, or a suffix that nothing draws
        raise UserError(f"--attributions {path}: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
