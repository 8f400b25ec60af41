"""Tables of the READMEs, made from `results/*.json`: `python -m benchmarks.tables` writes them.

A table is what stands in a README between `<!-- table: NAME -->` and `<!-- end of table -->`; a test fails if it differs
from what the results give.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from benchmarks.results import RESULTS
from benchmarks.tables import bert_sentiment, cifar10, gan, policy_gradient, seq2seq
from benchmarks.tables.export import export_table
from benchmarks.tables.front import front

ROOT = RESULTS.parent
READMES = [ROOT / "README.md", ROOT / "docs" / "serving.md", *sorted((ROOT / "projects").glob("*/README.md"))]
BLOCK = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
TABLES: dict[str, Callable[[], str]] = {
    "front": front,
    "cifar10-results": cifar10.results_table,
    "cifar10-benchmark": cifar10.benchmark_table,
    "cifar10-ideas": cifar10.ideas_table,
    "cifar10-narrow": cifar10.narrow_table,
    "cifar10-recipes": cifar10.recipes_table,
    "seq2seq-results": seq2seq.results_table,
    "seq2seq-benchmark": seq2seq.benchmark_table,
    "seq2seq-knn": seq2seq.knn_table,
    "seq2seq-signatures": seq2seq.signatures_table,
    "bert_sentiment-results": bert_sentiment.results_table,
    "bert_sentiment-benchmark": bert_sentiment.benchmark_table,
    "gan-results": gan.results_table,
    "gan-images": gan.images_table,
    "gan-benchmark": gan.benchmark_table,
    "policy_gradient-results": policy_gradient.results_table,
    "policy_gradient-benchmark": policy_gradient.benchmark_table,
    "export": export_table,
}


def with_tables(text: str) -> str:
    """Text of a README with every table as the results give it."""
    return BLOCK.sub(lambda match: f"{match[1]}{TABLES[match[2]]()}{match[3]}", text)
