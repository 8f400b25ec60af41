"""Decoding: every type of image keeps its brightness and its drawing, and what is converted is counted."""

from __future__ import annotations

import struct
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from common.data.image_decoding import ON_WHITE, SCALED, read_image
from common.errors import UserError

RAMP = np.linspace(0, 1, 64 * 64).reshape(64, 64)


@pytest.mark.parametrize(
    "name, values",
    [
        ("16.png", (RAMP * 65535).astype(np.uint16)),
        ("16.tif", (RAMP * 65535).astype(np.uint16)),
        ("16.pgm", (RAMP * 65535).astype(np.int32)),
        ("32.tif", (RAMP * (2**31 - 1)).astype(np.int32)),
        ("32-of-16.tif", (RAMP * 65535).astype(np.int32)),
        ("32-of-8.tif", (RAMP * 255).astype(np.int32)),
        ("float-1.tif", RAMP.astype(np.float32)),
        ("float-255.tif", (RAMP * 255).astype(np.float32)),
    ],
)
def test_deep_images_are_scaled_by_their_type(tmp_path, name, values):
    Image.fromarray(values).save(tmp_path / name)
    conversions = Counter[str]()
    image = read_image(tmp_path / name, 64, conversions)
    assert (image.float() - torch.from_numpy(RAMP * 255)).abs().max() <= 1
    assert conversions == {SCALED: 1}


def test_a_dark_image_of_16_bits_stays_dark(tmp_path):
    Image.fromarray(np.full((8, 8), 200, np.uint16)).save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png", 8).max() == 1


def test_unsigned_integers_of_32_bits_are_scaled_by_theirs(tmp_path):
    signed = (RAMP * (2**32 - 1)).astype(np.uint32).view(np.int32)
    Image.fromarray(signed).save(tmp_path / "x.tif")
    content, tag = (tmp_path / "x.tif").read_bytes(), struct.pack("<HHI", 339, 3, 1)  # SampleFormat, one short
    assert content.count(tag + b"\2\0") == 1
    (tmp_path / "x.tif").write_bytes(content.replace(tag + b"\2\0", tag + b"\1\0"))  # signed to unsigned
    image = read_image(tmp_path / "x.tif", 64)
    assert (image.float() - torch.from_numpy(RAMP * 255)).abs().max() <= 1


@pytest.mark.parametrize("value", [-1.0, 1e6, float("nan")])
def test_gray_values_of_no_known_range_are_an_error(tmp_path, value):
    values = RAMP.astype(np.float32)
    values[0, 0] = value
    Image.fromarray(values).save(tmp_path / "x.tif")
    with pytest.raises(UserError, match=r"x\.tif: gray values from .* to .*; scale them to 0\.\.255"):
        read_image(tmp_path / "x.tif", 8)


@pytest.mark.parametrize(
    "name, mode", [("x.png", "RGBA"), ("x.png", "LA"), ("x.webp", "RGBA"), ("x.png", "P"), ("x.gif", "P")]
)
def test_a_transparent_drawing_is_laid_on_white(tmp_path, name, mode):
    drawing = Image.new("RGBA", (16, 16), (0, 0, 0, 0))  # transparent black, as drawing programs save it
    ImageDraw.Draw(drawing).rectangle((4, 4, 11, 11), fill=(0, 0, 0, 255))
    if mode == "P":
        drawing = drawing.getchannel("A").point(lambda alpha: alpha // 255).convert("P")
        drawing.putpalette([0, 0, 0, 0, 0, 0])
        drawing.save(tmp_path / name, transparency=0)
    else:
        drawing.convert(mode).save(tmp_path / name, **({"lossless": True} if name == "x.webp" else {}))
    conversions = Counter[str]()
    image = read_image(tmp_path / name, 16, conversions)
    assert conversions == {ON_WHITE: 1}
    assert (image[:, 4:12, 4:12] == 0).all() and (image == 0).sum() == 3 * 64 and (image == 255).sum() == 3 * 192


def test_an_opaque_image_with_alpha_is_not_converted(tmp_path):
    Image.new("RGBA", (8, 8), (10, 20, 30, 255)).save(tmp_path / "x.png")
    conversions = Counter[str]()
    assert (read_image(tmp_path / "x.png", 8, conversions) == torch.tensor([10, 20, 30]).view(3, 1, 1)).all()
    assert not conversions
