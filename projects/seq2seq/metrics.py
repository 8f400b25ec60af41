"""Translation metrics: BLEU and chrF by sacreBLEU with their signatures, BLEU by length, exact match."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

LAST_WORDS = (8, 12, 16, 20)  # upper ends of the buckets of reference lengths, in words; the last bucket is open


def score_translations(
    translations: Sequence[str], references: Sequence[str], language: str
) -> tuple[dict[str, float], dict[str, str]]:
    """Corpus scores in per cent against one reference each, and their sacreBLEU signatures.

    `bleu` is cased, with sacreBLEU's own tokenization (13a), `bleu_lc` the same in lower case; `bleu_moses_lc` is in lower
    case over Moses tokens, as most papers on Multi30k report it (multi-bleu.perl); `chrf` is chrF2, cased, `chrf_lc` the
    same in lower case.

    Args:
        translations: One per reference.
        references: One per translation.
        language: Of both, such as "de"; Moses tokenization depends on it.
    """
    from sacrebleu.metrics import CHRF

    cased = translations, references
    moses = tuple(
        [moses_tokenizer(language).tokenize(line, return_str=True, escape=False) for line in side] for side in cased
    )
    metrics: dict[str, tuple[Any, Sequence[Sequence[str]]]] = {
        "bleu": (bleu_metric(), cased),
        "bleu_lc": (bleu_metric(lowercase=True), cased),
        "bleu_moses_lc": (bleu_metric(tokenize="none", lowercase=True), moses),
        "chrf": (CHRF(), cased),
        "chrf_lc": (CHRF(lowercase=True), cased),
    }
    scores, signatures = {}, {}
    for name, (metric, (hypotheses, targets)) in metrics.items():
        scores[name] = float(metric.corpus_score(list(hypotheses), [list(targets)]).score)
        signatures[name] = str(metric.get_signature())
    signatures["bleu_moses_lc"] += f"|moses:{language}"
    return scores, signatures


def bleu_metric(**options: Any) -> Any:
    """BLEU of sacreBLEU; `force` only silences a warning about text that is already tokenized."""
    from sacrebleu.metrics import BLEU

    return BLEU(force=True, **options)


@cache
def moses_tokenizer(language: str) -> Any:
    """Tokenizer of Moses."""
    from sacremoses import MosesTokenizer

    return MosesTokenizer(lang=language)


def bleu_lc(translations: Sequence[str], references: Sequence[str]) -> float:
    """BLEU in lower case, in per cent; 0 for no translations."""
    if not translations:
        return 0.0
    return float(bleu_metric(lowercase=True).corpus_score(list(translations), [list(references)]).score)


def length_bucket(words: int) -> str:
    """Name of the bucket of a reference of so many words: "1-8", "9-12", ..., "21+"."""
    firsts = [1, *(last + 1 for last in LAST_WORDS)]
    index = sum(words > last for last in LAST_WORDS)
    return f"{firsts[index]}-{LAST_WORDS[index]}" if index < len(LAST_WORDS) else f"{firsts[index]}+"


def bleu_by_length(translations: Sequence[str], references: Sequence[str]) -> dict[str, tuple[float, int]]:
    """BLEU in lower case and number of sentences of each bucket of reference lengths, short ones first."""
    buckets: dict[str, list[int]] = {length_bucket(last): [] for last in (*LAST_WORDS, LAST_WORDS[-1] + 1)}
    for i, reference in enumerate(references):
        buckets[length_bucket(len(reference.split()))].append(i)
    return {
        name: (bleu_lc([translations[i] for i in index], [references[i] for i in index]), len(index))
        for name, index in buckets.items()
        if index
    }


def exact_match(translations: Sequence[str], references: Sequence[str]) -> float:
    """Fraction of translations that equal their reference, letter by letter."""
    return sum(a == b for a, b in zip(translations, references, strict=True)) / max(1, len(references))
