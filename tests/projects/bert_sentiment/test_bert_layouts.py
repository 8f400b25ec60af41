"""Layouts of labeled texts that the README's table has: each is read, and no other is in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from image_layouts import readme_rows
from projects.bert_sentiment import data as data_module
from projects.bert_sentiment.data import TextData

ROWS_OF_TEXT = [(f"text number {i}", ("bad", "good")[i % 2]) for i in range(30)]


def write(path: Path, rows: list[tuple[str, ...]], header: tuple[str, ...] = ("sentence", "label"), separator=",") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        lines = [json.dumps(dict(zip(header, row, strict=True))) for row in rows]
    else:
        lines = [separator.join(row) for row in ([header, *rows] if header else rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def three_splits(root: Path, names: tuple[str, str, str], separator: str = ",") -> Path:
    for name, rows in zip(names, (ROWS_OF_TEXT[:20], ROWS_OF_TEXT[20:25], ROWS_OF_TEXT[25:]), strict=True):
        write(root / name, rows, separator=separator)
    return root


def hub(root: Path) -> Path:
    import datasets

    features = datasets.Features({"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])})
    (root / "data").mkdir()
    for name, rows in (("train", ROWS_OF_TEXT[:25]), ("validation", ROWS_OF_TEXT[25:])):
        columns = {"sentence": [text for text, _ in rows], "label": [label for _, label in rows]}
        datasets.Dataset.from_dict(columns, features).to_parquet(root / "data" / f"{name}-00000-of-00001.parquet")
    return root


def glue(root: Path) -> Path:
    write(root / "train.tsv", ROWS_OF_TEXT[:25], separator="\t")
    write(root / "dev.tsv", ROWS_OF_TEXT[25:], separator="\t")
    write(root / "test.tsv", [("0", "text number 31"), ("1", "text number 32")], ("index", "sentence"), "\t")
    return root


def configurations(root: Path) -> Path:
    configs = [{"config_name": name, "data_files": f"{name}/*.csv"} for name in ("small", "large")]
    (root / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")
    write(root / "small" / "train.csv", ROWS_OF_TEXT[:10])
    write(root / "large" / "train.csv", ROWS_OF_TEXT)
    return root


def no_header(root: Path) -> Path:
    rows = [(f"x{i}", label, "", f"{text}.") for i, (text, label) in enumerate(ROWS_OF_TEXT)]
    return write(root / "cola.tsv", rows, (), "\t")


# row of the README -> its writer, options, and how many texts of training, validation and test it has
ROWS = {
    "one table": (lambda root: write(root / "reviews.csv", ROWS_OF_TEXT, separator=";"), {}, (24, 3, 3)),
    "JSON lines": (lambda root: write(root / "reviews.jsonl", ROWS_OF_TEXT), {}, (24, 3, 3)),
    "a table for each split": (lambda root: three_splits(root, ("train.csv", "dev.csv", "test.tsv"), "\t"), {}, (20, 5, 5)),
    "a folder for each split": (
        lambda root: three_splits(root, ("train/1.jsonl", "val/1.csv", "test/1.csv")),
        {},
        (20, 5, 5),
    ),
    "GLUE": (glue, {}, (23, 2, 5)),
    "the hub's": (hub, {}, (23, 2, 5)),
    "several configurations": (configurations, {"configuration": "large"}, (24, 3, 3)),
    "no header": (no_header, {"text_column": "4", "label_column": "2"}, (24, 3, 3)),
}


@pytest.mark.parametrize("row", ROWS)
def test_a_layout_of_the_readme_is_read(tmp_path, row):
    write_layout, options, sizes = ROWS[row]
    data = TextData(str(write_layout(tmp_path)), **options)
    assert tuple(len(data.splits[split]) for split in ("train", "val", "test")) == sizes
    expected = {(f"{text}." if row == "no header" else text): label for text, label in ROWS_OF_TEXT}
    for split in data.splits.values():
        assert [expected[text] for text in split.texts] == [data.class_names[label] for label in split.labels]


def test_the_readme_has_these_layouts():
    assert readme_rows(Path(data_module.__file__).with_name("README.md")) == list(ROWS)
