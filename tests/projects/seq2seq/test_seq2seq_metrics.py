"""Scores are sacreBLEU's, buckets hold the sentences of their lengths."""

import pytest
import sacrebleu
from sacremoses import MosesTokenizer

from common.errors import UserError
from projects.seq2seq.metrics import (
    bleu_by_length,
    bleu_lc,
    choose_tokenizer,
    exact_match,
    length_bucket,
    length_unit,
    score_translations,
)

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


@pytest.mark.parametrize("language", ["zh", "zh-TW", "zh_CN", "Chinese"])
def test_chinese_is_tokenized_by_characters(language):
    references, hypotheses = (
        ["一个男人骑着红色的自行车。", "两只狗在雪地里玩耍!"],
        ["一个男人骑红色的自行车。", "两只狗在雪里玩耍!"],
    )
    scores, signatures = score_translations(references, references, language)
    assert (scores["bleu"], scores["bleu_lc"]) == (pytest.approx(100), pytest.approx(100))
    assert "tok:zh" in signatures["bleu"] and "bleu_moses_lc" not in scores, "Moses separates no words there"
    scores, _ = score_translations(hypotheses, references, language)
    assert scores["bleu"] == pytest.approx(sacrebleu.corpus_bleu(hypotheses, [references], tokenize="zh").score)


def test_lengths_are_in_characters_where_no_spaces_separate_words():
    found = bleu_by_length(["一" * 17, "一" * 16], ["一 " * 17, "一" * 16], "zh")
    assert list(found) == ["1-16", "17-24"] and length_unit("zh") == length_unit("char") == "characters"
    assert length_unit("13a") == length_unit("ko-mecab") == "words"


@pytest.fixture
def no_mecab(monkeypatch):
    for module in ("tokenizer_ja_mecab", "tokenizer_ko_mecab"):
        monkeypatch.setattr(f"sacrebleu.tokenizers.{module}.MeCab", None)
    choose_tokenizer.cache_clear()
    yield
    choose_tokenizer.cache_clear()


@pytest.mark.usefixtures("no_mecab")
@pytest.mark.parametrize("language", ["ja", "ko"])
def test_without_mecab_scores_are_over_characters_and_a_line_says_so(language, capsys):
    for _ in range(2):
        assert choose_tokenizer("auto", language) == "char"
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and f"sacrebleu[{language}]" in error
    with pytest.raises(UserError, match=rf"sacrebleu\[{language}\]"):
        choose_tokenizer(f"{language}-mecab", language)


def test_tokenizer_follows_the_option_before_the_language():
    assert [choose_tokenizer(*pair) for pair in [("auto", "de"), ("auto", "th"), ("char", "de"), ("zh", "target")]] == [
        "13a",
        "char",
        "char",
        "zh",
    ]
