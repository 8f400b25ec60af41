"""Image decoding: encoded images of any type to uint8 RGB tensors of one size."""

from __future__ import annotations

import io
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from common.errors import UserError

ON_WHITE = "images with transparency, laid on white"
SCALED = "images of 16 or 32 bits, scaled to 8"
ROWS = 1024  # that are converted at once, as copies of a whole image at PIL's limit take gigabytes
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # large ones are read; too large is an error
UNSIGNED = 1  # of TIFF's tag SampleFormat
SAMPLE_FORMAT = 339


def read_image(path: Path, size: int, conversions: Counter[str] | None = None) -> Tensor:
    """Image file as uint8 (3, size, size); `conversions` is as in `to_tensor`.

    Raises:
        UserError: The file is missing or is not an image.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file")
    try:
        with Image.open(path) as image:
            return to_tensor(image, size, conversions)
    except Exception as error:  # what a damaged image raises depends on its format
        raise UserError(f"{path}: {describe_error(error)}") from error


def describe_error(error: Exception) -> str:
    """What is wrong with an image whose decoding raised `error`."""
    if isinstance(error, Image.DecompressionBombError | MemoryError):
        return f"too large: at most {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels are decoded; scale it down"
    if isinstance(error, FileNotFoundError):
        return "missing"
    return str(error) if isinstance(error, UserError) else "not an image that can be read (PNG, JPEG, WebP ...)"


def to_tensor(image: Image.Image, size: int, conversions: Counter[str] | None = None) -> Tensor:
    """Image as uint8 (3, size, size), center-cropped to a square; adds to `conversions` what else is done to it."""
    conversion, image = to_rgb(image)
    if conversion and conversions is not None:
        conversions[conversion] += 1
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def to_rgb(image: Image.Image) -> tuple[str, Image.Image]:
    """Image of any mode as RGB of 8 bits, upright by the camera's orientation tag, after the name of a conversion or ""."""
    unsigned = UNSIGNED in getattr(image, "tag_v2", {}).get(SAMPLE_FORMAT, ())
    max_value = 65535 if image.mode.startswith("I;16") or image.format in ("PNG", "PPM") else None
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)
        if unsigned and values.dtype == np.int32:  # PIL has no other mode for 32 bits
            values = values.view(np.uint32)
        return SCALED, Image.fromarray(to_8_bits(values, max_value)).convert("RGB")
    if image.has_transparency_data:
        layer = image if image.mode == "RGBA" else image.convert("RGBA")
        if layer.getchannel("A").getextrema() != (255, 255):
            return ON_WHITE, on_white(layer)
    return "", image if image.mode == "RGB" else image.convert("RGB")


def on_white(layer: Image.Image) -> Image.Image:
    """RGBA image laid on white, as RGB."""
    image = Image.new("RGB", layer.size)
    for top in range(0, layer.height, ROWS):
        part = layer.crop((0, top, layer.width, min(top + ROWS, layer.height)))
        image.paste(Image.alpha_composite(Image.new("RGBA", part.size, "white"), part), (0, top))
    return image


def to_8_bits(values: np.ndarray, max_value: int | None = None) -> np.ndarray:
    """Gray values of 16 bits, 32 bits or float (height, width) as uint8.

    Args:
        values: Gray values.
        max_value: Value of white. None for types that are used in several ranges, 32 bits and float: the smallest of 1 (for
            float), 255, 65535 and the type's maximum that is not below the largest value.

    Raises:
        UserError: There are negative values, or float values that are not finite or above 65535.
    """
    is_float = values.dtype.kind == "f"
    if max_value is None:
        ranges = [1, 255, 65535] if is_float else [255, 65535, int(np.iinfo(values.dtype).max)]
        max_value = next((bound for bound in ranges if values.max() <= bound), None)  # none for NaN
    if max_value is None or not values.min() >= 0:
        raise UserError(f"gray values from {values.min()} to {values.max()}; scale them to 0..255")
    scaled = np.empty(values.shape, np.uint8)
    for first in range(0, len(values), ROWS):
        rows = slice(first, first + ROWS)
        scaled[rows] = (values[rows].astype(np.float64) * (255 / max_value)).round()
    return scaled


def describe_conversions(conversions: Counter[str]) -> list[str]:
    """A line for each kind of conversion, such as `images with transparency, laid on white: 12`."""
    return [f"{conversion}: {count}" for conversion, count in sorted(conversions.items())]


def open_encoded(item: Any) -> Image.Image:
    """Image of an encoded item: a row of `datasets` with `bytes` or the file `path`, bytes alone, or an array of pixels."""
    if isinstance(item, np.ndarray):
        return Image.fromarray(item)
    if isinstance(item, bytes):
        return Image.open(io.BytesIO(item))
    if item["bytes"] is None and not Path(item["path"]).is_file():  # a named pipe would be waited for
        raise FileNotFoundError(item["path"])
    return Image.open(io.BytesIO(item["bytes"]) if item["bytes"] is not None else item["path"])


def lossy_encoding(item: Any) -> str:
    """Lossy encoding of an encoded item: `webp`, `avif`, `jp2`, or `jpeg` and its quality; empty for lossless formats.

    The quality of a JPEG is known as far as its quantization tables are standard ones. AVIF and JPEG 2000 have lossless
    variants, which are named too. Re-encoded pixels are another data set than the originals, so the name of the data beside
    every result must show it.
    """
    with open_encoded(item) as image:
        if image.format == "WEBP":
            content = item if isinstance(item, bytes) else item["bytes"] or Path(item["path"]).read_bytes()
            return "webp" if b"VP8 " in content else ""  # lossless pixels are in a chunk VP8L
        if image.format not in ("JPEG", "MPO"):  # MPO: several JPEGs in a file, as of telephones
            return {"AVIF": "avif", "JPEG2000": "jp2"}.get(image.format or "", "")
        tables = image.quantization  # type: ignore[attr-defined]
    for quality in range(1, 101):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8)).save(buffer, "JPEG", quality=quality)
        if Image.open(buffer).quantization == tables:  # type: ignore[attr-defined]
            return f"jpeg{quality}"
    return "jpeg"
