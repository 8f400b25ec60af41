"""Image files of a folder: which can be read, to which split and class they belong, and what is passed over."""

from __future__ import annotations

import functools
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

# names of a top folder, as in `datasets`; words of it count too, as in `train_images`
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
# formats that PIL only recognizes: reading them needs a plugin or a program beside it
NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Suffixes of the formats that PIL decodes, in lower case: `.png`, `.jpg`, `.webp`, `.avif` ..."""
    from PIL import Image

    formats = Image.registered_extensions().items()
    return frozenset(suffix for suffix, name in formats if name in Image.OPEN and name not in NOT_DECODED)


def walk_files(root: Path) -> Iterator[Path]:
    """Files in and below `root`, folders that are symbolic links included; a link to a folder around it is not followed."""
    for folder, subfolders, names in os.walk(root, followlinks=True):
        around = Path(folder).resolve()
        parents = {around, *around.parents}
        subfolders[:] = [name for name in subfolders if (around / name).resolve() not in parents]
        yield from (Path(folder, name) for name in names if Path(folder, name).is_file())


def list_images(root: Path) -> tuple[list[Path], Counter[str]]:
    """Image files in and below `root`, sorted, and how many files of each kind are passed over.

    Hidden files (`._0.png`) and those in hidden folders (`.ipynb_checkpoints`) count as "hidden", others that are no image
    by their suffix in lower case.
    """
    images, passed_over = [], Counter[str]()
    for path in walk_files(root):
        suffix = path.suffix.lower()
        if any(part.startswith((".", "__")) for part in path.relative_to(root).parts):
            passed_over["hidden"] += 1
        elif suffix in image_suffixes():
            images.append(path)
        else:
            passed_over[suffix or "no suffix"] += 1
    return sorted(images, key=str), passed_over


def list_image_folder(root: Path) -> tuple[dict[str, list[tuple[Path, str | None]]], Counter[str]]:
    """Images of each split of `root/SPLIT/CLASS/...`, each with the name of its class, and what is passed over.

    The folder at the top alone decides on the split, and the one below it on the class, whatever those further down are
    called. Where no folder at the top names a split, the classes are at the top, and all images are of "train". Where no
    image is in the folder of a class, there are no classes: all names are None.
    """
    images, passed_over = list_images(root)
    folders = [path.relative_to(root).parts[:-1] for path in images]
    has_splits = any(split_of(parts[0]) for parts in folders if parts)
    has_classes = any(len(parts) > has_splits for parts in folders if not has_splits or (parts and split_of(parts[0])))
    splits: dict[str, list[tuple[Path, str | None]]] = {}
    for path, parts in zip(images, folders, strict=True):
        split = split_of(parts[0] if parts else "") if has_splits else "train"
        if split is None:
            passed_over["no folder of a split"] += 1
        elif has_classes and len(parts) == has_splits:
            passed_over["no folder of a class"] += 1
        else:
            splits.setdefault(split, []).append((path, parts[has_splits] if has_classes else None))
    return splits, passed_over


def split_of(folder: str) -> str | None:
    """Split that the name of a folder stands for: "train", "validation" or "test"; None if it names none."""
    words = re.split(r"[-._ 0-9]+", folder.lower())
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), None)


def describe_passed_over(passed_over: Counter[str]) -> list[str]:
    """What was passed over, as `passed over: 20 .heic (convert to PNG or JPEG), 2 hidden`; none where nothing was."""
    hints = {".heic": " (convert to PNG or JPEG)", ".heif": " (convert to PNG or JPEG)"}
    counts = [f"{count} {kind}{hints.get(kind, '')}" for kind, count in passed_over.most_common() if count]
    return [f"passed over: {', '.join(counts)}"] if counts else []
