"""Tables of the BERT capstone: results of each recipe, and the benchmark."""

from __future__ import annotations

from benchmarks import results
from benchmarks.tables.cells import comparison_table, duration, hardware, markdown_table, percent

RECIPES = ["bert_sentiment-minilm", "bert_sentiment-sample"]


def results_table() -> str:
    """Test metrics of each recipe."""
    header = ["recipe", "encoder", "test accuracy", "F1", "ECE", "ECE, temperature-scaled"]
    header += ["training time", "seeds", "hardware", "data"]
    body = []
    for result in map(results.read_result, RECIPES):
        mean = result["mean"]
        row = [f"`{result['recipe']}`", f"`{result['metadata']['encoder']}`"]
        row += [percent(result, "test/accuracy"), percent(result, "test/f1")]
        row += [f"{100 * mean[key]:.1f} %" for key in ("test/calibration_error", "test/calibration_error_scaled")]
        row += [duration(mean["train_seconds"]), str(len(result["seeds"])), hardware(result), f"`{result['data_source']}`"]
        body.append(row)
    return markdown_table(header, body)


def benchmark_table() -> str:
    """Results of `benchmarks/bert_sentiment.py`."""
    result = results.read_result("bert_sentiment-benchmark")
    tuning, precision = result["fine_tuning"], "bfloat16" if result["precision"] == "bf16-mixed" else "float32"
    body = []
    baselines = [("", "trainer", "ratio"), (", `group_by_length`", "group_by_length", "ratio_to_group_by_length")]
    for sampling, theirs, ratio in baselines:
        sides = [f"{tuning[f'{side}_sentences_per_second']:.0f}" for side in ("ours", theirs)]
        row = ["sentences per second, fine-tuning", f"`transformers.Trainer`{sampling}"]
        body.append([*row, *sides, f"{tuning[ratio]:.2f}×"])
    for dtype, key in {precision: "prediction", "float32": "prediction_float32"}.items():
        sides = [f"{result[key][f'{side}_sentences_per_second']:.0f}" for side in ("ours", "pipeline")]
        row = [f"sentences per second, prediction in {dtype}", "`pipeline(batch_size=32)`"]
        body.append([*row, *sides, f"{result[key]['ratio']:.2f}×"])
    return comparison_table(result, body)
