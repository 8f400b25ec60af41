"""Labeled images: any data source decoded to uint8 tensors once, then read from a cache on disk."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.data.image_decoding import describe_conversions, lossy_encoding, open_encoded, to_tensor
from common.data.image_files import describe_passed_over, list_image_folder, walk_files
from common.data.sources import Source, load_splits
from common.errors import UserError
from common.io.ranks import print_rank_zero

CACHE_VERSION = "3"  # of the decoding and of the file's layout
MAX_NAMED_CLASSES = 5


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
    """The splits "train" and "test" of `source`, and "validation" if it has all three, decoded to `size` x `size` images.

    Without a test split, the source's validation split is the test. Prints what is passed over or converted.

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
    splits, messages = _read_cache(cached) or _decode(source, size)
    if not cached.is_file():
        with contextlib.suppress(OSError, RuntimeError):  # a full disk, or one that may not be written to: decode each time
            _write_cache(cached, splits, messages)
    for message in messages:
        print_rank_zero(f"data source {source.name}: {message}")
    return splits


def _read_cache(path: Path) -> tuple[dict[str, LabeledImages], list[str]] | None:
    """What `_write_cache` wrote; None if there is no such file, or it is damaged and therefore removed."""
    if not path.is_file():
        return None
    try:
        saved = torch.load(path, weights_only=True)
        return {split: LabeledImages(**fields) for split, fields in saved["splits"].items()}, saved["messages"]
    except Exception:  # what a damaged file raises depends on where it is damaged
        path.unlink(missing_ok=True)
        return None


def _write_cache(path: Path, splits: dict[str, LabeledImages], messages: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        torch.save({"splits": {split: vars(data) for split, data in splits.items()}, "messages": messages}, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def cache_folder() -> Path:
    """Folder of decoded data: `$CAPSTONES_CACHE`, else `~/.cache/lightning-capstones`. Safe to delete."""
    return Path(os.environ.get("CAPSTONES_CACHE", Path.home() / ".cache" / "lightning-capstones"))


def _fingerprint(source: Source, size: int) -> str:
    parts = [CACHE_VERSION, source.kind, source.name, str(size)]
    if source.kind == "folder":
        root = Path(source.name).resolve()
        parts[1] = str(root)
        for path in sorted(walk_files(root)):
            stat = path.stat()
            parts.append(f"{path.relative_to(root)} {stat.st_size} {stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


@dataclass
class EncodedImages:
    """Images of a split before they are decoded.

    Args:
        split: Name of the split in the source.
        items: Rows of a column of `datasets.Image(decode=False)`: dicts of `bytes` and `path`.
        labels: Class indices.
        class_names: Name of each class.
    """

    split: str
    items: Sequence[Any]
    labels: list[Any]
    class_names: list[str]


def _decode(source: Source, size: int) -> tuple[dict[str, LabeledImages], list[str]]:
    """Decoded splits of `source`, and what is passed over or converted, a sentence each."""
    encoded, messages = (_encoded_folder(source) if source.kind == "folder" else None) or _encoded_tables(source)
    conversions = Counter[str]()
    splits = {name: _decode_split(source, split, size, conversions) for name, split in encoded.items()}
    return splits, [*messages, *class_differences(splits), *describe_conversions(conversions)]


def _encoded_folder(source: Source) -> tuple[dict[str, EncodedImages], list[str]] | None:
    """Splits of a folder `SPLIT/CLASS/...` of image files; None if it is none."""
    files, passed_over = list_image_folder(Path(source.name))
    if not files:
        return None
    class_names = sorted({name for split in files.values() for _, name in split})
    index = {name: label for label, name in enumerate(class_names)}
    encoded = {}
    for name, origin in _choose_splits(source, files).items():
        items = [{"bytes": None, "path": str(path)} for path, _ in files[origin]]
        encoded[name] = EncodedImages(origin, items, [index[label] for _, label in files[origin]], class_names)
    return encoded, describe_passed_over(passed_over)


def _encoded_tables(source: Source) -> tuple[dict[str, EncodedImages], list[str]]:
    """Splits of tables with a column of images and one of class labels, as `datasets` reads them."""
    tables = load_splits(source)
    return {name: _encoded_split(source, tables[origin]) for name, origin in _choose_splits(source, tables).items()}, []


def _choose_splits(source: Source, splits: Mapping[str, Sized]) -> dict[str, str]:
    """The source's split for each of "train", "test" and "validation"; without a test split, validation is the test."""
    filled = {name: name for name in ("train", "test", "validation") if len(splits.get(name, ()))}
    if "test" not in filled and "validation" in filled:
        filled["test"] = filled.pop("validation")
    if not {"train", "test"} <= filled.keys():
        found = ", ".join(sorted(name for name, split in splits.items() if len(split))) or "none"
        raise UserError(f"data source {source.name}: needs the splits train and test (or validation), has {found}")
    return filled


def _encoded_split(source: Source, split: Any) -> EncodedImages:
    import datasets

    features = split.features
    image_column = next((n for n, f in features.items() if isinstance(f, datasets.Image)), None)
    label_column = next((n for n, f in features.items() if isinstance(f, datasets.ClassLabel)), None)
    if image_column is None or label_column is None:
        raise UserError(
            f"data source {source.name}: needs a column of images and one of class labels, has "
            + ", ".join(f"{name} ({type(feature).__name__})" for name, feature in features.items())
        )
    items = split.cast_column(image_column, datasets.Image(decode=False))[image_column]
    return EncodedImages(str(split.split), items, split[label_column][:], list(features[label_column].names))


def _decode_split(source: Source, split: EncodedImages, size: int, conversions: Counter[str]) -> LabeledImages:
    images = torch.empty(len(split.labels), 3, size, size, dtype=torch.uint8)
    for i, (item, out) in enumerate(zip(split.items, images, strict=True)):
        try:
            with open_encoded(item) as image:
                out.copy_(to_tensor(image, size, conversions))
        except Exception as error:  # what a damaged image raises depends on its format
            where = f"row {i} of {split.split}" + (f", {item['path']}," if item and item["path"] else "")
            reason = f"has {error}" if isinstance(error, UserError) else "is not an image that can be read"
            raise UserError(f"data source {source.name}: {where} {reason}") from error
    unlabeled = next((i for i, label in enumerate(split.labels) if label is None or label < 0), None)
    if unlabeled is not None:
        raise UserError(f"data source {source.name}: row {unlabeled} of {split.split} has no label")
    encoding = lossy_encoding(split.items[0])
    return LabeledImages(images, torch.tensor(split.labels), split.class_names, encoding)


def class_differences(splits: dict[str, LabeledImages]) -> list[str]:
    """A sentence about the classes that some of the splits lack; none where all have the same."""
    labels = {split: set(data.labels.tolist()) for split, data in splits.items()}
    lines = []
    for label, name in enumerate(splits["train"].class_names):
        having = [split for split in splits if label in labels[split]]
        if 0 < len(having) < len(splits):
            lines.append(f"{name} (only in {', '.join(having)})")
    more = f" and {len(lines) - MAX_NAMED_CLASSES} more" if len(lines) > MAX_NAMED_CLASSES else ""
    return [f"classes that some splits lack: {', '.join(lines[:MAX_NAMED_CLASSES])}{more}"] if lines else []
