"""Image of the front page: a panel of each capstone, whole, in columns of one height."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from benchmarks import front_page

COLORS = {name: (40 * i, 255 - 40 * i, 99) for i, name in enumerate(front_page.PANELS)}
SIZES = {"cifar10": (700, 480), "bert_sentiment": (780, 260), "policy_gradient": (600, 222), "seq2seq": (500, 540)}


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Finished runs, whose plots are of one color."""
    folders = []
    for name, (_, metric, text) in list(front_page.PANELS.items()):

        def draw(checkpoint, path, name=name):
            assert checkpoint.name == "best.ckpt"
            Image.new("RGB", SIZES.get(name, (572, 637)), COLORS[name]).save(path)
            return path

        monkeypatch.setitem(front_page.PANELS, name, (draw, metric, text))
        summary = {"project": name, "data_source": "sample", "checkpoint": "best.ckpt", "test": {f"test/{metric}": 0.5}}
        folders.append(tmp_path / name)
        folders[-1].mkdir()
        summary["best_validation"] = {f"val/{metric}": 0.75}
        (folders[-1] / "summary.json").write_text(json.dumps(summary))
    return folders


def test_every_capstone_has_its_panel_whole(runs, tmp_path, monkeypatch):
    headings: list[str] = []
    add_caption = front_page.add_caption
    monkeypatch.setattr(front_page, "add_caption", lambda *args: headings.append(args[1]) or add_caption(*args))
    assert front_page.main([*map(str, reversed(runs)), "--output", str(tmp_path / "x.png")]) == 0
    pixels = np.asarray(Image.open(tmp_path / "x.png").convert("RGB"))
    bottoms = {}
    for name, color in COLORS.items():
        rows, columns = (np.flatnonzero((pixels == color).all(2).any(axis)) for axis in (1, 0))
        width, height = SIZES.get(name, (572, 637))
        assert len(columns) / len(rows) == pytest.approx(width / height, rel=0.02)
        bottoms[name] = rows[-1]
    assert abs(bottoms["policy_gradient"] - bottoms["gan"]) < 0.1 * len(pixels), "columns of one height"
    assert "cifar10, embedded sample: accuracy 75.0% in validation, 50.0% in test" in headings


def test_a_run_that_is_missing_or_no_run_is_one_line(runs, tmp_path, capsys):
    assert front_page.main([*map(str, runs[1:]), "--output", str(tmp_path / "x.png")]) == 2
    assert "none is of cifar10" in capsys.readouterr().err
    (runs[0] / "summary.json").unlink()
    assert front_page.main([*map(str, runs), "--output", str(tmp_path / "x.png")]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "x.png").exists()
