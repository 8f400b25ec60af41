"""Pictures with labels, decoded once: any data source to uint8 tensors, kept in a cache on disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.data import Source, load_splits
from common.errors import UserError


@dataclass
class LabelledImages:
    """`images` (n, 3, size, size) uint8, `labels` (n,) int64, and the name of each label."""

    images: Tensor
    labels: Tensor
    class_names: list[str]

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> LabelledImages:
        """The same pictures on `device`."""
        return LabelledImages(self.images.to(device), self.labels.to(device), self.class_names)

    def joined_with(self, other: LabelledImages) -> LabelledImages:
        """These pictures and then those of `other`, whose labels mean the same."""
        images, labels = torch.cat([self.images, other.images]), torch.cat([self.labels, other.labels])
        return LabelledImages(images, labels, self.class_names)


def load_images(source: Source, size: int, sample: Callable[[], dict[str, LabelledImages]]) -> dict[str, LabelledImages]:
    """The splits "train" and "test" of `source`, decoded to `size` x `size` pictures.

    Reading a decoded data set again takes a fraction of a second: tensors are kept in `cache_folder()`, under a key made
    of the folder's path and its files' names, sizes and times (of a hub data set: of its id).

    Args:
        source: see `common.data.resolve_source`.
        size: height and width in pixels; other pictures are cropped to a centred square and resized.
        sample: makes the splits of the embedded sample, which is not cached.

    Raises:
        UserError: no picture column or no label column, no split of that name, a file that is not a picture.
    """
    if source.kind == "sample":
        return sample()
    cached = cache_folder() / f"images-{_fingerprint(source, size)}.pt"
    if cached.is_file():
        try:
            saved = torch.load(cached, weights_only=True)
            return {split: LabelledImages(**fields) for split, fields in saved.items()}
        except (RuntimeError, EOFError, OSError):
            cached.unlink(missing_ok=True)  # cut short by a full disk or a kill: decode again
    splits = _decode(source, size)
    cached.parent.mkdir(parents=True, exist_ok=True)
    partial = cached.with_suffix(f".{os.getpid()}.tmp")
    torch.save({split: vars(data) for split, data in splits.items()}, partial)
    partial.replace(cached)
    return splits


def cache_folder() -> Path:
    """Where decoded data is kept: `$CAPSTONES_CACHE`, else `~/.cache/lightning-capstones`. Safe to delete."""
    return Path(os.environ.get("CAPSTONES_CACHE", Path.home() / ".cache" / "lightning-capstones"))


def read_image(path: Path, size: int) -> Tensor:
    """One picture file as uint8 (3, size, size).

    Raises:
        UserError: the file is missing or is not a picture.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return _to_tensor(image, size)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (UnidentifiedImageError, OSError) as error:
        raise UserError(f"{path}: not a picture that can be read (PNG, JPEG, WebP ...)") from error


def _to_tensor(image: Any, size: int) -> Tensor:
    import numpy as np
    from PIL import ImageOps

    image = image.convert("RGB")
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _fingerprint(source: Source, size: int) -> str:
    parts = [source.kind, source.name, str(size)]
    if source.kind == "folder":
        root = Path(source.name).resolve()
        parts[1] = str(root)
        for path in sorted(p for p in root.rglob("*") if p.is_file()):
            stat = path.stat()
            parts.append(f"{path.relative_to(root)} {stat.st_size} {stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _decode(source: Source, size: int) -> dict[str, LabelledImages]:
    splits = load_splits(source)
    missing = {"train", "test"} - set(splits)
    if missing:
        raise UserError(f"data source {source.name}: needs the splits train and test, has {', '.join(sorted(splits))}")
    return {name: _decode_split(source, splits[name], size) for name in ("train", "test")}


def _decode_split(source: Source, split: Any, size: int) -> LabelledImages:
    import datasets
    from PIL import UnidentifiedImageError

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
        except (UnidentifiedImageError, OSError) as error:
            where = item.get("path") or f"row {i}"
            raise UserError(f"data source {source.name}: {where} is not a picture that can be read") from error
    labels = torch.tensor(split[label_column][:], dtype=torch.int64)
    return LabelledImages(images, labels, list(features[label_column].names))


def _decode_bytes(item: dict[str, Any], size: int) -> Tensor:
    import io

    from PIL import Image

    with Image.open(io.BytesIO(item["bytes"]) if item["bytes"] is not None else item["path"]) as image:
        return _to_tensor(image, size)
