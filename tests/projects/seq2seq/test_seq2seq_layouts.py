"""Layouts of sentence pairs that the README's table has: each is read, and no other is in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from data_fixtures import folder, rows

from common.errors import UserError
from image_layouts import readme_rows
from projects.seq2seq import data as data_module
from projects.seq2seq.data import TranslationData

PAIRS = {row["en"]: row["de"] for row in rows(0, 240)}
SPLITS = {"train": (0, 200), "val": (200, 220), "test": (220, 240)}


def write(path: Path, lines: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def text_files(root: Path, names: str, splits: dict[str, tuple[int, int]]) -> Path:
    """Files called `names`, a format of split and language."""
    for split, (begin, end) in splits.items():
        write(root / names.format(split, "en"), list(PAIRS)[begin:end])
        write(root / names.format(split, "de"), list(PAIRS.values())[begin:end])
    return root


def json_lines(root: Path) -> Path:
    splits = {split: rows(begin, end) for split, (begin, end) in SPLITS.items()}
    return Path(folder(root, splits["train"], splits["test"], dev=splits["val"]))


def csv_files(root: Path) -> Path:
    for split, (begin, end) in SPLITS.items():
        write(
            root / f"{split}.csv",
            ["id;en;de", *(f'{i};"{en}";{de}' for i, (en, de) in list(enumerate(PAIRS.items()))[begin:end])],
        )
    return root


def translations(root: Path) -> Path:
    import datasets

    pairs = [{"en": en, "de": de} for en, de in PAIRS.items()]
    features = datasets.Features({"id": datasets.Value("string"), "translation": datasets.Translation(["de", "en"])})
    table = datasets.Dataset.from_dict({"id": [str(i) for i in range(240)], "translation": pairs}, features)
    (root / "de-en").mkdir()
    table.to_parquet(root / "de-en" / "train-00000-of-00001.parquet")
    return root


def json_translations(root: Path) -> Path:
    lines = [json.dumps({"translation": {"en": en, "de": de}}) for en, de in PAIRS.items()]
    return write(root / "pairs.json", lines)


def attribution(root: Path) -> Path:
    return write(root / "deu.txt", [f"{en}\t{de}\tCC-BY 2.0 (France) #{i}" for i, (en, de) in enumerate(PAIRS.items())])


def one_table(root: Path) -> Path:
    return write(root / "pairs.tsv", ["de\ten", *(f"{de}\t{en}" for en, de in PAIRS.items())])


def configurations(root: Path) -> Path:
    configs = [{"config_name": name, "data_files": f"{name}/*.tsv"} for name in ("de-en", "en-fr")]
    write(root / "README.md", [f"---\nconfigs: {json.dumps(configs)}\n---"])
    (root / "en-fr").mkdir()
    write(root / "en-fr" / "train.tsv", ["en\tfr", "A dog.\tUn chien."])
    (root / "de-en").mkdir()
    one_table(root / "de-en")
    return root


# row of the README -> its writer, options, and how many pairs of training, validation and test it has
ROWS = {
    "two text files for each split": (lambda root: text_files(root, "{}.{}", SPLITS), {}, (200, 20, 20)),
    "two text files": (lambda root: text_files(root, "{1}.txt", {"": (0, 240)}), {}, (192, 24, 24)),
    "a table for each split": (json_lines, {}, (200, 20, 20)),
    "CSV": (csv_files, {}, (200, 20, 20)),
    "one table": (one_table, {}, (192, 24, 24)),
    "no header": (attribution, {}, (192, 24, 24)),
    "a column of translations": (translations, {}, (192, 24, 24)),
    "JSON lines of translations": (json_translations, {}, (192, 24, 24)),
    "several configurations": (configurations, {"configuration": "de-en"}, (192, 24, 24)),
}


@pytest.mark.parametrize("row", ROWS)
def test_a_layout_of_the_readme_is_read(tmp_path, row):
    write_layout, options, sizes = ROWS[row]
    data = TranslationData(str(write_layout(tmp_path)), **options)
    assert tuple(len(data.texts[split][0]) for split in ("train", "val", "test")) == sizes
    assert data.languages == ("en", "de")
    pairs = [pair for texts in data.texts.values() for pair in zip(*texts, strict=True)]
    assert sorted(pairs) == sorted(PAIRS.items())


def test_the_readme_has_these_layouts():
    assert readme_rows(Path(data_module.__file__).with_name("README.md")) == list(ROWS)


@pytest.mark.parametrize("names", ["{}.{}.txt", "small_vocab_{}_{}", "{}/europarl.de-en.{}"])
def test_names_of_text_files(tmp_path, names):
    text_files(tmp_path, names, {**SPLITS, "dev": SPLITS["val"]})
    texts = TranslationData(str(tmp_path), "de-en").texts
    assert [len(texts[split][0]) for split in ("train", "val", "test")] == [200, 40, 20]
    assert all(PAIRS[en] == de for de, en in zip(*texts["train"], strict=True))


def test_text_files_of_different_lengths_are_refused(tmp_path):
    text_files(tmp_path, "{}.{}", SPLITS)
    write(tmp_path / "val.de", ["eine Zeile"])
    with pytest.raises(UserError, match=r"val\.en has 20 lines and .*val\.de 1: they are no translations"):
        TranslationData(str(tmp_path)).texts  # noqa: B018


def test_columns_without_names_are_said_and_can_be_exchanged(tmp_path, capsys):
    path = attribution(tmp_path)
    english, german = next(iter(PAIRS.items()))
    assert len(TranslationData(str(path)).texts["test"][0]) == 24
    expected = f"no header, so {english[:40]!r} is en and {german[:40]!r} de; --data.direction 2-1 exchanges them\n"
    assert expected in capsys.readouterr().out
    texts = TranslationData(str(path), "2-1").texts
    assert all(PAIRS[en] == de for de, en in zip(*texts["train"], strict=True))
    ids = write(tmp_path / "ids.tsv", [f"{i}\t{en}\t{i}\t{de}" for i, (en, de) in enumerate(PAIRS.items())])
    assert len(TranslationData(str(ids), "2-4").texts["train"][0]) == 192
    number = write(tmp_path / "number.tsv", [f"{i}\t{en}" for i, en in enumerate(PAIRS)])
    with pytest.raises(UserError, match="column 1 of train is not text but int64"):
        TranslationData(str(number)).texts  # noqa: B018
    with pytest.raises(UserError, match=r"--data\.direction en-de: .*; the columns are 1, 2, 3, 4"):
        TranslationData(str(ids)).texts  # noqa: B018


def test_words_for_nothing_are_sentences(tmp_path):
    lines = ["en,de", "null,Null", "None,None", "nan,NA", *(f"{en},{de}" for en, de in PAIRS.items() if "," not in en + de)]
    write(tmp_path / "train.csv", lines)
    write(tmp_path / "test.csv", lines[:4])
    data = TranslationData(str(tmp_path), val_size=0)
    assert len(data.texts["train"][0]) == len(lines) - 1 and data.texts["test"][1] == ["Null", "None", "NA"]
