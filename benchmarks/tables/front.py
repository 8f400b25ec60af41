"""Table of the front page: one or two results of each capstone."""

from __future__ import annotations

from typing import Any

from benchmarks import results
from benchmarks.tables.cells import duration, markdown_table, percent
from benchmarks.tables.policy_gradient import merge_runs

HEADER = ["capstone", "metric", "result", "data", "training", "seeds"]


def front() -> str:
    """Main results, with what it took to train them."""
    cnn, bert, points = map(results.read_result, ("cifar10-default", "bert_sentiment-minilm", "gan-grid25"))
    lstm, transformer = map(results.read_result, ("seq2seq-recurrent", "seq2seq-transformer"))
    images, dcgan = map(results.read_result, ("gan-cifar10", "gan-dcgan"))
    cartpole, lander = map(merge_runs, ("default", "lunarlander"))
    modes, distances = points["mean"]["test/modes"], [each["mean"]["test/frechet_distance"] for each in (images, dcgan)]
    quality = "test/high_quality"
    mean, std, worst = (
        100 * value for value in (points["mean"][quality], points["std"][quality], min(points["per_seed"][quality]))
    )
    parameters = f"{bert['parameters'] / 1e6:.1f} M parameters"
    body = [
        row("cifar10", "test accuracy with TTA", percent(cnn, "test/accuracy_tta"), cnn),
        row("seq2seq", "BLEU en-de, lower case: LSTM", f"{lstm['mean']['test/bleu_moses_lc']:.2f}", lstm),
        row("", "the same: Transformer", f"{transformer['mean']['test/bleu_moses_lc']:.2f}", transformer),
        row("bert_sentiment", f"accuracy, {parameters}", percent(bert, "test/accuracy"), bert),
        row("gan", f"{modes:.0f} modes: quality; worst seed", f"{mean:.1f} ± {std:.1f} %; {worst:.1f} %", points),
        row("", "Fréchet distance; of DCGAN", f"{distances[0]:.1f}; {distances[1]:.1f}", images),
        row("policy_gradient", "mean return; worst seed", mean_and_worst(cartpole), cartpole),
        row("", "mean return; worst seed", mean_and_worst(lander), lander),
    ]
    return markdown_table(HEADER, body)


def row(project: str, metric: str, value: str, result: dict[str, Any]) -> list[str]:
    """Row of the table; `project` is empty where it is that of the row above."""
    link = f"[`{project}`](projects/{project}/README.md)" if project else ""
    time = duration(result["mean"]["train_seconds"])
    return [link, metric, f"**{value}**", f"`{result['data_source']}`", time, str(len(result["seeds"]))]


def mean_and_worst(result: dict[str, Any]) -> str:
    """Mean return over the seeds, and the lowest."""
    return f"{result['mean']['test/return_mean']:.1f}; {min(result['per_seed']['test/return_mean']):.1f}"
