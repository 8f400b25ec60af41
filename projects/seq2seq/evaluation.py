"""How good translations are: BLEU and chrF with their signatures, by length too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

BUCKETS = (8, 12, 16, 20)  # words of a reference: up to 8, 9 to 12, ...; the last is open


@dataclass
class Scores:
    """Corpus scores in per cent.

    Args:
        bleu: cased, sacreBLEU's own tokenisation (13a).
        bleu_lower: the same in lower case.
        bleu_tokenized: in lower case over Moses tokens, as most papers on Multi30k report it (multi-bleu.perl).
        chrf: chrF2, cased.
        chrf_lower: the same in lower case.
        signatures: sacreBLEU's description of each.
    """

    bleu: float
    bleu_lower: float
    bleu_tokenized: float
    chrf: float
    chrf_lower: float
    signatures: dict[str, str]


def evaluate(hypotheses: Sequence[str], references: Sequence[str], language: str) -> Scores:
    """Scores of translations against one reference each.

    Args:
        hypotheses: the translations.
        references: as many.
        language: of both, such as "de"; Moses' tokenisation depends on it.
    """
    from sacrebleu.metrics import CHRF

    scores: dict[str, float] = {}
    signatures: dict[str, str] = {}
    moses = [moses_tokenize(lines, language) for lines in (hypotheses, references)]
    for name, metric, (found, wanted) in [
        ("bleu", bleu_metric(), (hypotheses, references)),
        ("bleu_lower", bleu_metric(lowercase=True), (hypotheses, references)),
        ("bleu_tokenized", bleu_metric(tokenize="none", lowercase=True), moses),
        ("chrf", CHRF(), (hypotheses, references)),
        ("chrf_lower", CHRF(lowercase=True), (hypotheses, references)),
    ]:
        scores[name] = metric.corpus_score(list(found), [list(wanted)]).score
        signatures[name] = str(metric.get_signature())
    signatures["bleu_tokenized"] += f"|moses:{language}"
    return Scores(**scores, signatures=signatures)


def bleu_metric(**options: Any) -> Any:
    """sacreBLEU's BLEU; `force` only silences a warning about text that is tokenised already."""
    from sacrebleu.metrics import BLEU

    return BLEU(force=True, **options)


def corpus_bleu(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """BLEU in lower case alone: the quick measure of a validation. 0 where there is nothing to score."""
    if not hypotheses:
        return 0.0
    return float(bleu_metric(lowercase=True).corpus_score(list(hypotheses), [list(references)]).score)


@lru_cache
def moses(language: str) -> Any:
    """The tokenizer of Moses for a language."""
    from sacremoses import MosesTokenizer

    return MosesTokenizer(lang=language)


def moses_tokenize(lines: Sequence[str], language: str) -> list[str]:
    """Each line with its tokens apart, by the tokenizer of Moses."""
    return [moses(language).tokenize(line, return_str=True, escape=False) for line in lines]


def bucket(words: int) -> int:
    """Which of `BUCKETS` a reference of so many words is in; `len(BUCKETS)` for longer ones."""
    return sum(words > last for last in BUCKETS)


def bucket_names() -> list[str]:
    """What the buckets are called: "1-8", "9-12", ..., "21+"."""
    firsts = [1, *(last + 1 for last in BUCKETS)]
    return [f"{a}-{b}" for a, b in zip(firsts, BUCKETS, strict=False)] + [f"{firsts[-1]}+"]


def bleu_by_length(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, tuple[float, int]]:
    """BLEU in lower case of the sentences of each bucket of reference lengths, with their number; empty buckets left out."""
    numbers = [bucket(len(line.split())) for line in references]
    result = {}
    for number, name in enumerate(bucket_names()):
        chosen = [i for i, other in enumerate(numbers) if other == number]
        if chosen:
            score = corpus_bleu([hypotheses[i] for i in chosen], [references[i] for i in chosen])
            result[name] = (score, len(chosen))
    return result


def exact_match(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """The share of translations that are their reference, letter by letter."""
    return sum(a == b for a, b in zip(hypotheses, references, strict=True)) / max(1, len(references))
