"""Inputs of the pipelines: what cannot be meant is one line, and never an answer to another question."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.data.inputs import check_images, check_rows, check_texts
from common.errors import UserError

IMAGE = torch.zeros(3, 32, 32, dtype=torch.uint8)


@pytest.mark.parametrize(
    "images, given",
    [
        (IMAGE, r"\(3, 32, 32\) of uint8 where \(n, 3, 32, 32\)"),
        (torch.zeros(2, 3, 40, 40, dtype=torch.uint8), r"\(2, 3, 40, 40\) of uint8"),
        (torch.zeros(2, 32, 32, 3, dtype=torch.uint8), r"\(2, 32, 32, 3\) of uint8"),
        (torch.rand(2, 3, 32, 32), r"\(2, 3, 32, 32\) of float32 where .* of uint8, RGB from 0 to 255"),
        ([IMAGE, IMAGE.float()], r"\(3, 32, 32\) of float32 where \(3, 32, 32\) of uint8"),
        ([IMAGE.numpy()], "ndarray where images are expected"),
        (["cat.png"], "str where images are expected"),
    ],
)
def test_images_of_another_shape_or_type_are_refused(images, given):
    with pytest.raises(UserError, match=given):
        check_images(images, 32)


@pytest.mark.parametrize("images", [IMAGE[None], IMAGE[None][:0], [IMAGE, IMAGE], []])
def test_images_of_the_right_shape_pass(images):
    check_images(images, 32)


@pytest.mark.parametrize(
    "texts, given", [("one", "one text where a list"), ([b"a"], "bytes where"), (["a", None], "NoneType")]
)
def test_texts_are_several(texts, given):
    check_texts(["one", ""], "call([])")
    with pytest.raises(UserError, match=rf"{given}.*call it as call\(\[\]\)"):
        check_texts(texts, "call([])")


@pytest.mark.parametrize(
    "rows, line",
    [
        ([[1.0, 2.0], [1.0]], "row 2 has 1 features, not 2"),
        ([1.0, 2.0], "row 1 has no features, not 2"),
        ([[1.0, 2.0], [3.0, float("nan")]], "row 2 has a value that is not a finite number"),
        (np.full((3, 2), np.inf), "row 1 has a value that is not"),
        ([["a", "b"]], "rows of numbers are expected: could not convert"),
        (torch.zeros(1, 2, 3), "rows of numbers are expected"),
    ],
)
def test_rows_that_are_no_features_are_refused(rows, line):
    with pytest.raises(UserError, match=line):
        check_rows(rows, 2)


@pytest.mark.parametrize(
    "rows", [[[1, 2], [3, 4]], np.array([[1.0, 2.0], [3.0, 4.0]]), [np.array([1, 2]), np.array([3, 4])]]
)
def test_rows_become_a_tensor(rows):
    assert check_rows(rows, 2).equal(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert check_rows(rows[:0], 2).shape == (0, 2)
