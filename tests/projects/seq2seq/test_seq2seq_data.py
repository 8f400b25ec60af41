"""Every pair in exactly one batch, the right ones after a resume; and each kind of bad input is one line."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from common.data.sources import Source
from common.errors import UserError
from projects.seq2seq import data as data_module
from projects.seq2seq.config import BOS, EOS, PAD
from projects.seq2seq.data import Batch, TranslationData, collate, hold_out, read_splits, split_direction
from projects.seq2seq.synthetic import make_pairs
from projects.seq2seq.tokenizer import decode, encode, train_bpe

SIZES = {"train": 211, "val": 37, "test": 41}  # numbers that no number of processes or batches divides


@pytest.fixture(autouse=True)
def small_sample(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(data_module, "SAMPLE_SIZES", SIZES)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))


def ready(**options: Any) -> TranslationData:
    """The DataModule, on the small sample by default, set up outside of a trainer."""
    defaults = {
        "source": "sample",
        "vocab_size": 400,
        "max_tokens": 300,
        "lowercase": "none",
        "bpe_dropout": 0.1,
        "eval_batch_size": 10,
    }
    data = TranslationData(**{**defaults, **options})
    torch.manual_seed(5)
    data.prepare_data()
    data.setup("fit")
    return data


def attach(data: TranslationData, epoch: int = 0, done: int = 0, rank: int = 0, ranks: int = 1) -> TranslationData:
    """Puts `data` into a trainer that is at batch `done` of `epoch`, in process `rank` of `ranks`."""
    progress = SimpleNamespace(current=SimpleNamespace(ready=done))
    loop = SimpleNamespace(
        epoch_progress=SimpleNamespace(current=SimpleNamespace(processed=epoch)),
        epoch_loop=SimpleNamespace(batch_progress=progress),
    )
    data.trainer = SimpleNamespace(fit_loop=loop, num_training_batches=10_000, global_rank=rank, world_size=ranks)
    return data


def batches_of(data: TranslationData, **where: int) -> list[Batch]:
    loader = attach(data, **where).train_dataloader()
    batches = list(loader)
    assert len(batches) == len(loader) - where.get("done", 0)
    return batches


def equal(left: Sequence[Batch], right: Sequence[Batch]) -> bool:
    return len(left) == len(right) and all(
        torch.equal(a, b) for one, other in zip(left, right, strict=True) for a, b in zip(one, other, strict=True)
    )


def target_tokens(batch: Batch) -> torch.Tensor:
    """(batch,) tokens that count in the loss."""
    return (batch.target[:, 1:] != PAD).sum(1)


def folder(path: Path, train: list[dict[str, Any]], test: list[dict[str, Any]], **others: list[dict[str, Any]]) -> str:
    """A folder of JSON lines, one file for each split; `train` and the others as rows."""
    path.mkdir(exist_ok=True)
    for split, rows in {"train": train, "test": test, **others}.items():
        (path / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


def rows(begin: int, end: int, german: str = "de", english: str = "en") -> list[dict[str, str]]:
    return [{english: e, german: g} for g, e in make_pairs(end, seed=4)[begin:]]


# a batch


def test_a_batch_in_full():
    batch = collate([[5, 6, 7], [8], []], [[9], [10, 11], [12]], torch.tensor([2, 0, 1]), 0.25)
    assert batch.source.tolist() == [[EOS, PAD, PAD, PAD], [5, 6, 7, EOS], [8, EOS, PAD, PAD]]
    assert batch.source_lengths.tolist() == [1, 4, 2]
    assert batch.target.tolist() == [[BOS, 12, EOS, PAD], [BOS, 9, EOS, PAD], [BOS, 10, 11, EOS]]
    assert batch.weight.tolist() == [0.25] * 3
    assert batch.pair_index.tolist() == [2, 0, 1]
    assert [part.dtype for part in batch] == [torch.int64] * 3 + [torch.float32, torch.int64]


# training batches


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_an_epoch_has_every_pair_exactly_once(dropout, ranks):
    data = ready(bpe_dropout=dropout)
    for epoch in (0, 2):
        batches = [batch for rank in range(ranks) for batch in batches_of(data, epoch=epoch, rank=rank, ranks=ranks)]
        assert torch.equal(torch.cat([batch.pair_index for batch in batches]).sort().values, torch.arange(SIZES["train"]))
        for batch in batches:
            for source, length, target, pair in zip(*batch[:3], batch.pair_index, strict=True):
                ids = source[: length - 1].tolist()
                assert source[length - 1 :].tolist() == [EOS] + [PAD] * (len(source) - int(length))
                assert target[0] == BOS
                assert decode(data.tokenizers[0], ids) == data.splits["train"].source[pair]
                assert decode(data.tokenizers[1], target.tolist()) == data.splits["train"].target[pair]
                if not dropout:
                    assert ids == data.splits["train"].source_ids[pair]


def test_processes_have_equally_many_batches_and_none_is_empty():
    data = ready()
    counts = [[len(b.pair_index) for b in batches_of(data, epoch=1, rank=rank, ranks=3)] for rank in range(3)]
    assert len({len(sizes) for sizes in counts}) == 1
    assert min(min(sizes) for sizes in counts) > 0


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_two_processes_see_what_one_sees_with_twice_the_tokens(dropout):
    alone = batches_of(ready(bpe_dropout=dropout, max_tokens=600), epoch=1)
    data = ready(bpe_dropout=dropout)
    shards = [batches_of(data, epoch=1, rank=rank, ranks=2) for rank in range(2)]
    for one, step in zip(alone, zip(*shards, strict=True), strict=True):
        assert set(one.pair_index.tolist()) == {pair for shard in step for pair in shard.pair_index.tolist()}
        assert torch.allclose(torch.cat([shard.weight for shard in step]), 2 * one.weight[0])


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_weights_make_the_mean_over_all_tokens_of_a_step(ranks):
    data = ready(bpe_dropout=0.2)
    for step in zip(*(batches_of(data, epoch=1, rank=rank, ranks=ranks) for rank in range(ranks)), strict=True):
        tokens = sum(int(target_tokens(shard).sum()) for shard in step)
        for shard in step:
            assert torch.allclose(shard.weight, torch.tensor(ranks / tokens))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_resumed_epoch_goes_on_with_the_rest(dropout, ranks):
    whole = batches_of(ready(bpe_dropout=dropout), epoch=2, rank=ranks - 1, ranks=ranks)
    for done in (0, 1, len(whole) - 1):
        rest = batches_of(ready(bpe_dropout=dropout), epoch=2, done=done, rank=ranks - 1, ranks=ranks)
        assert equal(rest, whole[done:])


def test_a_loader_follows_the_trainer_from_epoch_to_epoch():
    data = ready(bpe_dropout=0.3)
    loader = attach(data).train_dataloader()
    steps = len(loader)
    for epoch in range(3):
        attach(data, epoch=epoch)
        batches = list(loader)
        assert len(batches) == len(loader) == steps
        assert equal(batches, batches_of(ready(bpe_dropout=0.3), epoch=epoch))


def test_a_run_resumed_in_another_epoch_has_as_many_batches():
    data = [ready(bpe_dropout=0.5, max_tokens=60) for _ in range(5)]
    assert len({len(attach(each, epoch=4 * i).train_dataloader()) for i, each in enumerate(data)}) == 1


def test_epochs_and_seeds_differ():
    data = ready(bpe_dropout=0.0)
    first, second = batches_of(data), batches_of(data, epoch=1)
    assert not equal(first, second)
    torch.manual_seed(6)
    other = TranslationData("sample", vocab_size=400, max_tokens=300, bpe_dropout=0.0)
    other.setup("fit")
    assert not equal(first, batches_of(other))


def test_dropout_cuts_both_sides_anew_in_each_epoch_and_only_in_training():
    data = ready(bpe_dropout=0.3)
    plain = data.splits["train"]
    epochs = [data.train_ids(epoch) for epoch in (0, 1, 0)]
    assert epochs[0] == epochs[2]
    for side, ids in enumerate((plain.source_ids, plain.target_ids)):
        assert epochs[0][side] != epochs[1][side] != ids
        assert sum(map(len, epochs[0][side])) > 1.1 * sum(map(len, ids))
    for split in ("val", "test"):
        pairs = data.splits[split]
        assert pairs.source_ids == [encode(data.tokenizers[0], line) for line in pairs.source]
    none = ready(bpe_dropout=0.0)
    assert none.splits["train"] == plain
    assert none.train_ids(0) == none.train_ids(1) == (plain.source_ids, plain.target_ids)


def test_the_two_sides_of_a_pair_are_cut_independently(tmp_path):
    same = [{"en": text, "de": text} for text, _ in make_pairs(60, seed=4)]
    source, target = ready(source=folder(tmp_path, same, same), bpe_dropout=0.3, val_size=0).train_ids(0)
    assert sum(a != b for a, b in zip(source, target, strict=True)) > 30


def test_batches_have_about_the_tokens_that_were_asked_for():
    for dropout in (0.0, 0.3):
        batches = batches_of(ready(bpe_dropout=dropout), epoch=1)
        tokens = [int(torch.maximum(b.source_lengths, target_tokens(b)).sum()) for b in batches]
        assert min(tokens) > 200 and max(tokens) < 360
        padded = sum(b.source.numel() + b.target[:, 1:].numel() for b in batches)
        real = sum(int(b.source_lengths.sum() + target_tokens(b).sum()) for b in batches)
        assert 1 - real / padded < 0.15


# evaluation


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("split", ["val", "test"])
def test_each_pair_is_evaluated_once_long_ones_first(split, ranks):
    data, evaluated = ready(), []
    for rank in range(ranks):
        loader = getattr(attach(data, rank=rank, ranks=ranks), f"{split}_dataloader")()
        batches = list(loader)
        assert len(batches) == len(loader)
        assert all(len(batch.pair_index) <= 10 for batch in batches)
        lengths = torch.cat([batch.source_lengths for batch in batches])
        assert torch.equal(lengths, lengths.sort(descending=True).values)
        for batch in batches:
            assert float((batch.weight * target_tokens(batch)).sum()) == pytest.approx(1)
            for source, target, pair in zip(batch.source, batch.target, batch.pair_index, strict=True):
                assert decode(data.tokenizers[0], source.tolist()) == data.splits[split].source[pair]
                assert decode(data.tokenizers[1], target.tolist()) == data.splits[split].target[pair]
            evaluated += batch.pair_index.tolist()
    assert sorted(evaluated) == list(range(SIZES[split]))


def test_empty_lines_stay_in_test_and_leave_train(tmp_path, capsys):
    train = [*rows(0, 60), {"en": "", "de": "leer"}, {"en": " ", "de": "leer"}, {"en": "empty", "de": None}]
    test = [*rows(60, 70), {"en": "", "de": ""}, {"en": "", "de": "leer"}, {"en": None, "de": "leer"}]
    data = ready(source=folder(tmp_path, train, test), val_size=0)
    assert len(data.splits["train"]) == 60
    assert "train: 3 pairs with an empty side are left out" in capsys.readouterr().out
    assert data.splits["test"].source[10:] == [""] * 3
    assert data.splits["test"].target[10:] == ["", "leer", "leer"]
    batches = list(data.test_dataloader())
    assert sorted(torch.cat([batch.pair_index for batch in batches]).tolist()) == list(range(13))
    assert batches[-1].source[-3:].tolist() == [[EOS]] * 3
    assert batches[-1].source_lengths[-3:].tolist() == [1] * 3


# what is read


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


# vocabularies


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


# where it comes from


def test_auto_falls_back_to_the_sample(monkeypatch):
    data = TranslationData()
    assert data.HUB_ID == "bentrevett/multi30k"
    monkeypatch.setattr("common.data.sources.dataset_is_cached", lambda hub_id: False)
    source = data.resolve()
    assert source.fell_back and data.source_label == "sample"
    assert data.has_validation and data.languages == ("en", "de")


# what is refused


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
        ({"train.jsonl": GOOD.encode() * 3 + LATIN}, "train.jsonl, line 4, is not UTF-8; convert it with iconv"),
        ({"test.jsonl": LATIN}, "test.jsonl, line 1, is not UTF-8; convert it with iconv"),
        ({"train.jsonl": GOOD.encode("utf-16")}, "train.jsonl, line 1, is not UTF-8; convert it with iconv"),
        ({"test.jsonl": b""}, "test.jsonl is empty"),
        ({"test.jsonl": None}, "needs the splits train and test, has train"),
        ({"train.jsonl": None, "dev.jsonl": GOOD.encode()}, "needs the splits train and test, has validation, test"),
        ({"train.jsonl": GOOD.encode() + b'{"en": \n'}, ".*JSON parse error.*"),
        ({"test.jsonl": b'{"en": "a", "fr": "b"}\n'}, ".*column names don't match"),
    ],
)
def test_bad_files_are_one_line(tmp_path, files, line, capfd):
    for name, content in {"train.jsonl": GOOD.encode(), "test.jsonl": GOOD.encode(), **files}.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"^data source {tmp_path}: {line}$") as caught:
        read_splits(Source("folder", str(tmp_path)), "en-de")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == "", "one line, and no more"


def test_a_csv_file_that_is_not_utf8_is_one_line(tmp_path, capfd):
    (tmp_path / "train.csv").write_bytes("en,de\na pair,ein Pärchen\n".encode("latin-1"))
    (tmp_path / "test.csv").write_text("en,de\na,b\n")
    with pytest.raises(UserError, match=r"train\.csv, line 2, is not UTF-8"):
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
    with pytest.raises(UserError, match=r"^--data\.val_size 3: the source has 3 training pairs$"):
        ready(source=source, val_size=3)
