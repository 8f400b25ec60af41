"""Folders of images: each image in the split and class of its folder, and a word about each file that is passed over."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.image_files import list_image_folder, list_images, split_of
from common.data.images import LabeledImages, load_images
from common.data.sources import Source
from common.errors import UserError


def write(root: Path, *names: str) -> Path:
    for i, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".png":
            Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(path, "PNG")
        else:
            path.write_bytes(b"no image")
    return root


def load(root: Path) -> dict[str, LabeledImages]:
    return load_images(Source("folder", str(root)), 8, pytest.fail)


def classes(data: LabeledImages) -> list[str]:
    return [data.class_names[label] for label in data.labels.tolist()]


def test_suffixes_are_read_in_any_case(tmp_path, capsys):
    write(tmp_path, "train/a/0.png", "train/a/1.Png", "train/b/2.PNG", "test/a/3.png", "test/b/4.pNg")
    splits = load(tmp_path)
    assert (len(splits["train"]), len(splits["test"])) == (3, 2)
    assert capsys.readouterr().out == ""


def test_what_is_passed_over_is_counted_in_one_line(tmp_path, capsys):
    write(tmp_path, "train/a/0.png", "train/b/0.png", "test/a/0.png", "test/b/0.png")
    write(tmp_path, "train/a/1.HEIC", "train/b/2.heic", "train/a/._0.png", "train/.ipynb_checkpoints/a.png", "cover.png")
    write(tmp_path, "train/loose.png")
    for _ in range(2):  # the second time from the cache
        assert len(load(tmp_path)["train"]) == 2
        (line,) = capsys.readouterr().out.splitlines()
        assert line.startswith(f"data source {tmp_path}: passed over: ")
        for part in ("2 .heic (convert to PNG or JPEG)", "2 hidden", "1 no folder of a split", "1 no folder of a class"):
            assert part in line


def test_avif_is_read(tmp_path):
    write(tmp_path, "train/a/0.png", "train/b/0.png", "test/a/0.png")
    (tmp_path / "test" / "b").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "test" / "b" / "x.avif")
    assert classes(load(tmp_path)["test"]) == ["a", "b"]


def test_class_folders_that_are_links_are_read_and_watched(tmp_path):
    root = write(tmp_path / "data", "train/a/0.png", "test/a/0.png", "test/b/0.png")
    write(tmp_path / "elsewhere", "0.png")
    (root / "train" / "b").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (root / "train" / "a" / "loop").symlink_to(root, target_is_directory=True)
    assert classes(load(root)["train"]) == ["a", "b"]
    write(tmp_path / "elsewhere", "1.png")
    assert classes(load(root)["train"]) == ["a", "b", "b"], "the cache knows the files behind a link"


def test_the_folder_at_the_top_alone_decides_on_the_split(tmp_path):
    write(tmp_path, "train/train/0.png", "train/dev/0.png", "train/test/0.png", "train/cat/val/0.png")
    write(tmp_path, "test/train/0.png", "test/dev/0.png", "test/test/0.png", "test/cat/0.png", "test/cat/1.png")
    splits = load(tmp_path)
    assert set(splits) == {"train", "test"}
    assert classes(splits["train"]) == ["cat", "dev", "test", "train"]
    assert classes(splits["test"]) == ["cat", "cat", "dev", "test", "train"]


@pytest.mark.parametrize(
    "split, folders",
    [
        ("train", ["train", "Training", "train_images"]),
        ("validation", ["my-val", "dev", "valid", "validation"]),
        ("test", ["testing", "eval", "test-2020"]),
        (None, ["trainer", "contest", "cat", ""]),
    ],
)
def test_names_of_split_folders(split, folders):
    assert {split_of(folder) for folder in folders} == {split}


def test_a_validation_folder_is_a_split_of_its_own_or_the_test(tmp_path):
    write(tmp_path, "train/a/0.png", "train/b/0.png", "valid/a/0.png", "valid/b/0.png", "valid/b/1.png")
    splits = load(tmp_path)
    assert {name: len(data) for name, data in splits.items()} == {"train": 2, "test": 3}
    write(tmp_path, "test/a/0.png", "test/b/0.png")
    splits = load(tmp_path)
    assert {name: len(data) for name, data in splits.items()} == {"train": 2, "validation": 3, "test": 2}


def test_classes_that_differ_between_splits_are_named(tmp_path, capsys):
    write(tmp_path, "train/Cat/0.png", "train/dog/0.png", "test/cat/0.png", "test/dog/0.png")
    assert load(tmp_path)["test"].class_names == ["Cat", "cat", "dog"]
    (line,) = capsys.readouterr().out.splitlines()
    assert line == f"data source {tmp_path}: classes that some splits lack: Cat (only in train), cat (only in test)"


def test_order_is_that_of_the_paths(tmp_path):
    write(tmp_path, "train/b/10.png", "train/b/9.png", "train/a/0.png", "train/a b/0.png", "test/a/0.png")
    names = [str(path.relative_to(tmp_path)) for path, _ in list_image_folder(tmp_path)[0]["train"]]
    assert names == ["train/a b/0.png", "train/a/0.png", "train/b/10.png", "train/b/9.png"]


def test_a_folder_of_nothing_but_hidden_images_has_none(tmp_path):
    write(tmp_path, ".hidden/0.png", "._0.png")
    assert list_images(tmp_path) == ([], Counter(hidden=2))
    with pytest.raises(UserError):
        load(tmp_path)


def test_a_hidden_folder_may_be_the_root(tmp_path):
    root = write(tmp_path / ".data", "0.png")
    assert [path.name for path in list_images(root)[0]] == ["0.png"]
