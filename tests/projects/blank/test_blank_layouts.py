"""Layouts of tables that the README's table has: each is read, and no other is in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.errors import UserError
from image_layouts import readme_rows
from projects.blank import data as data_module
from projects.blank.data import BlankData, Table

VALUES = [(float(i), float(i * i % 7), float(3 * i)) for i in range(20)]  # a, b and the target
NAMES = ("a", "b", "price")


def write(path: Path, rows: list[tuple], separator: str = ",") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(separator.join(map(str, row)) + "\n" for row in [NAMES, *rows]))
    return str(path)


def json_lines(root: Path) -> str:
    (root / "rows.jsonl").write_text("".join(json.dumps(dict(zip(NAMES, row, strict=True))) + "\n" for row in VALUES))
    return str(root / "rows.jsonl")


def parquet(root: Path) -> str:
    import pandas

    pandas.DataFrame(VALUES, columns=NAMES).to_parquet(root / "rows.parquet")
    return str(root / "rows.parquet")


def splits(root: Path) -> str:
    for split, rows in (("train", VALUES[:10]), ("validation", VALUES[10:13]), ("test", VALUES[13:])):
        write(root / f"{split}.csv", rows)
    return str(root)


def one_table(root: Path) -> str:
    write(root / "rows.csv", VALUES)
    return str(root)


def empty_cells(root: Path) -> str:
    return write(root / "rows.csv", [*VALUES, ("", 1, 2), (1, 2, "")])


def text(root: Path) -> str:
    path = Path(write(root / "rows.csv", VALUES))
    header, *lines = path.read_text().splitlines()
    path.write_text("\n".join([f"city,{header}", *(f"Bonn,{line}" for line in lines)]) + "\n")
    return str(path)


def truth_values(root: Path) -> str:
    return write(root / "rows.csv", [("true" if row[0] % 2 else "false", *row[1:]) for row in VALUES])


ROWS = {
    "CSV": lambda root: write(root / "rows.csv", VALUES),
    "TSV": lambda root: write(root / "rows.tsv", VALUES, "\t"),
    "JSON lines": json_lines,
    "Parquet": parquet,
    "folder with splits": splits,
    "folder of one table": one_table,
    "empty cells": empty_cells,
    "columns of text": text,
    "truth values": truth_values,
}


def set_up(source: str) -> BlankData:
    data = BlankData(source, target="price")
    data.setup("fit")
    return data


def content(*tables: Table) -> list[tuple]:
    return sorted((*x.tolist(), y.item()) for inputs, targets in tables for x, y in zip(inputs, targets, strict=True))


@pytest.mark.parametrize("row", ROWS)
def test_a_layout_of_the_readme_is_read(tmp_path, capsys, row):
    data = set_up(ROWS[row](tmp_path))
    expected = [(a % 2, b, price) for a, b, price in VALUES] if row == "truth values" else VALUES
    assert content(data.train, data.val, data.test) == sorted(expected)
    out = capsys.readouterr().out
    if row == "folder with splits":
        assert (content(data.val), content(data.test)) == (VALUES[10:13], VALUES[13:])
    assert ("rows.csv: train: 2 rows with an empty cell are left out" in out) == (row == "empty cells")
    assert ("columns without numbers are left out: city" in out) == (row == "columns of text")


def test_the_readme_has_these_layouts():
    assert readme_rows(Path(data_module.__file__).with_name("README.md")) == list(ROWS)


@pytest.mark.parametrize(
    "rows, message",
    [
        ([(1, 2, 3), ("x", 2, 3)], "rows.csv: train, row 2: a is 'x', not a finite number"),
        ([(1, 2, "inf")], "train, row 1: price is inf, not a finite number"),
        ([("x", "y", 3)], "no column of numbers beside the target price"),
        ([(1, 2, "x")], "train, row 1: price is 'x', not a finite number"),
        ([(1, "", 3), ("", 1, 3)], "train: every row has an empty cell"),
    ],
)
def test_a_cell_that_is_no_number_is_named(tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        set_up(write(tmp_path / "rows.csv", rows))


def test_columns_go_by_their_names(tmp_path):
    write(tmp_path / "train.csv", VALUES)
    (tmp_path / "test.csv").write_text("price,b,a\n" + "".join(f"{p},{b},{a}\n" for a, b, p in VALUES[:3]))
    assert content(set_up(str(tmp_path)).test) == VALUES[:3]
