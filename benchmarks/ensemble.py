"""What translators of several seeds gain by translating together.

`python -m benchmarks.ensemble NAME RUN_FOLDER... --data FOLDER` gathers finished runs as `benchmarks.results` does, has
their checkpoints translate the test set as one ensemble, and writes both to `results/NAME.json`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.results import gather, read_summary, write_result
from common.cli.command import report_errors
from common.io.checkpoints import read_checkpoint
from projects.seq2seq.data import TranslationData
from projects.seq2seq.evaluation import evaluate, exact_match
from projects.seq2seq.inference import translate_ids
from projects.seq2seq.module import Seq2SeqModule
from projects.seq2seq.search import SearchOptions
from projects.seq2seq.translate import Translator, load_translator
from projects.seq2seq.vocabulary import decode, encode_batch


def score(translator: Translator, search: SearchOptions, data: TranslationData, split: str) -> dict[str, float]:
    """The scores of the translations of a split, as in a run's test; computed in float32 on the CPU."""
    lines, references = data.texts[split]
    ids = encode_batch(translator.source_tokenizer, lines)
    found = translate_ids(translator.net, ids, search, torch.device("cpu"), limit=translator.length_limit)
    texts = [decode(translator.target_tokenizer, hypotheses[0].tokens) for hypotheses in found]
    scores: dict[str, Any] = vars(evaluate(texts, references, translator.languages[1]))
    figures = {f"{split}/{name}": value for name, value in scores.items() if name != "signatures"}
    return figures | {f"{split}/exact_match": exact_match(texts, references)}


def trained_search(checkpoint: Path) -> SearchOptions:
    """How the run of `checkpoint` searched at its test."""
    return Seq2SeqModule(**read_checkpoint(checkpoint)["hyper_parameters"]).search


def together(folders: list[Path], source: str) -> dict[str, float]:
    """The scores, as in a run's test, of the runs' chosen checkpoints as an ensemble, searched as the first run's was.

    Raises:
        UserError: a run is not finished, a checkpoint is missing or damaged, or they have other vocabularies.
    """
    paths = [folder / "checkpoints" / str(read_summary(folder)["checkpoint"]) for folder in folders]
    translator = load_translator(paths, False, torch.device("cpu"))
    data = TranslationData(source, direction="-".join(translator.languages))
    return score(translator, trained_search(paths[0]), data, "test")


def main() -> int:
    """Measures the ensemble of the runs named on the command line."""
    parser = argparse.ArgumentParser(description="Have finished translators of several seeds translate together.")
    parser.add_argument("name", help="of the result, such as seq2seq-ensemble")
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, of the same settings but the seed")
    parser.add_argument("--data", required=True, help="what they were trained on")
    arguments = parser.parse_args()
    print(write_result(arguments.name, {**gather(arguments.runs), "ensemble": together(arguments.runs, arguments.data)}))
    return 0


if __name__ == "__main__":
    sys.exit(report_errors(main))
