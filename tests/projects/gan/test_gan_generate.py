"""Generation command: the files that it prints are those that it writes; one that it cannot write is refused before."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from projects.gan.generate import new_parser, write

POINTS: Any = SimpleNamespace(data_source="ring8")
IMAGES: Any = SimpleNamespace(data_source="sample")


def options(output: Path) -> argparse.Namespace:
    return new_parser().parse_args(["--checkpoint", "x.ckpt", "--output", str(output)])


@pytest.mark.parametrize("name", ["foo", "foo.png", "foo.csv"])
def test_points_are_written_to_the_files_that_are_printed(tmp_path, name):
    written = write(POINTS, torch.randn(5, 2), options(tmp_path / name))
    assert sorted(written) == sorted(tmp_path.iterdir()) == [tmp_path / "foo.csv", tmp_path / "foo.png"]


def test_images_without_a_suffix_are_a_png(tmp_path):
    written = write(IMAGES, torch.zeros(2, 3, 32, 32), options(tmp_path / "foo"))
    assert written == list(tmp_path.iterdir()) == [tmp_path / "foo.png"]


@pytest.mark.parametrize("pipeline, shape", [(POINTS, (5, 2)), (IMAGES, (2, 3, 32, 32))])
def test_an_unknown_suffix_writes_nothing(tmp_path, pipeline, shape):
    with pytest.raises(ValueError, match="xyz"):
        write(pipeline, torch.zeros(shape), options(tmp_path / "foo.xyz"))
    assert list(tmp_path.iterdir()) == []
