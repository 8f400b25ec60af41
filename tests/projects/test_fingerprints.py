"""Fingerprint of the data: every capstone with a finite data set counts its examples, before and after `setup`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from common.data.sources import SourceDataModule
from projects.bert_sentiment.data import TextData
from projects.blank.data import BlankData
from projects.cifar10.data import CIFAR10Data
from projects.gan.data import GANData
from projects.seq2seq.data import TranslationData

HELD_OUT = 4
CAPSTONES: dict[str, tuple[Callable[[str], SourceDataModule], str]] = {  # with the header and the rows of a table
    "cifar10": (lambda path: CIFAR10Data(path, val_size=HELD_OUT), ""),
    "gan": (lambda path: GANData(path, eval_samples=HELD_OUT), ""),
    "bert_sentiment": (lambda path: TextData(path, "tiny", val_size=HELD_OUT), "sentence,label\ntext {i},label {i % 2}\n"),
    "seq2seq": (lambda path: TranslationData(path, val_size=HELD_OUT), "en,de\ntext {i},Text {i}\n"),
    "blank": (BlankData, "a,target\n1,{i}\n"),
}


def write(folder: Path, table: str, num_train: int) -> None:
    """Writes `num_train` training examples and three for the test: images of two classes, or tables."""
    for split, count in {"train": num_train, "test": 3}.items():
        if table:
            header, row = table.splitlines()
            rows = [row.replace("{i % 2}", str(i % 2)).replace("{i}", str(i)) for i in range(count)]
            (folder / f"{split}.csv").write_text("\n".join([header, *rows, ""]))
            continue
        for i in range(count):
            path = folder / split / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (i, i, i)).save(path)


@pytest.mark.parametrize("name", CAPSTONES)
def test_a_grown_folder_has_another_fingerprint(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    new_data, table = CAPSTONES[name]
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder, table, 40)
    data = new_data(str(folder))
    before = data.fingerprint()
    assert before["source"] == "data" and data.split_sizes == {"train": 40 - HELD_OUT, "val": HELD_OUT}
    if not table:
        data.setup("fit")
        assert data.fingerprint() == before and before["class 1"] == "b"
    write(folder, table, 41)
    assert new_data(str(folder)).fingerprint() == {**before, "train examples": 41 - HELD_OUT}


def test_points_without_end_have_no_number():
    assert GANData("ring8").split_sizes == {}
