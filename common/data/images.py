"""Labeled images: any data source decoded to uint8 tensors once, then read from a cache on disk."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from common.data.sources import Source, load_splits
from common.errors import UserError


@dataclass
class LabeledImages:
    """Images with class labels.

    Args:
        images: Pixels, (n, 3, size, size) uint8.
        labels: Class indices, (n,) int64.
        class_names: Name of each class.
        encoding: Lossy encoding in which the pixels were stored, such as `jpeg75`; empty for lossless formats.
    """

    images: Tensor
    labels: Tensor
    class_names: list[str]
    encoding: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> LabeledImages:
        """The same images on `device`."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def __getitem__(self, index: Tensor) -> LabeledImages:
        """Copies of the images of `index`."""
        return replace(self, images=self.images[index], labels=self.labels[index])

    def joined_with(self, other: LabeledImages) -> LabeledImages:
        """Concatenation with `other`, whose labels mean the same."""
        images, labels = torch.cat([self.images, other.images]), torch.cat([self.labels, other.labels])
        return replace(self, images=images, labels=labels)


def load_images(source: Source, size: int, sample: Callable[[], dict[str, LabeledImages]]) -> dict[str, LabeledImages]:
    """The splits "train" and "test" of `source`, decoded to `size` x `size` images.

    Decoded images are cached in `cache_folder()`, under a hash of the folder's path and its files' names, sizes and times
    (of a hub data set: of its id). Reading them again takes a fraction of a second.

    Args:
        source: Data source, see `common.data.sources.resolve_source`.
        size: Height and width in pixels; other images are center-cropped to a square and resized.
        sample: Makes the splits of the embedded sample, which is not cached.

    Raises:
        UserError: A column of images or of labels, or a split, is missing; an image cannot be read; a row has no label.
    """
    if source.kind == "sample":
        return sample()
    cached = cache_folder() / f"images-{_fingerprint(source, size)}.pt"
    if cached.is_file():
        try:
            saved = torch.load(cached, weights_only=True)
            return {split: LabeledImages(**fields) for split, fields in saved.items()}
        except Exception:  # what a damaged file raises depends on where it is damaged
            cached.unlink(missing_ok=True)
    splits = _decode(source, size)
    with contextlib.suppress(OSError, RuntimeError):  # a full disk, or one that may not be written to: decode each time
        _write_cache(cached, splits)
    return splits


def _write_cache(path: Path, splits: dict[str, LabeledImages]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        torch.save({split: vars(data) for split, data in splits.items()}, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def cache_folder() -> Path:
    """Folder of decoded data: `$CAPSTONES_CACHE`, else `~/.cache/lightning-capstones`. Safe to delete."""
    return Path(os.environ.get("CAPSTONES_CACHE", Path.home() / ".cache" / "lightning-capstones"))


def _fingerprint(source: Source, size: int) -> str:
    parts = ["2", source.kind, source.name, str(size)]  # the first: the version of the file's layout
    if source.kind == "folder":
        root = Path(source.name).resolve()
        parts[1] = str(root)
        for path in sorted(p for p in root.rglob("*") if p.is_file()):
            stat = path.stat()
            parts.append(f"{path.relative_to(root)} {stat.st_size} {stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def read_image(path: Path, size: int) -> Tensor:
    """Image file as uint8 (3, size, size).

    Raises:
        UserError: The file is missing or is not an image.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file")
    try:
        with Image.open(path) as image:
            return _to_tensor(image, size)
    except Exception as error:  # what a damaged image raises depends on its format
        raise UserError(f"{path}: not an image that can be read (PNG, JPEG, WebP ...)") from error


def _to_tensor(image: Image.Image, size: int) -> Tensor:
    image = ImageOps.exif_transpose(image).convert("RGB")  # upright, by the camera's orientation tag
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _decode(source: Source, size: int) -> dict[str, LabeledImages]:
    splits = load_splits(source)
    filled = sorted(name for name, split in splits.items() if len(split))
    if not {"train", "test"} <= set(filled):
        raise UserError(f"data source {source.name}: needs the splits train and test, has {', '.join(filled) or 'none'}")
    return {name: _decode_split(source, splits[name], size) for name in ("train", "test")}


def _decode_split(source: Source, split: Any, size: int) -> LabeledImages:
    import datasets

    features = split.features
    image_column = next((n for n, f in features.items() if isinstance(f, datasets.Image)), None)
    label_column = next((n for n, f in features.items() if isinstance(f, datasets.ClassLabel)), None)
    if image_column is None or label_column is None:
        raise UserError(
            f"data source {source.name}: needs a column of images and one of class labels, has "
            + ", ".join(f"{name} ({type(feature).__name__})" for name, feature in features.items())
        )
    images = torch.empty(len(split), 3, size, size, dtype=torch.uint8)
    encoded = split.cast_column(image_column, datasets.Image(decode=False))[image_column]
    for i, (item, out) in enumerate(zip(encoded, images, strict=True)):
        try:
            with _open_encoded(item) as image:
                out.copy_(_to_tensor(image, size))
        except Exception as error:  # what a damaged image raises depends on its format
            where = f"row {i} of {split.split}" + (f", {item['path']}," if item and item["path"] else "")
            raise UserError(f"data source {source.name}: {where} is not an image that can be read") from error
    labels = split[label_column][:]
    unlabeled = next((i for i, label in enumerate(labels) if label is None or label < 0), None)
    if unlabeled is not None:
        raise UserError(f"data source {source.name}: row {unlabeled} of {split.split} has no label")
    return LabeledImages(images, torch.tensor(labels), list(features[label_column].names), lossy_encoding(encoded[0]))


def _open_encoded(item: dict[str, Any]) -> Image.Image:
    """Image of a row of `datasets` that is not decoded: its `bytes`, else the file `path`."""
    return Image.open(io.BytesIO(item["bytes"]) if item["bytes"] is not None else item["path"])


def lossy_encoding(item: dict[str, Any]) -> str:
    """`jpeg` and its quality, as far as its quantization tables are standard ones, of a row of `datasets`; else empty.

    Re-encoded pixels are another data set than the originals, so the name of the data beside every result must show it.
    """
    with _open_encoded(item) as image:
        if image.format != "JPEG":
            return ""
        tables = image.quantization  # type: ignore[attr-defined]
    for quality in range(1, 101):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8)).save(buffer, "JPEG", quality=quality)
        if Image.open(buffer).quantization == tables:  # type: ignore[attr-defined]
            return f"jpeg{quality}"
    return "jpeg"
