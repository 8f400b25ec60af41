"""Decoding: every type of image keeps its brightness and its drawing, and what is converted is counted."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from common.data import image_decoding
from common.data.image_decoding import ON_WHITE, SCALED, open_encoded, read_image, to_tensor
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


def png_header(width: int, height: int) -> bytes:
    """PNG of these dimensions, without pixels."""
    parts = b""
    for kind, data in ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", b""), (b"IEND", b"")):
        parts += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return b"\x89PNG\r\n\x1a\n" + parts


def enlarged(kind: str) -> bytes:
    """Small image whose header says that it has 60,000 x 60,000 pixels."""
    if kind == "png":
        return png_header(60_000, 60_000)
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(3)]
    frames[0].save(buffer, kind, **({"save_all": True, "append_images": frames[1:]} if kind == "gif" else {}))
    data = bytearray(buffer.getvalue())
    at = 6 if kind == "gif" else data.find(b"\xff\xc0") + 5  # JPEG: start of frame
    data[at : at + 4] = struct.pack("<HH" if kind == "gif" else ">HH", 60_000, 60_000)
    return bytes(data)


@pytest.mark.parametrize("kind", ["png", "gif", "jpeg"])
def test_a_decompression_bomb_is_refused_by_its_header(tmp_path, monkeypatch, kind):
    data = enlarged(kind)
    (tmp_path / f"x.{kind}").write_bytes(data)
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("decoded"))
    with pytest.raises(UserError, match=rf"x\.{kind}: too large: at most 178,956,970 pixels are decoded; scale it down"):
        read_image(tmp_path / f"x.{kind}", 8)
    with pytest.raises(Image.DecompressionBombError):  # as of a parquet table
        open_encoded({"bytes": data, "path": None})


@pytest.mark.parametrize("kind", ["gif", "webp", "tiff"])
def test_of_many_frames_the_first_is_decoded(tmp_path, kind):
    frames = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(200)]
    frames[0].save(tmp_path / "x", kind, save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "x", 8).max() == 0


def test_a_named_pipe_in_a_table_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(FileNotFoundError):
        open_encoded({"bytes": None, "path": str(tmp_path / "x.png")})


@pytest.mark.parametrize("mode", ["RGBA", "I;16", "F"])
def test_conversion_in_parts_is_that_of_the_whole(monkeypatch, mode):
    values = np.random.default_rng(0).integers(0, 256, (21, 7, 4) if mode == "RGBA" else (21, 7))
    image = Image.fromarray(values.astype({"RGBA": np.uint8, "I;16": np.uint16, "F": np.float32}[mode]))
    whole = to_tensor(image, 7)
    monkeypatch.setattr(image_decoding, "ROWS", 4)
    assert torch.equal(to_tensor(image, 7), whole)
