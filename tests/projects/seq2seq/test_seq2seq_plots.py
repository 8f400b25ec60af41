"""Attention maps are of bounded size, whatever their tokens are."""

import torch
from PIL import Image

from projects.seq2seq import plots
from projects.seq2seq.plots import draw_attention


def attention_map(rows, columns):
    return torch.rand(rows, columns), ["·$$"] * rows, ["$x_$"] * columns


def test_long_sentences_are_plotted_by_their_first_tokens_and_the_title_says_so(tmp_path, monkeypatch):
    figures, most = [], 9
    monkeypatch.setattr(plots, "MAX_PLOTTED_TOKENS", most)
    save = plots.save_figure
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: figures.append(figure) or save(figure, path))
    with Image.open(draw_attention([attention_map(900, 1024), attention_map(3, 5)], tmp_path / "map.png")) as image:
        assert max(image.size) < 1500
    long, short = figures[0].axes
    assert long.get_title() == "first tokens of 1024 (source) and 900 (target)" and short.get_title() == ""
    assert long.images[0].get_array().shape == (most, most)
    assert short.images[0].get_array().shape == (3, 5)
    assert len(long.get_xticks()) == len(long.get_yticks()) == most
