"""Layouts of labeled images: each is read to the same splits, images and classes, or one line says what to do."""

from __future__ import annotations

import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from common.data import cifar_pickles, image_decoding
from common.data.image_tables import Columns
from common.data.images import LabeledImages, load_images
from common.data.sources import resolve_source
from common.errors import UserError
from image_layouts import (
    FOUR,
    TEST,
    TRAIN,
    a_table_beside_folders_that_are_no_classes,
    a_table_for_each_split,
    captions_in_class_folders,
    cifar_100,
    metadata_in_class_folders,
    metadata_of_splits,
    metadata_of_the_root,
    nested,
    parquet_with_bytes,
    parquet_with_bytes_and_paths,
    png,
    side_files,
    write,
    write_cifar,
    write_images,
    write_parquet,
)


def load(path: Path, image: str | None = None, label: str | None = None) -> dict[str, LabeledImages]:
    return load_images(resolve_source(str(path), ""), 8, pytest.fail, Columns(image, label))


def content(data: LabeledImages) -> dict[int, str]:
    """Gray value of each image -> its class."""
    return {int(image[0, 0, 0]): data.class_names[label] for image, label in zip(data.images, data.labels, strict=True)}


def contents(path: Path, **columns: str) -> dict[str, dict[int, str]]:
    return {split: content(data) for split, data in load(path, **columns).items()}


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
    cifar_100(tmp_path / "cifar-100-python")
    with pytest.raises(UserError, match="columns of labels: fine_label, coarse_label; choose one with "):
        load(tmp_path)
    assert contents(tmp_path, label="fine_label") == {"train": TRAIN, "test": TEST}
    assert contents(tmp_path, label="coarse_label")["test"] == {2: "y", 3: "x"}


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


def test_an_archive_is_not_read_whole(tmp_path, monkeypatch):
    (tmp_path / "zeros").write_bytes(bytes(1000))
    monkeypatch.setattr(cifar_pickles, "MAX_BYTES", 999)
    for name, message in (("other", "not the archive of CIFAR"), ("a/train", "a/train has 1,000 bytes, more than any file")):
        with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
            archive.add(tmp_path / "zeros", name)
        with pytest.raises(UserError, match=message):
            load(tmp_path / "x.tar.gz")


def test_a_damaged_archive_is_one_line(tmp_path):
    (tmp_path / "x.tar.gz").write_bytes(b"hello")
    with pytest.raises(UserError, match=r"x\.tar\.gz: not an archive that can be read"):
        load(tmp_path / "x.tar.gz")
    with tarfile.open(tmp_path / "y.tar.gz", "w:gz"):
        pass
    with pytest.raises(UserError, match=r"y\.tar\.gz: not the archive of CIFAR-10 or CIFAR-100; unpack it"):
        load(tmp_path / "y.tar.gz")
