"""Translation metrics: BLEU and chrF by sacreBLEU with their signatures, BLEU by length, exact match."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

from common.errors import UserError
from common.io.ranks import is_global_zero

BLEUTokenize = Literal["auto", "13a", "intl", "zh", "ja-mecab", "ko-mecab", "char", "none"]  # of sacreBLEU, but for "auto"
TOKENIZERS = {  # by the names that columns of a language have; 13a for all others
    "zh": ("zh", "zho", "chi", "cmn", "yue", "chinese"),
    "ja-mecab": ("ja", "jpn", "japanese"),
    "ko-mecab": ("ko", "kor", "korean"),
    "char": ("th", "tha", "thai", "lo", "lao", "km", "khm", "khmer", "my", "mya", "burmese"),  # without spaces
}
WITHOUT_SPACES = ("zh", "ja-mecab", "char")
LAST_WORDS = (8, 12, 16, 20)  # upper ends of the buckets of reference lengths, in words; the last bucket is open
CHARACTERS_PER_WORD = 2  # of the buckets where words are not separated


@cache
def choose_tokenizer(tokenize: str, language: str) -> str:
    """SacreBLEU's tokenizer that `tokenize` means for a target language; `auto` is by its name, such as "zh" or "zh-TW".

    Where `auto` would take MeCab and it is not installed, it is `char`, and a line says so. Raises UserError if MeCab was
    asked for.
    """
    first = re.split(r"[^a-z]", language.lower())[0]
    by_language = next((name for name, languages in TOKENIZERS.items() if first in languages), "13a")
    chosen = by_language if tokenize == "auto" else tokenize
    try:
        bleu_metric(tokenize=chosen)
    except RuntimeError as error:
        needs = f'BLEU tokenizer {chosen}: run `pip install "sacrebleu[{chosen[:2]}]"`'
        if tokenize != "auto":
            raise UserError(f"{needs}, or use --model.bleu_tokenize char") from error
        if is_global_zero():
            print(f"{needs}; until then BLEU is over characters (char)", file=sys.stderr)
        return "char"
    return chosen


def score_translations(
    translations: Sequence[str], references: Sequence[str], language: str, tokenize: str = "auto"
) -> tuple[dict[str, float], dict[str, str]]:
    """Corpus scores in per cent against one reference each, and their sacreBLEU signatures.

    `bleu` is cased, with sacreBLEU's own tokenization, `bleu_lc` the same in lower case; `bleu_moses_lc` is in lower case
    over Moses tokens, as most papers on Multi30k report it (multi-bleu.perl), where words are separated by spaces; `chrf` is
    chrF2, cased, `chrf_lc` the same in lower case.

    Args:
        translations: One per reference.
        references: One per translation.
        language: Of both, such as "de"; tokenization depends on it.
        tokenize: SacreBLEU's tokenizer, see `choose_tokenizer`.
    """
    from sacrebleu.metrics import CHRF

    cased, tokenize = (translations, references), choose_tokenizer(tokenize, language)
    metrics: dict[str, tuple[Any, Sequence[Sequence[str]]]] = {
        "bleu": (bleu_metric(tokenize=tokenize), cased),
        "bleu_lc": (bleu_metric(tokenize=tokenize, lowercase=True), cased),
        "chrf": (CHRF(), cased),
        "chrf_lc": (CHRF(lowercase=True), cased),
    }
    if tokenize not in WITHOUT_SPACES:
        moses = moses_tokenizer(language)
        tokens = [[moses.tokenize(line, return_str=True, escape=False) for line in side] for side in cased]
        metrics["bleu_moses_lc"] = bleu_metric(tokenize="none", lowercase=True), tokens
    scores, signatures = {}, {}
    for name, (metric, (hypotheses, targets)) in metrics.items():
        scores[name] = float(metric.corpus_score(list(hypotheses), [list(targets)]).score)
        signatures[name] = str(metric.get_signature())
    if "bleu_moses_lc" in signatures:
        signatures["bleu_moses_lc"] += f"|moses:{language}"
    return scores, signatures


def bleu_metric(**options: Any) -> Any:
    """BLEU of sacreBLEU; `force` only silences a warning about text that is already tokenized."""
    from sacrebleu.metrics import BLEU

    return BLEU(force=True, **options)


def paired_bleu(
    systems: tuple[Sequence[str], Sequence[str]], references: Sequence[str], language: str, tokenize: str = "auto"
) -> tuple[float, float, float]:
    """BLEU of two systems, cased, in per cent, and the p-value of their difference (Koehn, 2004: paired bootstrap)."""
    from sacrebleu.significance import PairedTest

    metric = bleu_metric(tokenize=choose_tokenizer(tokenize, language), references=[list(references)])
    named: list[tuple[str, Sequence[str]]] = [(str(i), list(system)) for i, system in enumerate(systems)]
    scores: Any = PairedTest(named, {"BLEU": metric}, references=None, test_type="bs")()[1]["BLEU"]
    return scores[0].score, scores[1].score, scores[1].p_value


@cache
def moses_tokenizer(language: str) -> Any:
    """Tokenizer of Moses."""
    from sacremoses import MosesTokenizer

    return MosesTokenizer(lang=language)


def bleu_lc(translations: Sequence[str], references: Sequence[str], tokenize: str = "13a") -> float:
    """BLEU in lower case, in per cent; 0 for no translations."""
    if not translations:
        return 0.0
    metric = bleu_metric(tokenize=tokenize, lowercase=True)
    return float(metric.corpus_score(list(translations), [list(references)]).score)


def sentence_chrf(translations: Sequence[str], references: Sequence[str]) -> list[float]:
    """The chrF2 of each translation, cased, in per cent."""
    from sacrebleu.metrics import CHRF

    metric = CHRF()
    return [float(metric.sentence_score(*pair).score) for pair in zip(translations, ([r] for r in references), strict=True)]


def length_unit(tokenize: str) -> str:
    """Unit of `bleu_by_length` under one of sacreBLEU's tokenizers: words, or characters where no spaces separate them."""
    return "characters" if tokenize in WITHOUT_SPACES else "words"


def length_bucket(length: int, lasts: Sequence[int] = LAST_WORDS) -> str:
    """Name of the bucket of a reference of so many words or characters: "1-8", "9-12", ..., "21+"."""
    firsts = [1, *(last + 1 for last in lasts)]
    index = sum(length > last for last in lasts)
    return f"{firsts[index]}-{lasts[index]}" if index < len(lasts) else f"{firsts[index]}+"


def bleu_by_length(
    translations: Sequence[str], references: Sequence[str], tokenize: str = "13a"
) -> dict[str, tuple[float, int]]:
    """BLEU in lower case and number of sentences of each bucket of reference lengths in `length_unit`, short ones first."""
    words = length_unit(tokenize) == "words"
    lasts = [last * (1 if words else CHARACTERS_PER_WORD) for last in LAST_WORDS]
    buckets: dict[str, list[int]] = {length_bucket(last, lasts): [] for last in (*lasts, lasts[-1] + 1)}
    for i, reference in enumerate(references):
        buckets[length_bucket(len(reference.split() if words else "".join(reference.split())), lasts)].append(i)
    return {
        name: (bleu_lc([translations[i] for i in index], [references[i] for i in index], tokenize), len(index))
        for name, index in buckets.items()
        if index
    }


def exact_match(translations: Sequence[str], references: Sequence[str]) -> float:
    """Fraction of translations that equal their reference, letter by letter."""
    return sum(a == b for a, b in zip(translations, references, strict=True)) / max(1, len(references))
