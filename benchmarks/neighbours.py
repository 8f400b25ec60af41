"""What a translator gains by looking up its training pairs.

`python -m benchmarks.neighbours NAME RUN_FOLDER --data FOLDER` takes the checkpoint of a finished run that has the best BLEU
on validation with its neighbours, has it translate the test set with and without them, and writes both to
`results/NAME.json`, beside the run's own figures.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.ensemble import score, trained_search
from benchmarks.results import gather, write_result
from common.cli.command import report_errors
from common.errors import UserError
from projects.seq2seq.data import TranslationData
from projects.seq2seq.neighbours import NeighbourOptions
from projects.seq2seq.translate import load_translator


def with_neighbours(folder: Path, source: str, options: NeighbourOptions) -> dict[str, Any]:
    """The choice of a checkpoint on validation, its scores at test, and what it cost; in float32 on the CPU.

    Args:
        folder: of a finished run.
        source: what it was trained on.
        options: of the neighbours.

    Raises:
        UserError: there is no checkpoint, or a damaged one, or the source has no validation pairs.
    """
    paths = sorted((folder / "checkpoints").glob("*.ckpt"))
    if not paths:
        raise UserError(f"{folder}: no checkpoint in it")
    device = torch.device("cpu")
    alone = load_translator(paths[:1], False, device)
    data = TranslationData(source, direction="-".join(alone.languages))
    if "val" not in data.texts:
        raise UserError(f"data source {source}: no validation pairs to choose a checkpoint on")
    search = trained_search(paths[0])
    validation = {
        path.name: score(load_translator([path], False, device, source, options), search, data, "val")["val/bleu_tokenized"]
        for path in paths
    }
    chosen = max(paths, key=lambda path: validation[path.name])
    begin = time.perf_counter()
    translator = load_translator([chosen], False, device, source, options)
    middle = time.perf_counter()
    found = score(translator, search, data, "test")
    end = time.perf_counter()
    plain = score(load_translator([chosen], False, device), search, data, "test")
    return {
        "options": asdict(options),
        "validation": validation,
        "checkpoint": chosen.name,
        "read_seconds": middle - begin,
        "search_seconds": end - middle,
        "search_seconds_without": time.perf_counter() - end,
        "test": found,
        "test_without": plain,
    }


def main() -> int:
    """Measures the run named on the command line."""
    parser = argparse.ArgumentParser(description="Have a finished translator look up its training pairs.")
    parser.add_argument("name", help="of the result, such as seq2seq-neighbours")
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--data", required=True, help="what it was trained on")
    arguments = parser.parse_args()
    figures = with_neighbours(arguments.run, arguments.data, NeighbourOptions())
    print(write_result(arguments.name, {**gather([arguments.run]), "neighbours": figures}))
    return 0


if __name__ == "__main__":
    sys.exit(report_errors(main))
