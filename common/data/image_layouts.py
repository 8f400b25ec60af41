"""Layouts of labeled images: the pickles of CIFAR, tables of image files, folders of image files, tables with images.

Each layout is a function that returns the splits of a source, still encoded, or None for a source of another layout;
`read_layout` tries them in order.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from common.data.cifar_pickles import read_cifar
from common.data.image_files import describe_passed_over, list_image_folder, list_images, split_of, walk_files
from common.data.image_tables import LABEL_NAMES, UNLABELED, Columns, EncodedImages, preferred, read_rows
from common.data.labels import sort_class_names
from common.data.sources import Source, load_splits
from common.errors import UserError

TABLES = (".csv", ".tsv", ".jsonl", ".parquet")  # what may list the image files of a folder
Layout = tuple[dict[str, EncodedImages], list[str]]  # splits, and what is passed over, a sentence each


def read_layout(source: Source, columns: Columns) -> Layout:
    """Splits of `source`, and what is passed over. Raises UserError if it has none of the layouts."""
    for layout in (cifar_pickles, listed_files, image_folder):
        if (found := layout(source, columns)) is not None:
            return found
    return tables_with_images(source, columns)


def cifar_pickles(source: Source, columns: Columns) -> Layout | None:
    """CIFAR-10 or CIFAR-100 as torchvision stores it, see `common.data.cifar_pickles`."""
    splits = None if source.kind == "hub" else read_cifar(source, columns)
    return None if splits is None else (splits, [])


def listed_files(source: Source, columns: Columns) -> Layout | None:
    """Image files that tables list with their labels, by paths from the table's folder; also a single file with images.

    Beside class folders a table counts only if it has a column that is called like labels, and lists files that are there,
    unless columns are asked for.
    """
    path, splits = Path(source.name), dict[str, EncodedImages]()
    images, passed_over = list_images(path) if source.kind == "folder" else ([], Counter[str]())
    if not images and source.kind != "file":
        return None
    root, files = (path, find_image_tables(path)) if source.kind == "folder" else (path.parent, [path])
    beside_classes = source.kind == "folder" and columns == Columns() and has_classes(path)
    for file in files:
        table = load_splits(Source("file", str(file)))["train"]
        rows = read_rows(source, file.name, table, file.parent, columns) if len(table) else None
        if rows is None or (beside_classes and not (preferred(table.column_names, LABEL_NAMES) and exists(rows.items[0]))):
            continue
        passed_over[file.suffix.lower()] -= 1
        split = split_of(file.stem) or top_split(file, root) if source.kind == "folder" else None
        for name, part in ({split: rows} if split else divide_rows(rows, root)).items():
            splits[name] = join(splits[name], part) if name in splits else part
    if not splits:
        return None
    listed = {item["path"] for part in splits.values() for item in part.items if isinstance(item, dict)}
    passed_over["in no table"] = sum(str(image) not in listed for image in images)
    return splits, describe_passed_over(+passed_over)  # those above zero


def has_classes(root: Path) -> bool:
    """Whether `root` has image files in folders of several classes."""
    return len({name for files in list_image_folder(root)[0].values() for _, name in files}) > 1


def find_image_tables(root: Path) -> list[Path]:
    """Tables in and below `root` that are not hidden: those called `metadata` if there are any, else all."""
    found = [path for path in sorted(walk_files(root)) if path.suffix.lower() in TABLES and not path.name.startswith(".")]
    return [path for path in found if path.stem.lower() == "metadata"] or found


def exists(item: Any) -> bool:
    """Whether an encoded image is there, in the table or as a file."""
    return not isinstance(item, dict) or item["bytes"] is not None or Path(item["path"] or "").is_file()


def top_split(path: Path, root: Path) -> str | None:
    """Split that the folder below `root` names in which `path` is."""
    return split_of(path.relative_to(root).parts[0]) if path.is_relative_to(root) else None


def divide_rows(rows: EncodedImages, root: Path) -> dict[str, EncodedImages]:
    """Rows of a table by the split of their image files' folder at the top; "train" for none."""
    indices: dict[str, list[int]] = {}
    for i, item in enumerate(rows.items):
        path = item["path"] if isinstance(item, dict) else None
        indices.setdefault((path and top_split(Path(path), root)) or "train", []).append(i)
    return {
        split: EncodedImages(rows.split, [rows.items[i] for i in part], [rows.labels[i] for i in part], rows.class_names)
        for split, part in indices.items()
    }


def join(left: EncodedImages, right: EncodedImages) -> EncodedImages:
    """Rows of two tables of the same split."""
    names = sort_class_names([*left.class_names, *right.class_names])
    return EncodedImages(left.split, [*left.items, *right.items], left.labels + right.labels, names)


def image_folder(source: Source, columns: Columns) -> Layout | None:
    """Image files in folders `SPLIT/CLASS/...`, `CLASS/...` or `SPLIT/...`, or all in one folder."""
    if source.kind != "folder":
        return None
    files, passed_over = list_image_folder(Path(source.name))
    for option, column in vars(columns).items():
        if files and column is not None:
            raise UserError(f"--data.{option}_column {column}: {source.name} has no table that lists its images")
    encoded = {}
    for split, labeled in files.items():
        items = [{"bytes": None, "path": str(path)} for path, _ in labeled]
        labels: list[str | None] = [name or UNLABELED for _, name in labeled]
        encoded[split] = EncodedImages(split, items, labels, sort_class_names(labels))
    return (encoded, describe_passed_over(passed_over)) if files else None


def tables_with_images(source: Source, columns: Columns) -> Layout:
    """Tables with a column of images, as `datasets` reads them."""
    splits = {}
    for name, table in load_splits(source).items():
        rows = read_rows(source, name, table, Path(source.name), columns) if len(table) else None
        if rows is not None:
            splits[name] = rows
        elif len(table):
            found = ", ".join(f"{column} ({type(f).__name__})" for column, f in table.features.items())
            raise UserError(f"data source {source.name}: needs a column of images or of their paths, has {found}")
    return splits, []
