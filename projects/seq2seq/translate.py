"""Translation command: `python -m projects.seq2seq.translate [FILE] --checkpoint PATH ...`.

Reads a file or the standard input, one sentence per line, and prints a translation for each line; with `--reference` the
scores too, on the standard error: use it to choose a length penalty on validation, or to test an ensemble.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from common.cli.command import (
    OneLineParser,
    add_accelerator,
    add_checkpoint,
    non_negative,
    number_between,
    positive,
    positive_float,
    probability,
    report_errors,
    seed_value,
)
from common.errors import UserError
from common.io.text import read_lines

NUMBERS: list[tuple[str, Any, Any, str]] = [
    ("num_beams", positive, 5, "Beam size: hypotheses kept at each step; 1 is greedy search."),
    ("num_return_sequences", positive, 1, "Hypotheses printed per line (n-best list), each behind its score."),
    ("length_penalty", number_between(float, -10, 10), 1.0, "Exponent p in score = log probability / length ** p."),
    ("min_length", non_negative, 0, "Minimum length of a translation in tokens."),
    ("max_length", positive, 128, "Maximum length in tokens; a limit from the source's length holds too."),
    ("no_repeat_ngram_size", non_negative, 0, "n-gram blocking: no n-gram of this size occurs twice; 0 for none."),
    ("temperature", positive_float, 1.0, "With --do_sample: softmax temperature; below 1 sharpens the distribution."),
    ("top_k", non_negative, 0, "With --do_sample: sample from the k most probable tokens; 0 for all."),
    ("top_p", number_between(float, 1e-6, 1), 1.0, "With --do_sample: nucleus sampling, of this total probability."),
    ("seed", seed_value, 0, "With --do_sample: random seed."),
    ("knn_k", positive, 256, "With --datastore: number of nearest neighbors of each token."),
    ("knn_lambda", probability, 0.4, "With --datastore: interpolation weight of the neighbors, 0 to 1."),
    ("knn_temperature", positive_float, 6.0, "With --datastore: softmax temperature of the distances."),
    ("batch_size", positive, 100, "Sentences in a batch; on a CPU each core decodes a batch of its own."),
]


def new_parser() -> OneLineParser:
    """Parser of the command's flags; imports no torch, so that `--help` answers at once."""
    parser = OneLineParser(prog="python -m projects.seq2seq.translate", description="Translates text, a sentence per line.")
    add = parser.add_argument
    add("file", nargs="?", type=Path, metavar="FILE", help="Text in UTF-8; default: the standard input.")
    help_text = "A checkpoint of a run; several are an ensemble, with the mean of their probabilities."
    add_checkpoint(parser, help_text, several=True)
    add("--average_weights", action="store_true", help="Checkpoint averaging: mean of the weights in place of an ensemble.")
    for name, kind, default, text in NUMBERS:
        add(f"--{name}", type=kind, default=default, metavar="N", help=f"{text} (default: {default})")
    add(
        "--early_stopping",
        choices=("never", "heuristic"),
        default="never",
        help="When beam search leaves a sentence: if no better hypothesis is possible, or none is likely (default: never).",
    )
    add("--do_sample", action="store_true", help="Sampling in place of beam search.")
    add("--prefix", default="", metavar="TEXT", help="Forced prefix: what every translation starts with.")
    add("--datastore", metavar="SOURCE", help="kNN-MT datastore: the training pairs of this --data.source.")
    add("--reference", type=Path, metavar="FILE", help="Reference translations of the lines: prints BLEU and chrF.")
    add("--attention", type=Path, metavar="PNG", help="Plot the attention of the first four lines.")
    add(
        "--precision",
        choices=("32-true", "bf16-mixed"),
        default="32-true",
        help="bf16-mixed is faster where the hardware has it, and changes a few translations (default: 32-true).",
    )
    add_accelerator(parser)
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code (see `common.errors`)."""
    options = new_parser().parse_args(args)
    return report_errors(lambda: translate(options))


def translate(options: argparse.Namespace) -> None:
    """Prints translations and scores; reads everything first, so that a bad line stops it before any output."""
    from common.nn.device import check_precision, choose_device
    from projects.seq2seq.config import GenerationConfig, SamplingConfig
    from projects.seq2seq.inference import load
    from projects.seq2seq.knn import KNNConfig
    from projects.seq2seq.tokenizer import encode

    generation = GenerationConfig(**{field.name: getattr(options, field.name) for field in fields(GenerationConfig)})
    sampling = None
    if options.do_sample:
        sampling = SamplingConfig(options.temperature, options.top_k, options.top_p, options.seed)
    knn = KNNConfig(options.knn_k, options.knn_lambda, options.knn_temperature)
    device = choose_device(options.accelerator)
    check_precision(options.precision, options.accelerator)
    pipeline = load(options.checkpoint, device, options.average_weights, options.datastore, knn)
    lines = read_lines(options.file)
    references = None if options.reference is None else read_lines(options.reference)
    if references is not None and len(references) != len(lines):
        raise UserError(f"--reference {options.reference}: {len(references)} lines for {len(lines)} to translate")
    sources = pipeline.encode(lines)
    found = pipeline.hypotheses(
        sources,
        generation,
        sampling=sampling,
        prefix=encode(pipeline.target_tokenizer, options.prefix),
        batch_size=options.batch_size,
        attention=options.attention is not None,
        precision=options.precision,
    )
    for hypotheses in found:
        for hypothesis in hypotheses:
            score = f"{hypothesis.score:.4f}\t" if options.num_return_sequences > 1 else ""
            print(score + pipeline.text(hypothesis))
    if references:
        scores = pipeline.scores([pipeline.text(row[0]) for row in found], references)
        print("\n".join(f"{name} {score:.2f}" for name, score in scores.items()), file=sys.stderr)
    if options.attention is not None:
        plot_attention(pipeline, sources, found, options.attention)


def plot_attention(pipeline: Any, sources: Sequence[list[int]], found: Sequence[list[Any]], path: Path) -> None:
    """Plots the attention of the best translation of each of the first four lines that are not empty."""
    from projects.seq2seq.plots import attention_maps, draw_attention

    tokenizers = pipeline.source_tokenizer, pipeline.target_tokenizer
    maps = attention_maps(sources, [hypotheses[0] for hypotheses in found], tokenizers)[:4]
    if not maps:
        raise UserError(f"--attention {path}: there is no line to plot")
    try:
        print(draw_attention(maps, path), file=sys.stderr)
    except (OSError, ValueError) as error:  # no such folder, or a suffix that nothing draws
        raise UserError(f"--attention {path}: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
