"""CIFAR-10 and CIFAR-100 as their authors and torchvision store them: pickles in a folder, or in its `.tar.gz`."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from common.data.image_tables import Columns, EncodedImages, choose_column
from common.data.sources import ARCHIVE, Source
from common.errors import UserError, one_line

TRAIN_10 = [f"data_batch_{number}" for number in range(1, 6)]
# file of the class names -> the files of each split, and column of labels -> its key in them, and that of the names
FORMATS: dict[str, tuple[dict[str, list[str]], dict[str, tuple[str, str]]]] = {
    "batches.meta": ({"train": TRAIN_10, "test": ["test_batch"]}, {"label": ("labels", "label_names")}),
    "meta": (
        {"train": ["train"], "test": ["test"]},
        {
            "fine_label": ("fine_labels", "fine_label_names"),
            "coarse_label": ("coarse_labels", "coarse_label_names"),
        },
    ),
}
FILES = {*FORMATS, *(name for splits, _ in FORMATS.values() for names in splits.values() for name in names)}
MAX_BYTES = 2**29  # of a file; the largest has 155 MB
FOLDERS = ("cifar-10-batches-py", "cifar-100-python")
# what arrays are pickled with; the first two by numpy 1 and 2, in Python 2 and 3
ALLOWED = {
    *((f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


class ArrayUnpickler(pickle.Unpickler):
    """Unpickler of builtin types and numpy arrays: a pickle could name any function and have it called."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a data file")
        return super().find_class(module, name)


def read_cifar(source: Source, columns: Columns) -> dict[str, EncodedImages] | None:
    """Splits of a source of this layout; None for another. Raises UserError if a file is missing or damaged."""
    root = Path(source.name)
    if source.kind == "folder":
        for folder in (root, *(root / name for name in FOLDERS)):
            for meta, (splits, _) in FORMATS.items():
                if all((folder / name).is_file() for name in (meta, splits["test"][0])):
                    files = {name: (folder / name).read_bytes() for name in FILES if (folder / name).is_file()}
                    return read_splits(source, files, meta, columns)
    archives = [root] if root.name.endswith(ARCHIVE) else sorted(root.glob(f"cifar-*-python{ARCHIVE}"))
    if not archives:
        return None
    files = read_archive(archives[0])
    for meta in FORMATS:
        if meta in files:
            return read_splits(source, files, meta, columns)
    raise UserError(f"{archives[0]}: not the archive of CIFAR-10 or CIFAR-100; unpack it and give the folder")


def read_archive(path: Path) -> dict[str, bytes]:
    """Name -> content of the files of CIFAR in a `.tar.gz`; nothing is written."""
    try:
        with tarfile.open(path) as archive:
            members = [member for member in archive if member.isfile() and PurePath(member.name).name in FILES]
            if large := [member for member in members if member.size > MAX_BYTES]:
                raise UserError(f"{path}: {large[0].name} has {large[0].size:,} bytes, more than any file of CIFAR")
            found = ((PurePath(member.name).name, archive.extractfile(member)) for member in members)
            return {name: file.read() for name, file in found if file is not None}
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{path}: not an archive that can be read: {one_line(error)}") from error


def read_splits(source: Source, files: dict[str, bytes], meta: str, columns: Columns) -> dict[str, EncodedImages]:
    """Splits from the files' contents."""
    splits, keys = FORMATS[meta]
    column = choose_column(source, "label", [list(keys)], columns.label, list(keys))
    labels_key, names_key = keys[str(column)]

    def load(name: str) -> Any:
        if name not in files:
            raise UserError(f"data source {source.name}: {name} is missing")
        try:  # Python 2's strings, in which the originals are written, are read as latin1
            return ArrayUnpickler(io.BytesIO(files[name]), encoding="latin1").load()
        except Exception as error:  # what a damaged pickle raises depends on where it is damaged
            raise UserError(f"data source {source.name}: {name} cannot be read: {one_line(error)}") from error

    try:
        class_names = [str(name) for name in load(meta)[names_key]]
        encoded = {}
        for split, names in splits.items():
            batches = [load(name) for name in names]
            pixels = np.concatenate([np.asarray(batch["data"], np.uint8) for batch in batches])
            images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # (n, height, width, channels)
            labels: list[str | None] = [class_names[label] for batch in batches for label in batch[labels_key]]
            encoded[split] = EncodedImages(split, list(images), labels, class_names)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"data source {source.name}: its pickles are not those of CIFAR: {error!r}") from error
    return encoded
