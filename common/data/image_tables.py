"""Tables of labeled images: which column has the images, which the labels, and the name of each row's class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.data.image_files import image_suffixes
from common.data.labels import read_labels
from common.data.sources import Source
from common.errors import UserError

UNLABELED = "unlabeled"  # the one class of images without labels
IMAGE_NAMES = {"file_name", "filename", "image", "img", "path"}
LABEL_NAMES = {"label", "labels", "class", "class_name", "category"}


@dataclass(frozen=True)
class Columns:
    """Columns to read, where a table has several that could be meant: `--data.image_column` and `--data.label_column`."""

    image: str | None = None
    label: str | None = None


@dataclass
class EncodedImages:
    """Images of a split before they are decoded.

    Args:
        split: Name of the split or table in the source.
        items: What `common.data.image_decoding.open_encoded` takes.
        labels: Name of each image's class; None where it is missing.
        class_names: Names of the classes, in order.
    """

    split: str
    items: Sequence[Any]
    labels: list[str | None]
    class_names: list[str]


def read_rows(source: Source, split: str, table: Any, folder: Path, columns: Columns) -> EncodedImages | None:
    """Images and labels of a table of `datasets`; None if it has no column of images or of their paths.

    Images are a feature `Image`, bytes, dicts of bytes and path, or paths from `folder`. Labels are a `ClassLabel`, text,
    whole numbers or truth values; without a column of labels all images are of one class.

    Raises:
        UserError: Several columns could be the one of images or of labels, or the one that is asked for is not there.
    """
    import datasets

    features, names = table.features, list(table.column_names)
    paths = [name for name in names if is_text(features[name]) and has_image_path(table[name])]
    stored = [name for name in names if isinstance(features[name], datasets.Image)]
    encoded = [name for name in names if is_bytes(features[name])]
    column = choose_column(source, "image", [stored, encoded, preferred(paths, IMAGE_NAMES), paths], columns.image, names)
    if column is None:
        return None
    items = (table.cast_column(column, datasets.Image(decode=False)) if column in stored else table)[column]
    if is_text(features[column]):
        items = [{"bytes": None, "path": path and str(folder / path.replace("\\", "/"))} for path in items]

    classes = [name for name in names if isinstance(features[name], datasets.ClassLabel)]
    others = [name for name in names if name not in (column, *paths) and could_be_labels(features[name], table[name])]
    tiers = [preferred(classes, LABEL_NAMES), classes, preferred(others, LABEL_NAMES), others]
    label_column = choose_column(source, "label", tiers, columns.label, names)
    if label_column is None:
        return EncodedImages(split, items, [UNLABELED] * len(table), [UNLABELED])
    return EncodedImages(split, items, *read_labels(source, table, label_column))


def choose_column(source: Source, kind: str, tiers: list[list[str]], chosen: str | None, names: list[str]) -> str | None:
    """The column `chosen`, else that of the first of `tiers` that has any. Raises UserError for none or several."""
    if chosen is not None:
        if chosen not in names:
            raise UserError(f"--data.{kind}_column {chosen}: the columns of {source.name} are {', '.join(names)}")
        return chosen
    first = next(filter(None, tiers), [])
    if len(first) > 1:
        several = f"several columns of {kind}s: {', '.join(first)}"
        raise UserError(f"data source {source.name}: {several}; choose one with --data.{kind}_column")
    return first[0] if first else None


def preferred(columns: list[str], names: set[str]) -> list[str]:
    """The columns that are called like one of `names`, in any case."""
    return [column for column in columns if column.lower() in names]


def dtype(feature: Any) -> str:
    """Type of a column's values; empty for nested ones."""
    return str(getattr(feature, "dtype", ""))


def is_text(feature: Any) -> bool:
    """Whether a column holds text."""
    return dtype(feature) in ("string", "large_string")


def is_bytes(feature: Any) -> bool:
    """Whether a column holds bytes, alone or in dicts with a path."""
    return (isinstance(feature, dict) and "bytes" in feature) or dtype(feature) in ("binary", "large_binary")


def has_image_path(values: Iterable[str | None]) -> bool:
    """Whether the first value of a column of text is the path of an image file."""
    return Path(next(filter(None, values), "")).suffix.lower() in image_suffixes()


def could_be_labels(feature: Any, values: Iterable[Any]) -> bool:
    """Whether a column holds text, whole numbers or truth values."""
    if dtype(feature).startswith("float"):
        return all(value is None or value == value // 1 or value != value for value in values)
    return is_text(feature) or dtype(feature).startswith(("int", "uint", "bool"))
