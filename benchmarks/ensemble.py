"""Ensemble: test metrics of networks of several seeds that translate together.

`python -m benchmarks.ensemble NAME RUN_DIR... --data FOLDER` merges finished runs as `benchmarks.results` does, translates
the test set by the ensemble of their best checkpoints, and writes both to `results/NAME.json`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.results import merge_seeds, read_summary, write_result
from common.cli.command import OneLineParser, report_errors
from projects.seq2seq.data import TranslationData
from projects.seq2seq.inference import TranslationPipeline, load
from projects.seq2seq.metrics import exact_match


def evaluate(pipeline: TranslationPipeline, data: TranslationData, split: str) -> dict[str, float]:
    """Metrics of a split's translations, as in a run's test; computed in float32 on the CPU."""
    sources, references = data.texts[split]
    translations = pipeline(sources)
    scores = pipeline.scores(translations, references)
    scores["exact_match"] = exact_match(translations, references)
    return {f"{split}/{name}": score for name, score in scores.items()}


def evaluate_ensemble(run_dirs: list[Path], source: str) -> dict[str, float]:
    """Test metrics of the ensemble of the runs' best checkpoints, decoded as in the first run's test.

    Raises:
        UserError: A run is not finished, a checkpoint is missing or damaged, or their vocabularies differ.
    """
    pipeline = load([run_dir / "checkpoints" / str(read_summary(run_dir)["checkpoint"]) for run_dir in run_dirs])
    return evaluate(pipeline, TranslationData(source, direction="-".join(pipeline.languages)), "test")


def main() -> int:
    """Evaluates the ensemble of the runs on the command line."""
    parser = OneLineParser(description="Test metrics of the ensemble of finished runs.")
    parser.add_argument("name", help="Name of the result, such as seq2seq-ensemble.")
    parser.add_argument("runs", nargs="+", type=Path, help="Run directories, which differ in the seed alone.")
    parser.add_argument("--data", required=True, help="Data source that the runs were trained on.")
    arguments = parser.parse_args()
    ensemble = evaluate_ensemble(arguments.runs, arguments.data)
    print(write_result(arguments.name, {**merge_seeds(arguments.runs), "ensemble": ensemble}))
    return 0


if __name__ == "__main__":
    sys.exit(report_errors(main))
