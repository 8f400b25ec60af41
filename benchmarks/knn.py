"""kNN-MT: test metrics of a finished run with a datastore of its training pairs, and without.

`python -m benchmarks.knn NAME RUN_DIR --data FOLDER` takes the checkpoint of the run with the best BLEU on validation with
kNN-MT, translates the test set with and without the datastore, and writes both to `results/NAME.json`, beside the run's own
metrics.
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.ensemble import evaluate
from benchmarks.results import merge_seeds, write_result
from common.cli.command import OneLineParser, report_errors
from common.errors import UserError
from projects.seq2seq.data import TranslationData
from projects.seq2seq.inference import load
from projects.seq2seq.knn import KNNConfig


def evaluate_knn(run_dir: Path, source: str, config: KNNConfig) -> dict[str, Any]:
    """Checkpoint selection on validation, test metrics, and durations; in float32 on the CPU.

    Args:
        run_dir: Directory of a finished run.
        source: Data source that it was trained on.
        config: Options of kNN-MT.

    Raises:
        UserError: There is no checkpoint, or a damaged one, or the source has no validation pairs.
    """
    paths = sorted((run_dir / "checkpoints").glob("*.ckpt"))
    if not paths:
        raise UserError(f"{run_dir}: no checkpoint in it")
    data = TranslationData(source, direction="-".join(load(paths[0]).languages))
    if "val" not in data.texts:
        raise UserError(f"data source {source}: no validation pairs to select a checkpoint by")
    validation = {
        path.name: evaluate(load(path, datastore=source, knn=config), data, "val")["val/bleu_moses_lc"] for path in paths
    }
    best = max(paths, key=lambda path: validation[path.name])
    start = time.perf_counter()
    pipeline = load(best, datastore=source, knn=config)
    built = time.perf_counter()
    with_knn = evaluate(pipeline, data, "test")
    translated = time.perf_counter()
    without_knn = evaluate(load(best), data, "test")
    return {
        "options": asdict(config),
        "validation": validation,
        "checkpoint": best.name,
        "build_seconds": built - start,
        "search_seconds": translated - built,
        "search_seconds_without": time.perf_counter() - translated,
        "test": with_knn,
        "test_without": without_knn,
    }


def main() -> int:
    """Evaluates the run on the command line."""
    parser = OneLineParser(description="Test metrics of a finished run with and without kNN-MT.")
    parser.add_argument("name", help="Name of the result, such as seq2seq-knn.")
    parser.add_argument("run", type=Path, help="Run directory.")
    parser.add_argument("--data", required=True, help="Data source that the run was trained on.")
    arguments = parser.parse_args()
    knn = evaluate_knn(arguments.run, arguments.data, KNNConfig())
    print(write_result(arguments.name, {**merge_seeds([arguments.run]), "knn": knn}))
    return 0


if __name__ == "__main__":
    sys.exit(report_errors(main))
