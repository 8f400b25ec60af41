"""Labels of any type: the name of each row's class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from common.data.sources import Source, read_column
from common.errors import UserError


def read_labels(source: Source, table: Any, column: str) -> tuple[list[str | None], list[str]]:
    """Name of each row's class, None where it is missing, and the names of the classes, in order.

    Labels are a `ClassLabel` of `datasets`, text, whole numbers or truth values. Raises UserError for others.
    """
    values, feature = read_column(source, table, column), table.features[column]
    if hasattr(feature, "names"):
        return [feature.names[i] if i is not None and i >= 0 else None for i in values], list(feature.names)
    labels = [class_name(value, column) for value in values]
    return labels, sort_class_names(labels)


def match_classes(source: Source, class_names: Sequence[str], known: Sequence[str]) -> list[int]:
    """Index in `known`, a trained network's classes, of each class of the data. Raises UserError for one that it lacks."""
    index = {name: label for label, name in enumerate(known)}
    for name in class_names:
        if name not in index:
            raise UserError(f"data source {source.name}: its class {name} is none of the checkpoint's: {', '.join(known)}")
    return [index[name] for name in class_names]


def class_name(value: Any, column: str) -> str | None:
    """Name of the class that a label stands for: 3 and 3.0 are the same; None for an empty cell."""
    if value is None or value != value or not str(value).strip():  # not equal to itself: NaN
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, str | int):
        raise UserError(f"--data.label_column {column}: {value} is not a class; labels are text or whole numbers")
    return str(value).strip()


def sort_class_names(names: Iterable[str | None]) -> list[str]:
    """Different names in order, numbers by their value."""
    found = {name for name in names if name is not None}
    numbers = all(name.removeprefix("-").isdecimal() for name in found)
    return sorted(found, key=(lambda name: (int(name), name)) if numbers else None)
