"""Labeled images: any data source decoded to uint8 tensors once, then read from a cache on disk."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from common.data.held_out import hold_out
from common.data.image_decoding import describe_conversions, describe_error, lossy_encoding, open_encoded, to_tensor
from common.data.image_files import walk_files
from common.data.image_layouts import Columns, EncodedImages, read_layout
from common.data.labeled_images import LabeledImages
from common.data.labels import sort_class_names
from common.data.sources import ARCHIVE, Source, evaluated_splits
from common.errors import UserError
from common.io.checkpoints import load_verified
from common.io.files import atomic_write
from common.io.ranks import print_rank_zero

CACHE_VERSION = "4"  # of the decoding and of the file's layout
MAX_NAMED_CLASSES = 5
MIN_IMAGES = 3  # one each for training, validation and test


def load_images(
    source: Source, size: int, sample: Callable[[], dict[str, LabeledImages]], columns: Columns = Columns()
) -> dict[str, LabeledImages]:
    """The splits "train" and "test" of `source`, and "validation" if it has all three, decoded to `size` x `size` images.

    Without a test split, the source's validation split is the test; without both, a tenth of train is held out, the same in
    every run. Prints what is passed over, converted or held out.

    Decoded images are cached in `cache_folder()`, under a hash of the folder's path and its files' names, sizes and times
    (of a hub data set: of its id). Reading them again takes a fraction of a second.

    Args:
        source: Data source, see `common.data.sources.resolve_source`; for its layouts see `common.data.image_layouts`.
        size: Height and width in pixels; other images are center-cropped to a square and resized.
        sample: Makes the splits of the embedded sample, which is not cached.
        columns: Columns of images and of labels in tables.

    Raises:
        UserError: A column of images or of labels is missing or ambiguous, there is no training image, an image cannot be
            read, or a row has no label.
    """
    if source.kind == "sample":
        return sample()
    cached = cache_folder() / f"images-{_fingerprint(source, size, columns)}.pt"
    splits, messages = _read_cache(cached) or _decode(source, size, columns)
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
        saved = load_verified(path)
        return {split: LabeledImages(**fields) for split, fields in saved["splits"].items()}, saved["messages"]
    except Exception:  # what a damaged file raises depends on where it is damaged
        path.unlink(missing_ok=True)
        return None


def _write_cache(path: Path, splits: dict[str, LabeledImages], messages: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        torch.save({"splits": {split: vars(data) for split, data in splits.items()}, "messages": messages}, partial)


def cache_folder() -> Path:
    """Folder of decoded data: `$CAPSTONES_CACHE`, else `~/.cache/lightning-capstones`. Safe to delete."""
    return Path(os.environ.get("CAPSTONES_CACHE", Path.home() / ".cache" / "lightning-capstones"))


def _fingerprint(source: Source, size: int, columns: Columns) -> str:
    parts = [CACHE_VERSION, source.kind, source.name, str(size), str(columns), *["test only"] * source.test_only]
    if source.kind in ("folder", "file"):
        path = Path(source.name).resolve()
        parts[2] = str(path)
        root = path if source.kind == "folder" else path.parent  # the images of a table lie beside it
        for file in [path] if source.name.endswith(ARCHIVE) else sorted(walk_files(root)):
            stat = file.stat()
            parts.append(f"{file.relative_to(root)} {stat.st_size} {stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _decode(source: Source, size: int, columns: Columns) -> tuple[dict[str, LabeledImages], list[str]]:
    """Decoded splits of `source`, and what is passed over, converted or held out, a sentence each."""
    encoded, messages = read_layout(source, columns)
    chosen = _choose_splits(source, encoded)
    class_names = sort_class_names(name for split in chosen.values() for name in split.class_names)
    if all(split.class_names == chosen["train"].class_names for split in chosen.values()):
        class_names = chosen["train"].class_names  # in the order of the source
    conversions = Counter[str]()
    different = {id(split): split for split in chosen.values()}  # one alone, if the source is `test_only`
    decoded = {key: _decode_split(source, split, class_names, size, conversions) for key, split in different.items()}
    splits = {name: decoded[id(split)] for name, split in chosen.items()}
    if "test" not in splits:
        count, total = max(1, len(splits["train"]) // 10), len(splits["train"])
        if total < MIN_IMAGES:
            raise UserError(f"data source {source.name}: {total} images are too few for training, validation and test")
        splits["train"], splits["test"] = hold_out(splits["train"], count)
        messages.append(f"no test split: {count} of its {total} images are held out for the test")
    elif chosen["test"] is encoded.get("validation"):
        messages.append("no test split: its validation split is the test")
    return splits, [*messages, *class_differences(splits), *describe_conversions(conversions)]


def _choose_splits(source: Source, splits: dict[str, EncodedImages]) -> dict[str, EncodedImages]:
    """The splits "train", "test" and "validation" that have images; without a test split, validation is the test."""
    filled = evaluated_splits(source, {name: splits[name] for name in splits if len(splits[name].items)})
    if "train" not in filled:
        raise UserError(f"data source {source.name}: needs a split train, has {', '.join(sorted(filled)) or 'none'}")
    chosen: dict[str, EncodedImages] = {name: filled[name] for name in ("train", "test", "validation") if name in filled}
    if "test" not in chosen and "validation" in chosen:
        chosen["test"] = chosen.pop("validation")
    return chosen


def _decode_split(
    source: Source, split: EncodedImages, class_names: list[str], size: int, conversions: Counter[str]
) -> LabeledImages:
    if None in split.labels:
        raise UserError(f"data source {source.name}: row {split.labels.index(None)} of {split.split} has no label")
    images = torch.empty(len(split.labels), 3, size, size, dtype=torch.uint8)
    for i, (item, out) in enumerate(zip(split.items, images, strict=True)):
        try:
            with open_encoded(item) as image:
                out.copy_(to_tensor(image, size, conversions))
        except Exception as error:  # what a damaged image raises depends on its format
            where = f"row {i} of {split.split}" + (f", {item['path']}," if isinstance(item, dict) and item["path"] else "")
            reason = ("has" if isinstance(error, UserError) else "is") + f" {describe_error(error)}"
            raise UserError(f"data source {source.name}: {where} {reason}") from error
    index = {name: label for label, name in enumerate(class_names)}
    labels = torch.tensor([index[str(name)] for name in split.labels])
    return LabeledImages(images, labels, class_names, lossy_encoding(split.items[0]))


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
