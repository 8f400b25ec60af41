"""Layouts of labeled images: each is read to the same splits, images and classes, or one line says what to do."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data import image_decoding
from common.data.cifar_pickles import TRAIN_10
from common.data.image_tables import Columns
from common.data.images import LabeledImages, load_images
from common.data.sources import resolve_source
from common.errors import UserError


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


def load(path: Path, image: str | None = None, label: str | None = None) -> dict[str, LabeledImages]:
    return load_images(resolve_source(str(path), ""), 8, pytest.fail, Columns(image, label))


def content(data: LabeledImages) -> dict[int, str]:
    """Gray value of each image -> its class."""
    return {int(image[0, 0, 0]): data.class_names[label] for image, label in zip(data.images, data.labels, strict=True)}


def contents(path: Path, **columns: str) -> dict[str, dict[int, str]]:
    return {split: content(data) for split, data in load(path, **columns).items()}


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


LAYOUTS = [
    nested,
    side_files,
    metadata_of_the_root,
    metadata_of_splits,
    metadata_in_class_folders,
    captions_in_class_folders,
    a_table_for_each_split,
    a_table_beside_folders_that_are_no_classes,
    parquet_with_bytes,
    parquet_with_bytes_and_paths,
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("name", ["pets", "pics [v2]"])
def test_a_layout_is_read(tmp_path, layout: Callable[[Path], None], name):
    layout(tmp_path / name)
    assert contents(tmp_path / name) == {"train": TRAIN, "test": TEST}


def test_side_files_are_counted(tmp_path, capsys):
    side_files(tmp_path)
    load(tmp_path)
    assert capsys.readouterr().out == f"data source {tmp_path}: passed over: 4 .json, 4 .txt\n"


LABELS = {
    "strings": (["b", "a", "b", "a"], ["a", "b"]),
    "floats": ([1.0, 10.0, 1.0, 2.0], ["1", "2", "10"]),
    "bools": ([True, False, True, False], ["False", "True"]),
    "whole numbers": ([10, 9, -1, 9], ["-1", "9", "10"]),
}


@pytest.mark.parametrize("labels, names", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet", "-bytes.parquet"])
def test_labels_of_any_type_are_read(tmp_path, suffix, labels, names):
    paths = [f"img/{i}.png" for i in range(4)]
    write_images(tmp_path, *paths)
    table = tmp_path / f"labels{suffix}"
    if suffix == ".jsonl":
        write(table, "".join(json.dumps({"image": path, "label": y}) + "\n" for path, y in zip(paths, labels, strict=True)))
    elif suffix.endswith(".parquet"):
        images = [png(i) for i in range(4)] if suffix.startswith("-") else paths
        write_parquet(table, image=images, label=labels)
    else:
        separator = "\t" if suffix == ".tsv" else ","
        rows = [["image", "label"], *zip(paths, map(str, labels), strict=True)]
        write(table, "".join(separator.join(row) + "\n" for row in rows))
    splits = load(table)
    assert splits["train"].class_names == splits["test"].class_names == names
    found = content(splits["train"]) | content(splits["test"])
    assert found == {i: str(int(y) if isinstance(y, float) else y) for i, y in enumerate(labels)}
    if not suffix.startswith("-"):
        assert contents(tmp_path) == contents(table), "the folder is read as its table is"


def test_a_changed_table_or_image_is_read_again(tmp_path):
    write_images(tmp_path, *(f"{i}.png" for i in range(3)))
    write(tmp_path / "t.csv", "image,label\n0.png,a\n1.png,a\n2.png,a\n")
    load(tmp_path / "t.csv")
    write(tmp_path / "t.csv", "image,label\n0.png,xy\n1.png,xy\n2.png,xy\n")
    assert load(tmp_path / "t.csv")["train"].class_names == ["xy"]


def test_one_of_several_columns_is_chosen(tmp_path):
    write_images(tmp_path, *(f"{i}.png" for i in range(6)))
    rows = [f"{i}.png,{5 - i}.png,{'ab'[i % 2]},{'xyz'[i % 3]}" for i in range(3)]
    write(tmp_path / "t.csv", "\n".join(["left,right,fine_label,coarse_label", *rows]) + "\n")
    with pytest.raises(UserError, match=r"several columns of images: left, right; choose one with --data\.image_column"):
        load(tmp_path / "t.csv")
    with pytest.raises(UserError, match=r"columns of labels: fine_label, coarse_label; choose one with --data\.label"):
        load(tmp_path / "t.csv", "left")
    with pytest.raises(UserError, match=r"--data\.label_column x: the columns of .*t\.csv are left, right, fine_label"):
        load(tmp_path / "t.csv", "left", "x")
    splits = load(tmp_path / "t.csv", "right", "coarse_label")
    assert content(splits["train"]) | content(splits["test"]) == {5: "x", 4: "y", 3: "z"}


@pytest.mark.parametrize(
    "rows, message",
    [
        ("0.png,0.25\n", "needs|--data.label_column label: 0.25 is not a class; labels are text or whole numbers"),
        ("0.png,a\n0.png,\n", "row 1 of t.csv has no label"),
        ("0.png,a\n9.png,b\n", "row 1 of t.csv, .*9.png, is missing"),
        ("0,a\n", r"needs a column of images or of their paths, has image \(Value\), label \(Value\)"),
    ],
)
def test_a_bad_table_is_one_line(tmp_path, rows, message):
    write_images(tmp_path, "0.png")
    write(tmp_path / "t.csv", f"image,label\n{rows}")
    with pytest.raises(UserError, match=message):
        load(tmp_path / "t.csv", label="label")


def test_columns_of_a_folder_without_tables_are_refused(tmp_path):
    write_images(tmp_path, *FOUR)
    with pytest.raises(UserError, match=r"--data\.label_column x: .* has no table that lists its images"):
        load(tmp_path, label="x")


# without labels, without splits


@pytest.mark.parametrize("names", [("0.png", "1.png", "2.png"), ("train/0.png", "train/1.png", "test/2.png")], ids=str)
def test_images_without_labels_are_of_one_class(tmp_path, names):
    write_images(tmp_path, *names)
    splits = load(tmp_path)
    assert splits["train"].class_names == ["unlabeled"]
    assert {split: len(data) for split, data in splits.items()} == {"train": 2, "test": 1}


def test_without_splits_a_tenth_is_held_out_for_the_test(tmp_path, capsys):
    write_images(tmp_path, *(f"{'ab'[i % 2]}/{i}.png" for i in range(40)))
    splits = load(tmp_path)
    line = f"data source {tmp_path}: no test split: 4 of its 40 images are held out for the test\n"
    assert line in capsys.readouterr().out
    train, test = content(splits["train"]), content(splits["test"])
    assert len(test) == 4 and train | test == {i: "ab"[i % 2] for i in range(40)}


def test_with_train_and_validation_the_test_is_the_validation_split(tmp_path, capsys):
    write_images(tmp_path, "train/a/0.png", "train/b/1.png", "val/a/2.png", "val/b/3.png")
    assert contents(tmp_path) == {"train": TRAIN, "test": TEST}
    assert "no test split: its validation split is the test" in capsys.readouterr().out


def test_too_few_images_are_an_error(tmp_path):
    write_images(tmp_path, "a/0.png", "b/1.png")
    with pytest.raises(UserError, match="2 images are too few for training, validation and test"):
        load(tmp_path)


# too large


def test_an_image_that_is_too_large_is_called_so(tmp_path, monkeypatch):
    write_images(tmp_path, *FOUR)
    monkeypatch.setattr(image_decoding.Image, "MAX_IMAGE_PIXELS", 40)
    load(tmp_path)  # more than the limit is read, more than twice the limit is not
    (tmp_path / FOUR[0]).touch()  # no longer the one of the cache
    monkeypatch.setattr(image_decoding.Image, "MAX_IMAGE_PIXELS", 30)
    with pytest.raises(UserError, match=r"a/0\.png: too large: at most 60 pixels are decoded"):
        image_decoding.read_image(tmp_path / FOUR[0], 8)
    with pytest.raises(UserError, match=r"row 0 of train, .*a/0\.png, is too large"):
        load(tmp_path)


# CIFAR's pickles


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


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize("kind", ["folder", "parent", "archive", "parent of the archive"])
def test_cifar_10_is_read_as_torchvision_stores_it(tmp_path, kind, protocol):
    folder = tmp_path / "cifar-10-batches-py"
    expected = write_cifar(folder, protocol)
    source = tmp_path if "parent" in kind else folder
    if "archive" in kind:
        archive = tmp_path / "cifar-10-python.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(folder, folder.name)
        folder.rename(tmp_path / "elsewhere")
        source = tmp_path if "parent" in kind else archive
    assert contents(source) == expected


def test_cifar_100_has_two_columns_of_labels(tmp_path):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    names = {"fine_label_names": ["bee", "cup"], "coarse_label_names": ["animal", "thing"]}
    (folder / "meta").write_bytes(pickle.dumps(names, 2))
    for file, value in (("train", 0), ("test", 2)):
        data = np.repeat(np.array([[value], [value + 1]], np.uint8), 3072, 1)
        (folder / file).write_bytes(pickle.dumps({"data": data, "fine_labels": [0, 1], "coarse_labels": [1, 0]}, 2))
    with pytest.raises(UserError, match="columns of labels: fine_label, coarse_label; choose one with "):
        load(tmp_path)
    assert contents(tmp_path, label="fine_label") == {"train": {0: "bee", 1: "cup"}, "test": {2: "bee", 3: "cup"}}
    assert contents(tmp_path, label="coarse_label")["test"] == {2: "thing", 3: "animal"}


class Call:
    def __reduce__(self):
        return print, ("called",)


@pytest.mark.parametrize(
    "file, damage, message",
    [
        ("data_batch_2", None, "data_batch_2 is missing"),
        ("data_batch_2", b"hello", "data_batch_2 cannot be read"),
        ("test_batch", pickle.dumps(Call()), r"test_batch cannot be read: builtins\.print is not allowed in a data file"),
        ("test_batch", pickle.dumps({"data": 3}), "its pickles are not those of CIFAR"),
    ],
)
def test_damaged_or_dangerous_pickles_are_one_line(tmp_path, capsys, file, damage, message):
    write_cifar(tmp_path / "x")
    (tmp_path / "x" / file).unlink() if damage is None else (tmp_path / "x" / file).write_bytes(damage)
    with pytest.raises(UserError, match=message):
        load(tmp_path / "x")
    assert "called" not in capsys.readouterr().out


def test_a_damaged_archive_is_one_line(tmp_path):
    (tmp_path / "x.tar.gz").write_bytes(b"hello")
    with pytest.raises(UserError, match=r"x\.tar\.gz: not an archive that can be read"):
        load(tmp_path / "x.tar.gz")
    with tarfile.open(tmp_path / "y.tar.gz", "w:gz"):
        pass
    with pytest.raises(UserError, match=r"y\.tar\.gz: not the archive of CIFAR-10 or CIFAR-100; unpack it"):
        load(tmp_path / "y.tar.gz")
