"""Pictures with labels, decoded once: any data source to uint8 tensors, kept in a cache on disk."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.data.sources import Source, load_splits
from common.errors import UserError


@dataclass
class LabeledImages:
    """`images` (n, 3, size, size) uint8, `labels` (n,) int64, and the name of each label.

    `encoding` says how the pixels were stored if that changed them, such as `jpeg75`; it is empty for lossless formats.
    """

    images: Tensor
    labels: Tensor
    class_names: list[str]
    encoding: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> LabeledImages:
        """The same pictures on `device`."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def __getitem__(self, index: Tensor) -> LabeledImages:
        """The pictures of `index`, copied."""
        return replace(self, images=self.images[index], labels=self.labels[index])

    def joined_with(self, other: LabeledImages) -> LabeledImages:
        """These pictures and then those of `other`, whose labels mean the same."""
        images, labels = torch.cat([self.images, other.images]), torch.cat([self.labels, other.labels])
        return replace(self, images=images, labels=labels)


def load_images(source: Source, size: int, sample: Callable[[], dict[str, LabeledImages]]) -> dict[str, LabeledImages]:
    """The splits "train" and "test" of `source`, decoded to `size` x `size` pictures.

    Reading a decoded data set again takes a fraction of a second: tensors are kept in `cache_folder()`, under a key made
    of the folder's path and its files' names, sizes and times (of a hub data set: of its id).

    Args:
        source: see `common.data.resolve_source`.
        size: height and width in pixels; other pictures are cropped to a centred square and resized.
        sample: makes the splits of the embedded sample, which is not cached.

    Raises:
        UserError: no picture column or no label column, no split of that name, a picture that cannot be read, a row without
            a label.
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
    """Where decoded data is kept: `$CAPSTONES_CACHE`, else `~/.cache/lightning-capstones`. Safe to delete."""
    return Path(os.environ.get("CAPSTONES_CACHE", Path.home() / ".cache" / "lightning-capstones"))


def read_image(path: Path, size: int) -> Tensor:
    """One picture file as uint8 (3, size, size).

    Raises:
        UserError: the file is missing or is not a picture.
    """
    from PIL import Image

    if not path.exists():
        raise UserError(f"{path}: no such file")
    try:
        with Image.open(path) as image:
            return _to_tensor(image, size)
    except Exception as error:  # what a damaged picture raises depends on its format
        raise UserError(f"{path}: not a picture that can be read (PNG, JPEG, WebP ...)") from error


def _to_tensor(image: Any, size: int) -> Tensor:
    import numpy as np
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image).convert("RGB")  # upright, as cameras mean it
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _fingerprint(source: Source, size: int) -> str:
    parts = ["2", source.kind, source.name, str(size)]  # the first: the version of the file's layout
    if source.kind == "folder":
        root = Path(source.name).resolve()
        parts[1] = str(root)
        for path in sorted(p for p in root.rglob("*") if p.is_file()):
            stat = path.stat()
            parts.append(f"{path.relative_to(root)} {stat.st_size} {stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


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
            f"data source {source.name}: needs a column of pictures and one of class labels, has "
            + ", ".join(f"{name} ({type(feature).__name__})" for name, feature in features.items())
        )
    images = torch.empty(len(split), 3, size, size, dtype=torch.uint8)
    encoded = split.cast_column(image_column, datasets.Image(decode=False))[image_column]
    for i, (item, out) in enumerate(zip(encoded, images, strict=True)):
        try:
            out.copy_(_decode_bytes(item, size))
        except Exception as error:  # what a damaged picture raises depends on its format
            where = f"row {i} of {split.split}" + (f", {item['path']}," if item and item["path"] else "")
            raise UserError(f"data source {source.name}: {where} is not a picture that can be read") from error
    labels = split[label_column][:]
    unlabelled = next((i for i, label in enumerate(labels) if label is None or label < 0), None)
    if unlabelled is not None:
        raise UserError(f"data source {source.name}: row {unlabelled} of {split.split} has no label")
    return LabeledImages(images, torch.tensor(labels), list(features[label_column].names), lossy_encoding(encoded[0]))


def lossy_encoding(item: dict[str, Any]) -> str:
    """`jpeg` and the quality of an encoded picture (as `datasets` has it), as far as its tables tell; else empty.

    Re-encoded pixels are another data set than the originals, so the name of the data in every figure must say so.
    """
    import io

    from PIL import Image

    with Image.open(io.BytesIO(item["bytes"]) if item["bytes"] is not None else item["path"]) as image:
        if image.format != "JPEG":
            return ""
        found = image.quantization  # type: ignore[attr-defined]
    for quality in range(1, 101):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8)).save(buffer, "JPEG", quality=quality)
        if Image.open(buffer).quantization == found:  # type: ignore[attr-defined]
            return f"jpeg{quality}"
    return "jpeg"


def _decode_bytes(item: dict[str, Any], size: int) -> Tensor:
    import io

    from PIL import Image

    with Image.open(io.BytesIO(item["bytes"]) if item["bytes"] is not None else item["path"]) as image:
        return _to_tensor(image, size)
