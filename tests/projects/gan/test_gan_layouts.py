"""Layouts of images that the README's table has: each is read, and no other is in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from image_layouts import ROWS, readme_rows
from projects.gan import data as data_module
from projects.gan.data import GANData


@pytest.mark.parametrize("row", ROWS)
def test_a_layout_of_the_readme_is_read(tmp_path, row):
    write, options, sizes = ROWS[row]
    write(tmp_path / "mine")
    data = GANData(str(tmp_path / "mine"), **options)
    data.eval_samples = 1  # some have two images to train on
    splits = data.load()
    assert (len(splits["train"]) + len(splits["val"]), len(splits["test"])) == sizes
    assert data.num_classes == (1 if row == "images without classes" else 2)


def test_the_readme_has_these_layouts():
    assert readme_rows(Path(data_module.__file__).with_name("README.md")) == list(ROWS)
