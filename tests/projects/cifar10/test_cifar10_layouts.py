"""Layouts of images that the README's table has: each is read, and no other is in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import UserError
from image_layouts import ROWS, readme_rows
from projects.cifar10 import data as data_module
from projects.cifar10.data import CIFAR10Data


@pytest.mark.parametrize("row", ROWS)
def test_a_layout_of_the_readme_is_read(tmp_path, row):
    write, options, sizes = ROWS[row]
    write(tmp_path / "mine")
    data = CIFAR10Data(str(tmp_path / "mine"), **options)
    if row == "images without classes":
        with pytest.raises(UserError, match="has no labels; classification needs a folder for each"):
            data.load()
        return
    splits = data.load()
    num_train = len(splits["train"]) + (len(splits["val"]) if "validation" not in row else 0)
    assert (num_train, len(splits["test"]), data.num_classes) == (*sizes, 2)
    assert set(splits["train"].labels.tolist()) == {0, 1}


def test_the_readme_has_these_layouts():
    assert readme_rows(Path(data_module.__file__).with_name("README.md")) == list(ROWS)
