"""Sentence pairs are read from any two columns, vocabularies learned from train; bad input is one line."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from data_fixtures import SIZES, batches_of, folder, ready, rows

from common.data.sources import Source
from common.errors import UserError
from projects.seq2seq import data as data_module
from projects.seq2seq.data import TranslationData
from projects.seq2seq.parallel_text import hold_out, read_splits, split_direction
from projects.seq2seq.synthetic import make_pairs
from projects.seq2seq.tokenizer import decode, encode, train_bpe

pytestmark = pytest.mark.usefixtures("small_sample")


@pytest.mark.parametrize("source_language, target_language", [("de", "en"), ("en", "de")])
def test_either_direction_by_one_option(source_language, target_language):
    data = ready(direction=f"{source_language}-{target_language}")
    assert data.languages == (source_language, target_language)
    english, german = ("target", "source") if source_language == "de" else ("source", "target")
    pairs = dict(make_pairs(sum(SIZES.values()), seed=0))
    for split in data.splits.values():
        assert all(pairs[g] == e for g, e in zip(getattr(split, german), getattr(split, english), strict=True))


def test_a_folder_is_read_in_the_hubs_layout(tmp_path):
    source = folder(tmp_path / "numbers", rows(0, 80), rows(90, 100), val=rows(80, 90))
    data = ready(source=source, direction="de-en", val_size=1000)
    assert data.source_label == "numbers" and data.has_validation
    assert {split: len(pairs) for split, pairs in data.splits.items()} == {"train": 80, "val": 10, "test": 10}
    pairs = make_pairs(100, seed=4)
    for split, expected in [("train", pairs[:80]), ("val", pairs[80:90]), ("test", pairs[90:])]:
        assert list(zip(data.splits[split].source, data.splits[split].target, strict=True)) == expected


def test_names_of_columns_may_hold_hyphens():
    columns = ["zh-Hans", "pt-BR", "en", "a", "a-b", "b"]
    for direction, expected in [
        ("en-zh-Hans", ("en", "zh-Hans")),
        ("zh-Hans-en", ("zh-Hans", "en")),
        ("pt-BR-zh-Hans", ("pt-BR", "zh-Hans")),
        ("a-b", ("a", "b")),
        ("a-b-a", ("a-b", "a")),
    ]:
        assert split_direction(direction, columns) == expected
    for direction in ("en", "en-", "-en", "en-en", "en-fr", "zh-en", "en-de-fr", ""):
        with pytest.raises(UserError, match=f"--data.direction {direction}: .*columns are a, a-b, b, en, pt-BR, zh-Hans$"):
            split_direction(direction, columns)


def test_validation_is_held_out_where_the_source_has_none(tmp_path):
    source = folder(tmp_path, rows(0, 80), rows(80, 90))
    data = ready(source=source, direction="de-en", val_size=20)
    train, val = (set(data.splits[split].source) for split in ("train", "val"))
    assert data.has_validation and (len(train), len(val)) == (60, 20)
    assert train | val == {german for german, _ in make_pairs(80, seed=4)}
    torch.manual_seed(99)
    again = TranslationData(source, "de-en", val_size=20)
    assert again.texts["val"][0] == data.splits["val"].source, "the same for every seed"
    without = ready(source=source, val_size=0)
    assert not without.has_validation and without.val_dataloader() == []
    assert set(without.splits) == {"train", "test"}


def test_held_out_pairs_stay_pairs():
    train, val = hold_out(([str(i) for i in range(50)], [f"-{i}" for i in range(50)]), 9)
    for texts, count in ((train, 41), (val, 9)):
        assert len(texts[0]) == count and texts[1] == [f"-{line}" for line in texts[0]]


def test_copies_of_a_pair_are_held_out_together(tmp_path):
    pairs = [*rows(0, 60), *rows(0, 60), *rows(60, 120)]
    data = ready(source=folder(tmp_path, pairs, rows(120, 125)), val_size=40)
    train, val = (set(data.texts[split][0]) for split in ("train", "val"))
    assert not train & val and len(data.texts["val"][0]) == 40 and len(data.texts["train"][0]) == 140


def test_what_is_held_out_follows_from_the_data(tmp_path, capsys):
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(0, 240)))
    data = ready(source=str(tmp_path / "pairs.jsonl"))
    assert {split: len(pairs) for split, pairs in data.splits.items()} == {"train": 192, "val": 24, "test": 24}
    assert "no test split: 24 of its 240 training examples are held out\n" in capsys.readouterr().out
    source = folder(tmp_path / "dev", rows(0, 80), rows(80, 90))
    (tmp_path / "dev" / "test.jsonl").rename(tmp_path / "dev" / "validation.jsonl")
    dev = ready(source=source, val_size=0)
    assert {split: len(pairs) for split, pairs in dev.splits.items()} == {"train": 80, "test": 10}
    assert "no test split with examples to score: its validation split is the test" in capsys.readouterr().out


def test_long_sentences_are_cut_and_counted(capsys):
    data = ready(max_length=20, bpe_dropout=0.3)
    printed = capsys.readouterr().out
    for split, (source, target) in data.texts.items():
        encoded = [encode(data.tokenizers[0], line) for line in (*source, *target)]
        expected = sum(len(ids) > 20 for ids in encoded)
        assert data.truncated[split] == expected > 0
        assert printed.count(f"{split}: {expected} sentences are cut to --data.max_length 20 tokens\n") == 1
        pairs = data.splits[split]
        assert pairs.source_ids + pairs.target_ids == [ids[:20] for ids in encoded]
    data.setup("test")
    assert capsys.readouterr().out == "", "once is enough"
    assert max(max(batch.source.shape[1], batch.target.shape[1] - 1) for batch in batches_of(data)) == 21
    assert capsys.readouterr().out.startswith("train: with BPE dropout")
    whole = ready()
    assert set(whole.truncated.values()) == {0} and capsys.readouterr().out == ""


def test_everything_in_one_line_of_ten_thousand_words_is_bounded(tmp_path):
    letters = "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=40_000))
    long = {"en": "word " * 10_000, "de": letters}
    data = ready(source=folder(tmp_path, [*rows(0, 60), long], [long]), val_size=0, max_length=50, bpe_dropout=0.1)
    assert data.truncated["train"] >= data.truncated["test"] == 2
    for batch in [*batches_of(data), *data.test_dataloader()]:
        assert max(batch.source.shape[1], batch.target.shape[1] - 1) <= 51


@pytest.mark.parametrize("bpe_dropout", [0.0, 0.5])
def test_the_length_limit_is_kept_by_nearly_every_training_pair(bpe_dropout):
    data = ready(bpe_dropout=bpe_dropout)
    ratio, extra = data.length_limit
    source, target = (
        np.array([len(e.ids) + 1 for e in tokenizer.encode_batch(side)])
        for tokenizer, side in zip(data.tokenizers, data.texts["train"], strict=True)
    )
    assert ratio == pytest.approx(1.25 * target.mean() / source.mean())
    over = target - ratio * source
    assert extra == pytest.approx(max(1.0, np.quantile(over, 0.999)))
    assert (over > extra).sum() <= 1 + len(over) / 1000


def test_vocabularies_are_known_before_setup_and_learned_from_train_alone(tmp_path):
    test = [{"en": "kryptonite " * 200, "de": "Kryptonit " * 200}] * 5
    data = TranslationData(folder(tmp_path, rows(0, 80), test), vocab_size=350, val_size=0)
    assert data.vocab_sizes == (350, 350)
    assert len(encode(data.tokenizers[0], "kryptonite")) > 4


def test_a_joint_vocabulary_is_one_tokenizer():
    data = ready()
    assert data.tokenizers[0] is data.tokenizers[1]
    assert data.vocab_sizes == (400, 400)
    train = data.splits["train"]
    assert data.tokenizers[0].to_str() == train_bpe([*train.source, *train.target], 400).to_str()


def test_separate_vocabularies_are_learned_from_their_own_side():
    data = ready(joint_vocab=False, direction="de-en", vocab_size=450)
    train = data.splits["train"]
    for tokenizer, lines in zip(data.tokenizers, (train.source, train.target), strict=True):
        assert tokenizer.to_str() == train_bpe(lines, 450).to_str()
    assert data.tokenizers[0].to_str() != data.tokenizers[1].to_str()


def test_lower_case_of_the_source_or_of_both_sides():
    for joint in (True, False):
        data = ready(lowercase="source", joint_vocab=joint)
        assert decode(data.tokenizers[0], encode(data.tokenizers[0], "On Monday")) == "on monday"
        assert decode(data.tokenizers[1], encode(data.tokenizers[1], "Am Montag")) == "Am Montag"
        data = ready(lowercase="both", joint_vocab=joint)
        assert decode(data.tokenizers[1], encode(data.tokenizers[1], "Am Montag")) == "am montag"
        assert data.splits["test"].target[0][0].isupper(), "references stay as they are"
        assert (data.tokenizers[0] is data.tokenizers[1]) == joint
    joint = ready(lowercase="source")
    assert joint.tokenizers[0].get_vocab() == joint.tokenizers[1].get_vocab()


def test_the_samples_vocabulary_is_small_whatever_is_asked_for(monkeypatch):
    monkeypatch.setattr(data_module, "SAMPLE_VOCAB_SIZE", 320)
    assert ready(vocab_size=8000).vocab_sizes == (320, 320)


def test_auto_falls_back_to_the_sample(monkeypatch):
    data = TranslationData()
    assert data.HUB_ID == "bentrevett/multi30k"
    monkeypatch.setattr("common.data.sources.dataset_is_cached", lambda hub_id: False)
    source = data.resolve()
    assert source.fell_back and data.source_label == "sample"
    assert data.has_validation and data.languages == ("en", "de")


@pytest.mark.parametrize(
    "options, line",
    [
        ({"vocab_size": 100}, "--data.vocab_size 100: every byte is a token, so at least 260"),
        ({"direction": "en-fr"}, "--data.direction en-fr: not two columns joined by a hyphen; the columns are de, en"),
        ({"source": "/no/such"}, "data source /no/such: no such folder; .*"),
    ],
)
def test_bad_options_are_one_line(options, line):
    with pytest.raises(UserError, match=f"^{line}$"):
        TranslationData(**{"source": "sample", **options}).vocab_sizes  # noqa: B018


GOOD = '{"en": "a pair", "de": "ein Pärchen"}\n'


LATIN = GOOD.encode("latin-1")


@pytest.mark.parametrize(
    "files, line",
    [
        ({"train.jsonl": GOOD.encode() * 3 + LATIN}, "train.jsonl: line 4 is not UTF-8; convert it, .*"),
        ({"test.jsonl": LATIN}, "test.jsonl: line 1 is not UTF-8; .*"),
        ({"train.jsonl": GOOD.encode("utf-16")}, "train.jsonl: line 1 is not UTF-8; .*"),
        ({"test.jsonl": b""}, "test.jsonl is empty"),
        ({"test.jsonl": None}, "1 training examples are too few to hold out test and validation"),
        ({"train.jsonl": None, "dev.jsonl": GOOD.encode()}, "no training split, only validation, test"),
        ({"train.jsonl": GOOD.encode() + b'{"en": \n'}, "train.jsonl: line 2 is not JSON: .*"),
        ({"test.jsonl": b'{"en": "a", "fr": "b"}\n'}, "column de of test is not text but missing"),
    ],
)
def test_bad_files_are_one_line(tmp_path, files, line, capfd):
    for name, content in {"train.jsonl": GOOD.encode(), "test.jsonl": GOOD.encode(), **files}.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"^(data source )?{tmp_path}(: |/){line}$") as caught:
        read_splits(Source("folder", str(tmp_path)), "en-de")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == "", "one line, and no more"


def test_a_csv_file_that_is_not_utf8_is_one_line(tmp_path, capfd):
    (tmp_path / "train.csv").write_bytes("en,de\na pair,ein Pärchen\n".encode("latin-1"))
    (tmp_path / "test.csv").write_text("en,de\na,b\n")
    with pytest.raises(UserError, match=r"train\.csv: line 2 is not UTF-8"):
        read_splits(Source("folder", str(tmp_path)), "en-de")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("value, kind", [(1, "int64"), (["a"], "List.*"), ({"a": "b"}, ".*")])
def test_a_column_that_is_no_text_is_one_line(tmp_path, value, kind):
    source = folder(tmp_path, [{"en": "a", "de": value}], [{"en": "a", "de": value}])
    with pytest.raises(UserError, match=f"^data source {tmp_path}: column de of train is not text but {kind}$"):
        read_splits(Source("folder", source), "en-de")


def test_a_missing_column_names_those_there_are(tmp_path):
    source = folder(tmp_path, rows(0, 3, "deu", "eng"), rows(3, 4, "deu", "eng"))
    with pytest.raises(UserError, match=r"^--data\.direction en-de: .*; the columns are deu, eng$"):
        ready(source=source)
    assert ready(source=source, direction="eng-deu", val_size=0).languages == ("eng", "deu")


def test_nothing_to_train_on_is_one_line(tmp_path):
    source = folder(tmp_path, [{"en": "a", "de": ""}] * 3, rows(0, 1))
    with pytest.raises(UserError, match=f"^data source {tmp_path}: no training pair has text on both sides$"):
        ready(source=source, val_size=0)
    with pytest.raises(UserError, match=r"^--data\.val_size 3: .* 3 training examples are too few to hold out validation$"):
        ready(source=source, val_size=3)
