"""Writers of images in the layouts that are read, and the rows of the READMEs' tables, for the tests of all projects.

Image i is of the gray value i. Where nothing else is said, 0 (class a) and 1 (class b) are for training, 2 (a) and 3 (b)
for the test.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
from PIL import Image

from common.data.cifar_pickles import TRAIN_10


def png(value: int) -> bytes:
    """An image of one gray value."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (value, value, value)).save(buffer, "PNG")
    return buffer.getvalue()


def write_images(root: Path, *names: str) -> None:
    """Image number i in the file of name i."""
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(i))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_parquet(path: Path, **columns: list) -> None:
    import pandas

    path.parent.mkdir(parents=True, exist_ok=True)
    pandas.DataFrame(columns).to_parquet(path)


TRAIN, TEST = {0: "a", 1: "b"}, {2: "a", 3: "b"}
FOUR = ("train/a/0.png", "train/b/1.png", "test/a/2.png", "test/b/3.png")
FLAT = ("train/0.png", "train/1.png", "test/2.png", "test/3.png")


def nested(root: Path) -> None:
    write_images(root, "train/a/day1/x/0.png", "train/b/1.png", "test/a/day2/2.png", "test/b/3.png")


def side_files(root: Path) -> None:
    write_images(root, *FOUR)
    for name in FOUR:
        write((root / name).with_suffix(".txt"), "0 0.5 0.5 1 1")
        write((root / name).with_suffix(".json"), '{"shapes": []}')


def metadata_of_the_root(root: Path) -> None:
    write_images(root, *FLAT)
    write(root / "metadata.csv", "file_name,label\n" + "".join(f"{name},{'ab'[i % 2]}\n" for i, name in enumerate(FLAT)))


def metadata_of_splits(root: Path) -> None:
    write_images(root, *FLAT)
    write(root / "train" / "metadata.csv", "file_name,label\n0.png,a\n1.png,b\n")
    write(root / "test" / "metadata.jsonl", '{"file_name": "2.png", "label": "a"}\n{"file_name": "3.png", "label": "b"}\n')


def metadata_in_class_folders(root: Path) -> None:
    write_images(root, "train/x/0.png", "train/x/1.png", "test/y/2.png", "test/x/3.png")
    write(root / "train" / "metadata.csv", "file_name,label,author\nx/0.png,a,me\nx/1.png,b,you\n")
    write(root / "test" / "metadata.csv", "file_name,label,author\ny/2.png,a,me\nx/3.png,b,me\n")


def captions_in_class_folders(root: Path) -> None:
    write_images(root, *FOUR)
    write(root / "train" / "metadata.csv", "file_name,caption\na/0.png,a dog\nb/1.png,a cat\n")


def a_table_for_each_split(root: Path) -> None:
    write_images(root, *(f"pics/{i}.png" for i in range(4)))
    write(root / "train.csv", "image,species\npics/0.png,a\npics/1.png,b\n")
    write(root / "test.tsv", "image\tspecies\npics/2.png\ta\npics\\3.png\tb\n")


def a_table_beside_folders_that_are_no_classes(root: Path) -> None:
    write_images(root, "part_1/0.png", "part_1/1.png", "part_2/2.png", "part_2/3.png", "part_2/4.png", "part_2/5.png")
    write(root / "train.csv", "id,image,label\n7,part_1/0.png,a\n8,part_1/1.png,b\n")
    write(root / "test.csv", "id,image,label\n9,part_2/2.png,a\n10,part_2/3.png,b\n")


def parquet_with_bytes(root: Path) -> None:
    write_parquet(root / "train.parquet", image=[png(0), png(1)], label=["a", "b"])
    write_parquet(root / "test.parquet", image=[png(2), png(3)], label=["a", "b"])


def parquet_with_bytes_and_paths(root: Path) -> None:
    for split, values in (("train", (0, 1)), ("test", (2, 3))):
        images = [{"bytes": png(value), "path": f"{value}.png"} for value in values]
        write_parquet(root / split / "0.parquet", image=images, label=["a", "b"])


def write_cifar(folder: Path, protocol: int = 2, rows: int = 2) -> dict[str, dict[int, str]]:
    """CIFAR-10 as its authors store it, with `rows` images in a file; returns what it holds."""
    folder.mkdir(parents=True)
    names, expected, value = ["cat", "dog"], {"train": {}, "test": {}}, 0
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}, protocol))
    for file in (*TRAIN_10, "test_batch"):
        values = np.arange(value, value + rows, dtype=np.uint8)
        batch = {"data": np.repeat(values[:, None], 3072, 1), "labels": [int(v) % 2 for v in values]}
        expected["test" if file == "test_batch" else "train"] |= {int(v): names[v % 2] for v in values}
        (folder / file).write_bytes(pickle.dumps(batch, protocol))
        value += rows
    return expected


def cifar_100(folder: Path) -> None:
    """CIFAR-100 as its authors store it, with two images in a file."""
    folder.mkdir(parents=True)
    names = {"fine_label_names": ["a", "b"], "coarse_label_names": ["x", "y"]}
    (folder / "meta").write_bytes(pickle.dumps(names, 2))
    for file, value in (("train", 0), ("test", 2)):
        data = np.repeat(np.array([[value], [value + 1]], np.uint8), 3072, 1)
        (folder / file).write_bytes(pickle.dumps({"data": data, "fine_labels": [0, 1], "coarse_labels": [1, 0]}, 2))


def classes_without_splits(root: Path) -> None:
    """Four images of each class."""
    write_images(root, *(f"{'ab'[i % 2]}/{i}.png" for i in range(8)))


def no_classes(root: Path) -> None:
    write_images(root, *(f"{i}.png" for i in range(8)))


# row of the READMEs' tables -> its writer, options, and how many images of training and test it has
ROWS = {
    "class folders": (nested, {}, (2, 2)),
    "class folders without splits": (classes_without_splits, {}, (7, 1)),
    "images without classes": (no_classes, {}, (7, 1)),
    "class folders with metadata": (metadata_in_class_folders, {}, (2, 2)),
    "images listed in tables": (a_table_for_each_split, {}, (2, 2)),
    "images in tables": (parquet_with_bytes, {}, (2, 2)),
    "CIFAR-10": (write_cifar, {}, (10, 2)),
    "CIFAR-100": (cifar_100, {"label_column": "fine_label"}, (2, 2)),
}


def readme_rows(readme: Path) -> list[str]:
    """First column of the README's table of layouts."""
    _, table = readme.read_text().split("| layout | example | notes |\n|---|---|---|\n")
    return [line.split(" | ")[0].removeprefix("| ") for line in table.split("\n\n")[0].splitlines()]
