"""Plots show the attention, the tokens and the scores that they were called with, in figures of bounded size."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import sacrebleu
import torch
from PIL import Image

from projects.seq2seq import plots
from projects.seq2seq.config import EOS
from projects.seq2seq.hypotheses import Hypothesis
from projects.seq2seq.plots import TranslationPlots, attention_maps, draw_attention
from projects.seq2seq.tokenizer import token_names, train_bpe


def labels(ticks) -> list[str]:
    return [label.get_text() for label in ticks]


def test_attention_has_target_tokens_in_rows_and_source_tokens_in_columns(tmp_path, drawn):
    maps = [(torch.rand(2 + i, 9 - i), [f"t{n}" for n in range(2 + i)], [f"s{n}" for n in range(9 - i)]) for i in range(3)]
    draw_attention(maps, tmp_path / "x.png")
    assert [axes.get_visible() for axes in drawn[0].axes] == [True, True, True, False, True]  # the last is the color bar
    assert len({(axes.get_xlim(), axes.get_ylim()) for axes in drawn[0].axes[:3]}) == 1, "cells of one size"
    assert (drawn[0].axes[0].get_xlabel(), drawn[0].axes[0].get_ylabel()) == ("source tokens", "target tokens")
    for axes, (weights, rows, columns) in zip(drawn[0].axes, maps, strict=False):
        torch.testing.assert_close(torch.tensor(axes.images[0].get_array()), weights)
        assert (labels(axes.get_yticklabels()), labels(axes.get_xticklabels())) == (rows, columns)


def test_maps_name_the_tokens_of_source_and_translation():
    tokenizers = (train_bpe(["das Haus ist alt"] * 9, 280), train_bpe(["the house is old"] * 9, 280))
    source, target = (tokenizer.encode(text).ids for tokenizer, text in zip(tokenizers, ("das Haus", "old"), strict=True))
    attention = torch.rand(len(target), len(source) + 1)
    best = [Hypothesis(target, 0.0, 0.0, True, attention)] * 2
    ((weights, rows, columns),) = attention_maps([source, []], best, tokenizers)
    assert weights is attention and rows == token_names(tokenizers[1], target)
    assert columns == token_names(tokenizers[0], [*source, EOS]) and "".join(rows) != "".join(columns[:-1])


def test_bars_are_the_bleu_of_each_length(tmp_path, drawn):
    references = ["a b c d e f g", "a b c d e f g h", "a b c d e f g h i j"]
    translations = ["a b c d e f g", "a b c d x f g h", "a b c d e f x h i j"]
    module = SimpleNamespace(translations=dict(reversed(list(enumerate(translations)))), tokenize="13a")  # in any order
    test = SimpleNamespace(source=["x"] * 3, target=references)
    data = SimpleNamespace(
        splits={"test": test}, languages=("en", "de"), source_description="pairs", evaluated_checkpoint=""
    )
    TranslationPlots(tmp_path).on_test_end(SimpleNamespace(is_global_zero=True, datamodule=data, loggers=[]), module)
    (axes,) = drawn[0].axes
    short = sacrebleu.corpus_bleu(translations[:2], [references[:2]]).score
    long = sacrebleu.corpus_bleu(translations[2:], [references[2:]]).score
    assert [bar.get_height() for bar in axes.patches] == pytest.approx([short, long])
    assert labels(axes.get_xticklabels()) == ["1-8\n2 sentences", "9-12\n1 sentences"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("length of the reference in words", "BLEU, lower case")


def test_worst_translations_have_the_lowest_chrf(tmp_path, monkeypatch, drawn):
    monkeypatch.setattr(plots, "NUM_WORST", 2)
    tables = {}
    monkeypatch.setattr(plots, "log_table", lambda trainer, name, header, rows: tables.update({name: (header, rows)}))
    references = ["the old house", "a small dog", "two red birds", "the sea"]
    translations = ["the old house", "a cat", "two birds", "the sea"]
    module = SimpleNamespace(translations=dict(enumerate(translations)), tokenize="13a")
    pairs = SimpleNamespace(source=list("abcd"), target=references)
    data = SimpleNamespace(splits={"test": pairs}, languages=("de", "en"))
    TranslationPlots(tmp_path).on_test_end(SimpleNamespace(is_global_zero=True, datamodule=data, loggers=[]), module)
    scores = [
        round(sacrebleu.sentence_chrf(*pair).score, 1)
        for pair in (("a cat", ["a small dog"]), ("two birds", ["two red birds"]))
    ]
    rows = [["b", "a small dog", "a cat", scores[0]], ["c", "two red birds", "two birds", scores[1]]]
    assert scores[0] < scores[1] and tables == {"test/worst": (["de", "en", "translation", "chrF"], rows)}
    assert (tmp_path / "worst.md").read_text().splitlines()[-2:] == [f"| {' | '.join(map(str, row))} |" for row in rows]


def attention_map(rows, columns):
    return torch.rand(rows, columns), ["·$$"] * rows, ["$x_$"] * columns


def test_long_sentences_are_plotted_by_their_first_tokens_and_the_title_says_so(tmp_path, monkeypatch):
    figures, most = [], 9
    monkeypatch.setattr(plots, "MAX_PLOTTED_TOKENS", most)
    save = plots.save_figure
    monkeypatch.setattr(plots, "save_figure", lambda figure, *rest: figures.append(figure) or save(figure, *rest))
    with Image.open(draw_attention([attention_map(900, 1024), attention_map(3, 5)], tmp_path / "map.png")) as image:
        assert max(image.size) < 1500
    long, short, _ = figures[0].axes
    assert long.get_title("left") == "sentence 1, first tokens of 1024 (source) and 900 (target)"
    assert short.get_title("left") == "sentence 2"
    assert long.images[0].get_array().shape == (most, most)
    assert short.images[0].get_array().shape == (3, 5)
    assert len(long.get_xticks()) == len(long.get_yticks()) == most
