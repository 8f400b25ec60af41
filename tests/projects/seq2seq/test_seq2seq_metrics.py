"""Scores are sacreBLEU's, buckets hold the sentences of their lengths."""

import pytest
import sacrebleu
from sacremoses import MosesTokenizer

from projects.seq2seq.metrics import bleu_by_length, bleu_lc, exact_match, length_bucket, score_translations

REFERENCES = [
    "Ein Mann fährt auf einem roten Fahrrad.",
    "Zwei Hunde spielen im Schnee!",
    "Die Frau liest ein Buch, das alt ist.",
]
HYPOTHESES = ["Ein mann fährt auf einem Fahrrad.", "Zwei Hunde spielen im Schnee!", "Eine Frau liest das alte Buch."]


def test_scores_are_those_of_sacrebleu():
    scores, _ = score_translations(HYPOTHESES, REFERENCES, "de")
    assert scores["bleu"] == pytest.approx(sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES]).score)
    assert scores["bleu_lc"] == pytest.approx(sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES], lowercase=True).score)
    assert scores["chrf"] == pytest.approx(sacrebleu.corpus_chrf(HYPOTHESES, [REFERENCES]).score)
    hypotheses, references = ([line.lower() for line in lines] for lines in (HYPOTHESES, REFERENCES))
    assert scores["chrf_lc"] == pytest.approx(sacrebleu.corpus_chrf(hypotheses, [references]).score)
    assert scores["chrf"] < scores["chrf_lc"] and scores["bleu"] < scores["bleu_lc"], "one word differs in its case alone"
    assert bleu_lc(HYPOTHESES, REFERENCES) == scores["bleu_lc"]


def test_the_tokenized_score_is_that_of_lower_case_moses_tokens():
    tokenizer = MosesTokenizer(lang="de")
    hypotheses, references = (
        [tokenizer.tokenize(line.lower(), return_str=True, escape=False) for line in lines]
        for lines in (HYPOTHESES, REFERENCES)
    )
    expected = sacrebleu.corpus_bleu(hypotheses, [references], tokenize="none", force=True).score
    assert score_translations(HYPOTHESES, REFERENCES, "de")[0]["bleu_moses_lc"] == pytest.approx(expected)


def test_signatures_tell_the_scores_apart():
    _, signatures = score_translations(HYPOTHESES, REFERENCES, "de")
    assert "case:mixed" in signatures["bleu"] and "tok:13a" in signatures["bleu"]
    assert "case:lc" in signatures["bleu_lc"]
    assert "tok:none" in signatures["bleu_moses_lc"] and signatures["bleu_moses_lc"].endswith("moses:de")
    assert "nc:6" in signatures["chrf"] and "case:lc" in signatures["chrf_lc"]


def test_a_perfect_translation_has_100():
    scores, _ = score_translations(REFERENCES, REFERENCES, "de")
    assert (scores["bleu"], scores["bleu_lc"], scores["chrf"]) == (
        pytest.approx(100),
        pytest.approx(100),
        pytest.approx(100),
    )


@pytest.mark.parametrize(
    ("words", "name"),
    [(1, "1-8"), (8, "1-8"), (9, "9-12"), (12, "9-12"), (16, "13-16"), (20, "17-20"), (21, "21+"), (99, "21+")],
)
def test_buckets_by_hand(words, name):
    assert length_bucket(words) == name


def test_bleu_by_length_scores_each_bucket_on_its_own():
    short, long = ["a b c d e"] * 2, ["a b c d e f g h i j k"]
    found = bleu_by_length([*short, "x"], [*short, *long])
    assert found == {"1-8": (pytest.approx(100), 2), "9-12": (pytest.approx(0), 1)}


def test_exact_match_and_empty_input():
    assert exact_match(HYPOTHESES, REFERENCES) == pytest.approx(1 / 3)
    assert exact_match([], []) == 0
    assert bleu_lc([], []) == 0
