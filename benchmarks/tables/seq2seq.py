"""Tables of the translation capstone: results of each recipe, kNN-MT, sacreBLEU signatures, and the benchmark."""

from __future__ import annotations

from benchmarks import results
from benchmarks.tables.cells import comparison_table, duration, hardware, markdown_table

RECIPES = ["seq2seq-recurrent", "seq2seq-transformer", "seq2seq-transformer-back", "seq2seq-sample"]
SEARCH_SECONDS = "search_seconds_without", "search_seconds"
METRICS = {
    "bleu_moses_lc": "BLEU, lower case, Moses tokens",
    "bleu": "sacreBLEU",
    "bleu_lc": "sacreBLEU, lower case",
    "chrf": "chrF",
    "chrf_lc": "chrF, lower case",
}


def results_table() -> str:
    """Test metrics of each recipe and direction, then what each training took."""
    shown = ["bleu_moses_lc", "bleu", "bleu_lc", "chrf", "chrf_lc"]
    scores, cost = [], []
    for result in map(results.read_result, RECIPES):
        mean, recipe = result["mean"], [f"`{result['recipe']}`", result["metadata"]["direction"]]
        metrics = {name: f"{mean[f'test/{name}']:.2f}" for name in shown if f"test/{name}" in mean}
        exact = f"{100 * mean['test/exact_match']:.1f} %"
        if result["metadata"].get("lowercase") == "both":  # it writes lower case: cased metrics mean nothing
            metrics["bleu"] = metrics["chrf"] = exact = ""
        scores.append([*recipe, *(metrics.get(name, "") for name in shown), exact])
        cost.append([*recipe, f"`{result['data_source']}`", f"{result['parameters'] / 1e6:.1f} M", str(result["epochs"])])
        cost[-1] += [duration(mean["train_seconds"]), hardware(result)]
    score_header = ["recipe", "direction", *(METRICS[name] for name in shown), "exact match"]
    cost_header = ["recipe", "direction", "data", "parameters", "epochs", "training time", "hardware"]
    return markdown_table(score_header, scores) + "\n" + markdown_table(cost_header, cost)


def signatures_table() -> str:
    """SacreBLEU's signature of each metric."""
    signatures: dict[str, str] = {}
    for result in map(results.read_result, RECIPES):
        signatures = result["metadata"]["signatures"] | signatures  # the first recipe's language stays
    body = [
        [title, "`" + signatures[name].replace("|", "\\|") + "`"] for name, title in METRICS.items() if name in signatures
    ]
    return markdown_table(["metric", "signature"], body)


def knn_table() -> str:
    """Results of `benchmarks/knn.py`."""
    result = results.read_result("seq2seq-knn")
    knn = result["knn"]
    body = [
        [METRICS[name], *(f"{knn[part][f'test/{name}']:.2f}" for part in ("test_without", "test"))]
        for name in ("bleu_moses_lc", "bleu_lc", "chrf_lc")
    ]
    body.append(["training time", *[duration(result["mean"]["train_seconds"])] * 2])
    body.append(["building the datastore", "", duration(knn["build_seconds"])])
    body.append(["translating the test set, beam 5", *(duration(knn[key]) for key in SEARCH_SECONDS)])
    header = [f"`{result['recipe']}`, {result['metadata']['direction']}, {hardware(result)}", "without kNN", "with kNN"]
    return markdown_table(header, body)


def benchmark_table() -> str:
    """Results of `benchmarks/seq2seq.py`."""
    result = results.read_result("seq2seq-benchmark")
    bucketing, step = result["bucketing"], result["decoder_step"]
    searches = [
        (result["decoding"], '`generate`, same weights, `early_stopping="never"`'),
        (result["decoding_parallel"], "the same, its batches on all cores, as ours are"),
        (result.get("decoding_bfloat16"), "as in the first line, both in bfloat16"),
        (result["decoding_early_stopping"], "`generate`, same weights, both with early stopping"),
    ]
    body = [
        [
            "sentences per second, beam 5",
            title,
            f"{max(decoding['ours_sentences_per_second'].values()):.0f}",
            f"{max(decoding['generate_sentences_per_second'].values()):.0f}",
            f"{decoding['ratio']:.1f}×",
        ]
        for decoding, title in searches
        if decoding is not None  # a CPU without bfloat16 has no such row
    ]
    body.append(
        [
            "target tokens per second in training, without padding",
            "random batches of as many sentences",
            f"{bucketing['ours_tokens_per_second']:,.0f}",
            f"{bucketing['random_tokens_per_second']:,.0f}",
            f"{bucketing['ratio']:.1f}×",
        ]
    )
    body.append(
        [
            "training step of the recurrent decoder",
            "embedding, attention and logits inside the loop over time",
            f"{step['ours_step_ms']:.0f} ms",
            f"{step['naive_step_ms']:.0f} ms",
            f"{step['ratio']:.1f}×",
        ]
    )
    return comparison_table(result, body)
