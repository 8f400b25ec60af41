"""Tables in files: every row as it stands in the file, words that look like missing values, types, splits of a folder."""

from __future__ import annotations

import json
import os

import pytest

from common.data.sources import Source, load_splits
from common.errors import UserError

WORDS = ["null", "None", "nan", "NA", "n/a", "NULL", "#N/A"]


def read(path, content: str | bytes | None = None) -> dict[str, list]:
    """Columns of a file, or of the split train of a folder."""
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    table = load_splits(Source("folder" if path.is_dir() else "file", str(path)))["train"]
    return {name: list(table[name]) for name in table.column_names}


def error(path, content: str) -> str:
    with pytest.raises(UserError) as caught:
        read(path, content)
    line = str(caught.value)
    assert str(path) in line and "\n" not in line
    return line


@pytest.mark.parametrize("suffix, separator", [("csv", ","), ("csv", ";"), ("csv", "\t"), ("tsv", "\t"), ("txt", "\t")])
def test_only_an_empty_cell_is_missing(tmp_path, suffix, separator):
    rows = [("text", "label"), *((f"is {word}", word) for word in WORDS), ("empty", "")]
    columns = read(tmp_path / f"words.{suffix}", "".join(separator.join(row) + "\n" for row in rows))
    assert columns == {"text": [*(f"is {word}" for word in WORDS), "empty"], "label": [*WORDS, None]}


@pytest.mark.parametrize("suffix, separator", [("csv", ","), ("tsv", "\t")])
@pytest.mark.parametrize("which", [range(8), [5]])
def test_a_row_with_another_number_of_cells_is_named(tmp_path, suffix, separator, which):
    rows = [["text", "label"], *([f"text {i}", "a", *(["more"] if i in which else [])] for i in range(8))]
    content = "".join(separator.join(row) + "\n" for row in rows)
    line = error(tmp_path / f"rows.{suffix}", content)
    assert f"rows.{suffix}: line {which[0] + 2} has 3 cells, the first row 2" in line
    assert "line 10 has 1 cells" in error(tmp_path / f"rows.{suffix}", content.replace(f"{separator}more", "") + "short\n")
    trailing = content.replace(f"{separator}more", separator)
    assert len(read(tmp_path / f"rows.{suffix}", trailing)["text"]) == 8, "separators at the end of a line hold nothing"


def test_a_quote_in_tsv_swallows_no_line(tmp_path):
    texts = ['"left open', 'an "inner" one', '"a ""doubled"" one"', '"', '""', "plain"] * 40
    columns = read(tmp_path / "rows.tsv", "text\tlabel\n" + "".join(f"{text}\tb\n" for text in texts))
    assert len(columns["text"]) == 240
    assert columns["text"][:6] == ['"left open', 'an "inner" one', 'a "doubled" one', '"', None, "plain"]


def test_a_quote_left_open_in_csv_is_named_with_its_line(tmp_path):
    path, fine = tmp_path / "rows.csv", 'text,label\n"two\nlines, and a comma",a\nfive" inches,b\n\n'
    assert read(path, fine) == {"text": ["two\nlines, and a comma", 'five" inches'], "label": ["a", "b"]}
    assert "rows.csv: line 6: " in error(path, fine + '"open,a\nnext,b\n')
    assert "rows.csv: line 6: " in error(path, fine + '"open,a\n"next",b\n')


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json", "txt"])
def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path, suffix):
    content = '{"text": "a", "label": "b"}\n' if suffix.startswith("json") else "text,label\na,b\n"
    content = content.replace(",", "\t") if suffix in ("tsv", "txt") else content
    assert read(tmp_path / f"rows.{suffix}", f"\ufeff{content}") == {"text": ["a"], "label": ["b"]}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("folder", [False, True])
def test_a_file_replaced_under_the_same_time_is_read_anew(tmp_path, suffix, folder):
    import pandas

    path = tmp_path / f"rows.{suffix}"
    for text in ("one", "two"):
        frame = pandas.DataFrame({"text": [text]})
        frame.to_csv(path, index=False) if suffix == "csv" else frame.to_parquet(path)
        os.utime(path, (1e9, 1e9))
        assert read(tmp_path if folder else path) == {"text": [text]}


@pytest.mark.parametrize("name", ["all*", "what?", "[a-c]", "{x,y}"])
def test_no_letter_of_a_path_is_a_pattern(tmp_path, name):
    (tmp_path / name).mkdir()
    for split in ("train", "test"):
        (tmp_path / name / f"{split}-{name}.csv").write_text(f"text\n{split}\n")
    splits = load_splits(Source("folder", str(tmp_path / name)))
    assert {split: list(table["text"]) for split, table in splits.items()} == {"train": ["train"], "test": ["test"]}
    assert read(tmp_path / name / f"test-{name}.csv") == {"text": ["test"]}


def test_the_type_of_a_column_follows_from_all_its_cells(tmp_path):
    rows = [f"{i},,{i}.5,true,1," for i in range(12_000)] + ["7,late,0,false,x,"]
    columns = read(tmp_path / "rows.csv", "\n".join(["whole,note,number,truth,mixed,none", *rows]))
    assert columns["whole"][-2:] == [11_999, 7] and columns["note"] == [None] * 12_000 + ["late"]
    assert columns["number"][-2:] == [11_999.5, 0.0] and columns["truth"][-2:] == [True, False]
    assert columns["mixed"] == ["1"] * 12_000 + ["x"] and columns["none"] == [None] * 12_001


def test_json_may_mix_types_and_be_a_list(tmp_path):
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": "1"}, {"text": "c"}]
    expected = {"text": ["a", "b", "c"], "label": ["1", "1", None]}
    lines = "\n\n".join(map(json.dumps, rows))
    for name, content in [("x.jsonl", lines), ("x.json", lines), ("y.json", json.dumps(rows)), ("z.json", None)]:
        assert read(tmp_path / name, json.dumps({"version": 1, "data": rows}) if content is None else content) == expected
    assert "x.jsonl: line 3 is not JSON" in error(tmp_path / "x.jsonl", '{"a": 1}\n\n{"a": \n')
    assert "'[1]' is no object" in error(tmp_path / "x.jsonl", '{"a": 1}\n[1]\n')


def test_a_damaged_file_is_named(tmp_path):
    assert "rows.parquet: Parquet magic bytes not found" in error(tmp_path / "rows.parquet", "PAR1 and no more")
    assert "surrogates not allowed" in error(tmp_path / "rows.jsonl", '{"text": "\\ud800"}\n')
    assert read(tmp_path / "rows.csv", "\n\na;b\n1;2\n") == {"a": [1], "b": [2]}


def test_a_tsv_file_without_a_header_has_numbered_columns(tmp_path):
    assert read(tmp_path / "deu.txt", "Go.\tGeh.\tCC-BY 2.0 (a)\nHi.\tHallo!\tCC-BY 2.0 (b)\n")["2"] == ["Geh.", "Hallo!"]
    assert read(tmp_path / "cola.tsv", "gj04\t1\t\tOur friends came.\nx\t0\t*\tCame friends.\n")["4"][1] == "Came friends."
    assert read(tmp_path / "pandas.tsv", "\ttext\tlabel\n0\tOur friends came.\ta\n")["text"] == ["Our friends came."]
    assert read(tmp_path / "lines.txt", "One.\n\nTwo.\n") == {"text": ["One.", "", "Two."]}
    assert "two columns are called a" in error(tmp_path / "rows.csv", "a,a\n1,2\n")


def test_splits_of_a_folder_are_named_by_folders_or_files(tmp_path, capsys):
    for name in ("train-00000-of-00002.csv", "train-00001-of-00002.csv", "more/dev/a.csv", "test_b.tsv", "notes.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"text\n{name}\n")
    (tmp_path / "LICENSE.txt").write_text("Public.\n")
    splits = load_splits(Source("folder", str(tmp_path)))
    assert {split: list(table["text"]) for split, table in splits.items()} == {
        "validation": ["more/dev/a.csv"],
        "test": ["test_b.tsv"],
        "train": ["train-00000-of-00002.csv", "train-00001-of-00002.csv"],
    }
    passed_over = f"data source {tmp_path}: passed over, not named after a split: notes.csv\n"
    assert capsys.readouterr().out == passed_over


def test_one_of_several_configurations_is_chosen(tmp_path):
    configs = [{"config_name": name, "data_files": f"{name}/*.csv"} for name in ("small", "large")]
    (tmp_path / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")
    for name in ("small", "large"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.csv").write_text(f"text\n{name}\n")
    with pytest.raises(UserError, match=r"several configurations; choose one with --data.configuration: small, large"):
        load_splits(Source("folder", str(tmp_path)))
    splits = load_splits(Source("folder", str(tmp_path), configuration="large"))
    assert list(splits["train"]["text"]) == ["large"]
    with pytest.raises(UserError, match=r"--data\.configuration: small, large"):
        load_splits(Source("folder", str(tmp_path), configuration="huge"))


def test_hostile_tables_are_read_or_one_line(tmp_path):
    assert read(tmp_path / "nul.csv", "x,y\na\0b,1\n\0,2\n") == {"x": ["a\0b", "\0"], "y": [1, 2]}
    long = "word " * 100_000  # above the limit of the library `csv`
    assert read(tmp_path / "long.csv", f'x,y\n"{long}",1\n') == {"x": [long], "y": [1]}
    for suffix in ("json", "jsonl"):
        nested = '{"x": ' + "[" * 100_000 + "]" * 100_000 + "}\n"
        assert "recursion" in error(tmp_path / f"nested.{suffix}", nested)
    assert "4300 digits" in error(tmp_path / "digits.jsonl", '{"x": ' + "9" * 5000 + "}\n")
