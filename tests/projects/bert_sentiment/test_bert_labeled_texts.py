"""Labeled texts: any columns are read, and texts are held out without leakage."""

from __future__ import annotations

import csv
import json
import tracemalloc

import pytest

from common.data.sources import resolve_source
from common.errors import UserError
from projects.bert_sentiment.labeled_texts import LabeledTexts, contained_in, hold_out, read_splits


def lines(path, rows, text="sentence", label="label"):
    path.write_text("".join(json.dumps({text: a, label: b}) + "\n" for a, b in rows))


def read_folder(folder, text="sentence", label="label", val_size=0):
    return read_splits(resolve_source(str(folder), "x/y"), text, label, val_size)


TRAIN = [("a fine day", "good"), ("a gray day", "bad"), ("so so", "fair"), ("lovely", "good")]


def test_splits_and_names_of_classes(tmp_path):
    lines(tmp_path / "train.jsonl", TRAIN)
    lines(tmp_path / "validation.jsonl", TRAIN[:2])
    lines(tmp_path / "test.jsonl", TRAIN[2:])
    splits = read_folder(tmp_path)
    assert splits["train"] == LabeledTexts([text for text, _ in TRAIN], [2, 0, 1, 2], ["bad", "fair", "good"])
    assert splits["val"].class_names == splits["test"].class_names == ["bad", "fair", "good"]
    assert splits["val"].labels == [2, 0] and splits["test"].labels == [1, 2]


def test_integers_are_classes_in_ascending_order(tmp_path):
    lines(tmp_path / "train.jsonl", [("a", 10), ("b", -1), ("c", 2)])
    lines(tmp_path / "test.jsonl", [("d", 2)])
    splits = read_folder(tmp_path)
    assert splits["test"].class_names == ["-1", "2", "10"]
    assert splits["train"].labels == [2, 0, 1] and splits["test"].labels == [1]


def test_a_class_feature_keeps_its_names_and_unlabeled_splits_are_left_out(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    for split, labels in [("train", [1, 0, 1, 0]), ("validation", [0, 1]), ("test", [-1, -1])]:
        data = datasets.Dataset.from_dict(
            {"sentence": [f"{split} {i}" for i in range(len(labels))], "label": labels}, features
        )
        data.to_parquet(tmp_path / f"{split}-00000-of-00001.parquet")
    splits = read_folder(tmp_path)
    assert splits["train"].class_names == ["no", "yes"]
    assert splits["test"].texts == ["validation 0", "validation 1"], "test is unlabeled: validation is the test"
    assert "val" not in splits and splits["train"].labels == [1, 0, 1, 0]


def test_a_single_csv_file_is_split_in_three(tmp_path):
    path = tmp_path / "reviews.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["review", "stars"])
        writer.writerows([f"text number {i}, quoted", "good" if i % 3 else "bad"] for i in range(100))
    splits = read_folder(path, "review", "stars", val_size=8)
    assert splits["train"].class_names == ["bad", "good"]
    assert [len(splits[split]) for split in ("train", "val", "test")] == [84, 8, 8]
    every = [text for split in splits.values() for text in split.texts]
    assert sorted(every) == sorted(f"text number {i}, quoted" for i in range(100))
    assert read_folder(path, "review", "stars", val_size=8) == splits


def test_rows_without_text_or_label_are_left_out_and_counted(tmp_path, capsys):
    lines(tmp_path / "train.jsonl", [*TRAIN, (None, "good"), ("  ", "bad"), ("no label", None)])
    lines(tmp_path / "test.jsonl", TRAIN)
    splits = read_folder(tmp_path)
    assert len(splits["train"]) == 4
    assert capsys.readouterr().out == "train: 3 rows without a text or a label are left out\n"


@pytest.mark.parametrize("stars", [("1", "5", ""), ("1.0", "5.0", ""), ("1", "5", "1"), ("1", "5.0", "")])
def test_whole_numbers_are_classes_however_they_are_stored(tmp_path, stars):
    cells = [*stars[:2] * 5, stars[2]]
    (tmp_path / "train.csv").write_text("sentence,label\n" + "".join(f"text {i},{cell}\n" for i, cell in enumerate(cells)))
    lines(tmp_path / "test.jsonl", [("a", 1), ("b", "5"), ("c", 1.0), ("d", None)])
    splits = read_folder(tmp_path)
    assert splits["train"].class_names == splits["test"].class_names == ["1", "5"]
    assert splits["train"].labels[:4] == [0, 1, 0, 1] and len(splits["train"]) == 10 + bool(stars[2])
    assert splits["test"].labels == [0, 1, 0]


def test_words_for_nothing_are_classes(tmp_path):
    (tmp_path / "rows.csv").write_text(
        "sentence,label\n" + "".join(f"text {i},{'None' if i % 3 else 'a'}\n" for i in range(300))
    )
    splits = read_folder(tmp_path / "rows.csv", val_size=None)
    assert splits["train"].class_names == ["None", "a"] and sum(map(len, splits.values())) == 300


@pytest.mark.parametrize("label", [-1, "-1", None, ""])
def test_a_test_without_labels_is_said_and_validation_takes_its_place(tmp_path, capsys, label):
    lines(tmp_path / "train.jsonl", TRAIN * 5)
    lines(tmp_path / "test.jsonl", [("a", label), ("b", label)])
    assert read_folder(tmp_path, val_size=None)["test"].texts, "held out of train"
    printed = capsys.readouterr().out
    assert "test: 2 rows without a text or a label are left out" in printed and "no test split: 2 of its 20" in printed
    lines(tmp_path / "dev.jsonl", TRAIN[:3])
    assert read_folder(tmp_path)["test"].texts == [text for text, _ in TRAIN[:3]]
    assert "no test split with examples to score: its validation split is the test" in capsys.readouterr().out


def test_single_rows_without_a_label_leave_the_test(tmp_path, capsys):
    lines(tmp_path / "train.jsonl", [("a", 0), ("b", 1)])
    lines(tmp_path / "test.jsonl", [("c", -1), ("d", 1)])
    assert read_folder(tmp_path)["test"].texts == ["d"]
    assert "test: 1 rows without" in capsys.readouterr().out


@pytest.mark.parametrize("count", [3, 5, 9])
def test_fewer_than_ten_rows_are_enough(tmp_path, count):
    lines(tmp_path / "rows.jsonl", [(f"text number {i}", "ab"[i % 2]) for i in range(count)])
    splits = read_folder(tmp_path / "rows.jsonl", val_size=None)
    assert [len(splits[split]) for split in ("train", "val", "test")] == [count - 2, 1, 1]


@pytest.mark.parametrize(
    ("files", "arguments", "message"),
    [
        ({"train": TRAIN}, ("text", "label", 0), r"--data.text_column text: train of .* has the columns sentence, label"),
        ({"train": TRAIN}, ("sentence", "stars", 0), r"--data.label_column stars: train of .* columns sentence, label"),
        (
            {"train": TRAIN[:2]},
            ("sentence", "label", None),
            r"2 training examples are too few to hold out test and validation",
        ),
        ({"train": TRAIN}, ("sentence", "label", 2), r"--data.val_size 2: .* 4 training examples are too few"),
        ({"train": TRAIN, "test": [("x", "odd")]}, ("sentence", "label", 0), r"the label 'odd' of test is none of train's"),
        ({"train": [("a", "good"), ("b", "good")], "test": TRAIN}, ("sentence", "label", 0), r"every text .* is 'good'"),
        (
            {"train": [("a", 0.5), ("b", 1.5)], "test": [("c", 0.5)]},
            ("sentence", "label", 0),
            r"label_column label: 0.5 is not a class; labels are text or whole numbers",
        ),
        (
            {"train": [(1, "a"), (2, "b")], "test": [(3, "a")]},
            ("sentence", "label", 0),
            r"text_column sentence: not text but int64",
        ),
        ({"test": TRAIN}, ("sentence", "label", 0), r"no split train with texts and labels; with both there is test"),
        ({"train": []}, ("sentence", "label", 0), r"train.jsonl is empty"),
    ],
)
def test_bad_data_is_one_line(tmp_path, files, arguments, message):
    for split, rows in files.items():
        lines(tmp_path / f"{split}.jsonl", rows)
    with pytest.raises(UserError, match=message):
        read_folder(tmp_path, *arguments)


def test_a_file_that_is_not_utf8_is_named_with_its_line(tmp_path):
    (tmp_path / "test.csv").write_text("sentence,label\ngood,a\n")
    (tmp_path / "train.csv").write_bytes("sentence,label\ngut,a\nschön,b\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"train.csv: line 3 is not UTF-8"):
        read_folder(tmp_path)


PHRASES = ["the film is good", "film is good", "good", "a film", "the film", "The  Film", "is good enough", "go", "", "odd"]


def words_in(part, whole):
    part, whole = part.lower().split(), whole.lower().split()
    return any(whole[i : i + len(part)] == part for i in range(len(whole) - len(part) + 1))


def test_containing_equals_brute_force():
    texts = {f" {' '.join(text.lower().split())} " for text in PHRASES}
    expected = {text for text in texts for other in texts if text.strip() and text != other and words_in(text, other)}
    assert contained_in(texts, texts) == expected


def test_memory_does_not_grow_by_the_square_of_equal_texts():
    texts = LabeledTexts(["again"] * 4000 + [f"sentence {i} stands alone" for i in range(8000)], [0] * 12_000, [])
    tracemalloc.start()
    hold_out(texts, 100)
    assert tracemalloc.get_traced_memory()[1] < 30e6
    tracemalloc.stop()


@pytest.mark.parametrize("count", [1, 20])
def test_copies_alone_can_be_split(count, capsys):
    train, val = hold_out(LabeledTexts(["all alike"] * 200, list(range(200)), []), count)
    assert (len(train), len(val)) == (200 - count, count)
    assert sorted(train.labels + val.labels) == list(range(200))
    assert "may be parts of training texts" in capsys.readouterr().out


def test_what_leaves_train_is_counted_and_less_than_half(capsys):
    sentences = [f"number {i} of many sentences" for i in range(40)]
    few = [*sentences, *(text.rsplit(" ", 2)[0] for text in sentences[:20])]
    train, val = hold_out(LabeledTexts(few, [0] * 60, []), 20)
    left_out = 60 - len(train) - len(val)
    assert capsys.readouterr().out == f"train: {left_out} copies and parts of held-out texts are left out\n" and left_out
    words = [word for word in ("good", "bad", "fair", "odd") for _ in range(65)]
    most = [*sentences, *words, "good bad fair odd"]
    train, val = hold_out(LabeledTexts(most, [0] * len(most), []), 30)
    assert len(train) + len(val) == len(most), "else the words would leave with the sentence that has them all"
    assert not set(train.texts) & set(val.texts)


def test_nothing_held_out_is_part_of_what_is_left_or_the_other_way_round():
    sentences = [f"{a} {b} {c} story" for a in ("one", "two", "no") for b in ("bright", "dark") for c in ("little", "big")]
    phrases = [" ".join(s.split()[i:j]) for s in sentences for i in range(4) for j in range(i + 1, 5)]
    texts = LabeledTexts(phrases, list(range(len(phrases))), [])
    train, val = hold_out(texts, 2)
    assert len(val) == 2 and all(len(text.split()) == 4 for text in val.texts), "only whole sentences are held out"
    assert train.texts and not any(words_in(text, other) for text in train.texts for other in val.texts)
    assert not any(words_in(other, text) for text in train.texts for other in val.texts)
    lost = [text for text in phrases if text not in train.texts and text not in val.texts]
    assert all(any(words_in(text, other) for other in val.texts) for text in lost), "nothing leaves without a reason"
    for part in (train, val):
        assert all(phrases[label] == text for text, label in zip(part.texts, part.labels, strict=True))
