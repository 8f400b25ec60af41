"""Checks of what users pass to an inference pipeline: inputs of another shape or type would give wrong answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError, one_line


def check_texts(texts: Sequence[str], example: str) -> None:
    """Checks that `texts` are several texts: of a single one, every letter would be taken for a text.

    Raises:
        UserError: They are not; the message has the `example` of a call.
    """
    if isinstance(texts, str):
        raise UserError(f"one text where a list of texts is expected; call it as {example}")
    if wrong := [text for text in texts if not isinstance(text, str)]:
        raise UserError(f"{type(wrong[0]).__name__} where a text is expected; call it as {example}")


def check_images(images: Tensor | Sequence[Tensor], size: int) -> None:
    """Checks that images are (n, 3, size, size) uint8, or a sequence of (3, size, size).

    Raises:
        UserError: They are not; the message says which shape and type they have.
    """
    shape = (3, size, size)
    for image in [images] if isinstance(images, Tensor) else images:
        if not isinstance(image, Tensor):
            raise UserError(f"{type(image).__name__} where images are expected: tensors {shape} of uint8, RGB from 0 to 255")
        expected = ("n", *shape) if isinstance(images, Tensor) else shape
        if image.dtype != torch.uint8 or image.dim() != len(expected) or image.shape[-3:] != shape:
            given = f"{tuple(image.shape)} of {str(image.dtype).removeprefix('torch.')}"
            wanted = f"({', '.join(map(str, expected))}) of uint8, RGB from 0 to 255"
            raise UserError(f"images {given} where {wanted} is expected")


def check_rows(rows: Sequence[Sequence[float]] | Sequence[np.ndarray] | np.ndarray, length: int) -> Tensor:
    """Rows of numbers as a tensor (rows, length) float32.

    Raises:
        UserError: A row has another length, or a value that is no finite number; the message has its number, from 1.
    """
    for number, row in enumerate(rows, 1):
        if (found := count(row)) != length:
            raise UserError(f"row {number} has {'no' if found is None else found} features, not {length}")
    try:
        inputs = torch.from_numpy(np.array(rows, np.float32).reshape(len(rows), length))
    except (TypeError, ValueError) as error:
        raise UserError(f"rows of numbers are expected: {one_line(error)}") from error
    if len(wrong := (~inputs.isfinite()).any(1).nonzero()):
        raise UserError(f"row {int(wrong[0]) + 1} has a value that is not a finite number")
    return inputs


def count(row: Any) -> int | None:
    """Number of values of a row; None if it is a single value."""
    try:
        return len(row)
    except TypeError:
        return None
