"""Translates lines: `python -m projects.seq2seq.translate [FILE] --checkpoint PATH ...`; `--help` lists the flags.

Reads a file or the standard input, a sentence a line, and prints a translation for each line; with `--reference` the scores
too, on the standard error: so is a length penalty chosen on validation, or an ensemble tested. Several checkpoints make an
ensemble, whose next-token probabilities are the mean of theirs, or with `--average` one network of mean weights. With
`--examples` they look up their training pairs at every token (see `neighbours.py`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cli.command import OneLineParser, add_accelerator
from common.errors import UserError
from common.io.text import read_lines

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

    from projects.seq2seq.neighbours import NeighbourOptions
    from projects.seq2seq.search import EncoderDecoder, Hypothesis

READ_TOKENS = 256  # of a line's tokens so many are read; longer lines are cut, and it is said


def new_parser() -> OneLineParser:
    """The command line's flags; needs no torch, so `--help` answers at once."""
    parser = OneLineParser(
        prog="python -m projects.seq2seq.translate",
        description="Translates lines of text, one sentence each, with one checkpoint or several.",
    )
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE", help="Text in UTF-8; default: the standard input.")
    parser.add_argument(
        "--checkpoint", nargs="+", action="extend", required=True, type=Path, metavar="PATH", help="Checkpoints of a run."
    )
    parser.add_argument("--average", action="store_true", help="Average the checkpoints' weights instead of their opinions.")
    number: list[tuple[str, type, Any, str]] = [
        ("beam", int, 5, "Hypotheses that are followed at a time; 1 is greedy."),
        ("n_best", int, 1, "Translations printed for a line, each behind its score."),
        ("length_penalty", float, 1.0, "p in log probability / length ** p, by which translations are ranked."),
        ("coverage_penalty", float, 0.0, "Weight of source words left unread in that."),
        ("min_length", int, 0, "Tokens of a translation at least."),
        ("max_length", int, 128, "Tokens of a translation at most; never more than 1.5 times the source and 12."),
        ("no_repeat_ngram", int, 0, "No sequence of so many tokens comes twice; 0 allows all."),
        ("temperature", float, 1.0, "With --sample: below 1 likely tokens become likelier."),
        ("top_k", int, 0, "With --sample: draw among the so many likeliest tokens; 0 for all."),
        ("top_p", float, 1.0, "With --sample: draw among the likeliest tokens that have this probability together."),
        ("seed", int, 0, "With --sample: of the random numbers."),
        ("neighbours", int, 256, "With --examples: tokens that are looked up for each token that is written."),
        ("neighbour_share", float, 0.4, "With --examples: of a token's probability that is the neighbours'."),
        ("neighbour_temperature", float, 6.0, "With --examples: above, distant neighbours count for more."),
        ("batch_size", int, 100, "Sentences translated at once; by each core of a CPU."),
    ]
    for name, kind, default, sentence in number:
        parser.add_argument(f"--{name}", type=kind, default=default, metavar="N", help=f"{sentence} (default: {default})")
    parser.add_argument(
        "--early_stop", action="store_true", help="Stop once as many as --beam are complete and ahead of the rest; quicker."
    )
    parser.add_argument(
        "--precision",
        choices=("32-true", "bf16-mixed"),
        default="32-true",
        help="Number format; bf16-mixed is quicker where the hardware has it, and changes a few translations.",
    )
    parser.add_argument(
        "--examples", metavar="SOURCE", help="Training pairs to look up, the source that the run had as --data.source."
    )
    parser.add_argument("--sample", action="store_true", help="Draw translations at random instead of searching the best.")
    parser.add_argument("--prefix", default="", metavar="TEXT", help="What every translation has to begin with.")
    parser.add_argument(
        "--reference", type=Path, metavar="FILE", help="The lines' translations by people: prints the scores."
    )
    parser.add_argument("--attention", type=Path, metavar="PNG", help="Draw what was attended to, of the first four lines.")
    add_accelerator(parser)
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code (see `common.errors`)."""
    options = new_parser().parse_args(args)
    from common.cli.command import report_errors  # after the parser has answered --help

    return report_errors(lambda: translate(options))


@dataclass
class Translator:
    """A network, or an ensemble, with what turns text into its ids and back."""

    net: EncoderDecoder
    source_tokenizer: Tokenizer
    target_tokenizer: Tokenizer
    languages: tuple[str, str]
    length_limit: tuple[float, float]  # ratio and extra tokens, see `inference.length_limits`


def translate(options: argparse.Namespace) -> None:
    """Does what the parsed command line asks for: reads everything first, so that a bad line stops it before any output."""
    from common.nn.device import check_precision, choose_device
    from projects.seq2seq.inference import Sampling, translate_ids
    from projects.seq2seq.neighbours import NeighbourOptions
    from projects.seq2seq.search import SearchOptions
    from projects.seq2seq.vocabulary import encode, encode_batch

    if options.batch_size < 1:
        raise UserError(f"--batch_size {options.batch_size}: at least 1")
    search = SearchOptions(
        max(options.beam, options.n_best) if options.sample else options.beam,
        options.length_penalty,
        options.coverage_penalty,
        options.n_best,
        options.min_length,
        options.max_length,
        options.no_repeat_ngram,
        options.early_stop,
    )
    sampling = Sampling(options.temperature, options.top_k, options.top_p, options.seed) if options.sample else None
    neighbours = NeighbourOptions(options.neighbours, options.neighbour_share, options.neighbour_temperature)
    device = choose_device(options.accelerator)
    check_precision(options.precision, options.accelerator)
    translator = load_translator(options.checkpoint, options.average, device, options.examples, neighbours)
    lines = read_lines(options.file)
    references = None if options.reference is None else read_lines(options.reference)
    if references is not None and len(references) != len(lines):
        raise UserError(f"--reference {options.reference}: {len(references)} lines for {len(lines)} to translate")
    sources = encode_batch(translator.source_tokenizer, lines)
    for number, ids in enumerate(sources, 1):
        if len(ids) > READ_TOKENS:
            print(f"line {number}: {len(ids)} tokens, of which the first {READ_TOKENS} are translated", file=sys.stderr)
    sources = [ids[:READ_TOKENS] for ids in sources]
    prefix = encode(translator.target_tokenizer, options.prefix)
    results = translate_ids(
        translator.net,
        sources,
        search,
        device,
        sampling,
        [prefix] * len(sources) if prefix else None,
        options.batch_size,
        options.attention is not None,
        translator.length_limit,
        options.precision,
    )
    for hypotheses in results:
        for line in printed(hypotheses, translator.target_tokenizer, options.n_best > 1):
            print(line)
    if references:
        best = [printed(hypotheses, translator.target_tokenizer, False)[0] for hypotheses in results]
        print(scored(best, references, translator.languages[1]), file=sys.stderr)
    if options.attention is not None:
        draw(translator, sources, results, options.attention)


def load_translator(
    paths: Sequence[Path],
    average: bool,
    device: torch.device,
    examples: str | None = None,
    neighbours: NeighbourOptions | None = None,
) -> Translator:
    """The networks of `paths` as one, ready to translate on `device`.

    Args:
        paths: checkpoints of this project, of one vocabulary.
        average: whether to average their weights (Vaswani et al., arXiv 1706.03762, section 6.1) and not what they say.
        device: where they compute.
        examples: a data source, as `TranslationData`'s, whose training pairs each of them looks up; None for none.
        neighbours: how; None for the defaults.

    Raises:
        UserError: a file is not a good checkpoint of this project, they do not go together, or there are no such pairs.
    """
    from tokenizers import Tokenizer

    from common.io.checkpoints import check_project, read_checkpoint
    from projects.seq2seq.data import TranslationData
    from projects.seq2seq.inference import LENGTH_LIMIT
    from projects.seq2seq.module import Seq2SeqModule
    from projects.seq2seq.neighbours import NeighbourOptions, NeighbourTranslator, read_pairs
    from projects.seq2seq.search import Ensemble
    from projects.seq2seq.vocabulary import encode_batch

    checkpoints = []
    for path in paths:
        checkpoint = read_checkpoint(path)
        check_project(checkpoint, "seq2seq", path)
        checkpoints.append(checkpoint)
        if checkpoint["tokenizers"] != checkpoints[0]["tokenizers"]:
            raise UserError(f"checkpoint {path}: its vocabulary is not that of {paths[0]}")
    if average:
        checkpoints = [mean_checkpoint(checkpoints, paths)]
    nets = []
    for path, checkpoint in zip(paths, checkpoints, strict=False):
        try:
            module = Seq2SeqModule(**checkpoint["hyper_parameters"])
            module.load_state_dict(checkpoint["state_dict"])
        except (KeyError, TypeError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"checkpoint {path}: written by another version of this project ({reason})") from error
        nets.append(module.net.eval().to(device))
    source, target = (Tokenizer.from_str(text) for text in checkpoints[0]["tokenizers"])
    languages, limit = checkpoints[0]["languages"], checkpoints[0].get("length_limit", LENGTH_LIMIT)
    members: Sequence[EncoderDecoder] = nets
    if examples is not None:
        texts = TranslationData(examples, "-".join(languages)).texts["train"]
        read, written = (
            [ids[:READ_TOKENS] for ids in encode_batch(*side)] for side in zip((source, target), texts, strict=True)
        )
        options = neighbours or NeighbourOptions()
        members = [NeighbourTranslator(net, read_pairs(net, (read, written), device), options) for net in nets]
    net = members[0] if len(members) == 1 else Ensemble(members)
    return Translator(net, source, target, (languages[0], languages[1]), (limit[0], limit[1]))


def mean_checkpoint(checkpoints: Sequence[dict[str, Any]], paths: Sequence[Path]) -> dict[str, Any]:
    """The first checkpoint with the mean of all their weights. Raises UserError if they are of different networks."""
    import torch

    states = [checkpoint["state_dict"] for checkpoint in checkpoints]
    shapes = [{name: value.shape for name, value in state.items()} for state in states]
    for path, other in zip(paths, shapes, strict=True):
        if other != shapes[0]:
            raise UserError(f"--average: {path} is of another network than {paths[0]}; leave the flag out for an ensemble")
    mean = {name: torch.stack([state[name].double() for state in states]).mean(0) for name in states[0]}
    return checkpoints[0] | {"state_dict": {name: value.to(states[0][name].dtype) for name, value in mean.items()}}


def printed(hypotheses: Sequence[Hypothesis], tokenizer: Tokenizer, with_scores: bool) -> list[str]:
    """A line for each hypothesis: its text, behind its score if that is asked for."""
    from projects.seq2seq.vocabulary import decode

    texts = [" ".join(decode(tokenizer, hypothesis.tokens).split()) for hypothesis in hypotheses]
    if not with_scores:
        return texts
    return [f"{hypothesis.score:.4f}\t{text}" for hypothesis, text in zip(hypotheses, texts, strict=True)]


def scored(texts: Sequence[str], references: Sequence[str], language: str) -> str:
    """All scores of the translations `texts` as a line; see `evaluate`."""
    from projects.seq2seq.evaluation import evaluate

    scores = evaluate(texts, references, language)
    return (
        f"BLEU {scores.bleu:.2f}, in lower case {scores.bleu_lower:.2f}, tokenised {scores.bleu_tokenized:.2f}; "
        f"chrF {scores.chrf:.2f}"
    )


def draw(translator: Translator, sources: Sequence[list[int]], results: Sequence[list[Hypothesis]], path: Path) -> None:
    """Draws the attention of the best translation of each of the first four lines that are not empty."""
    from common.plots.attention import draw_attention
    from projects.seq2seq.vocabulary import EOS, token_names

    maps: list[Any] = []
    for ids, hypotheses in zip(sources, results, strict=True):
        if ids and hypotheses[0].attention is not None and len(maps) < 4:
            rows = token_names(translator.target_tokenizer, hypotheses[0].tokens)
            maps.append((hypotheses[0].attention, rows, token_names(translator.source_tokenizer, [*ids, EOS])))
    if not maps:
        raise UserError(f"--attention {path}: there is no line to draw")
    try:
        print(draw_attention(maps, path), file=sys.stderr)
    except (OSError, ValueError) as error:  # no such folder, or a suffix that nothing draws
        raise UserError(f"--attention {path}: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
