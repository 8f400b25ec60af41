"""Batches of texts: every text once, little padding, class weights, truncation."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from common.errors import UserError
from projects.bert_sentiment import data as data_module
from projects.bert_sentiment.data import TextData, pad
from projects.bert_sentiment.pretrained import train_tokenizer


@pytest.fixture
def data(texts_folder, checkpoint_folder) -> TextData:
    data = TextData(str(texts_folder), str(checkpoint_folder), batch_size=16)
    data.setup("fit")
    return data


def test_every_training_text_is_in_one_batch(data):
    batches = list(data.train_dataloader())
    assert len(batches) == len(data.train_dataloader()) == 17
    assert sorted(torch.cat([batch.indices for batch in batches]).tolist()) == list(range(261))
    for batch in batches:
        for ids, mask, text, label in zip(*batch[:2], batch.indices, batch.labels, strict=True):
            assert ids[mask.bool()].tolist() == data.tokenizer(data.splits["train"].texts[text])["input_ids"]
            assert mask.tolist() == sorted(mask.tolist(), reverse=True), "padding comes last"
            assert bool((ids[mask == 0] == data.tokenizer.pad_token_id).all())
            assert label == data.splits["train"].labels[text]
        torch.testing.assert_close(batch.weights.sum(), torch.tensor(1.0))


@pytest.mark.parametrize("limit, windows", [(10_000, [4, 4, 4, 4, 1]), (6, [4, 2])])
def test_a_text_weighs_the_same_in_whichever_accumulated_batch(data, limit, windows):
    position = SimpleNamespace(current=SimpleNamespace(processed=0, ready=0))
    loop = SimpleNamespace(epoch_progress=position, epoch_loop=SimpleNamespace(batch_progress=position))
    options = {"global_rank": 0, "world_size": 1, "accumulate_grad_batches": 4, "num_training_batches": limit}
    data.trainer = SimpleNamespace(fit_loop=loop, **options)
    batches = iter(data.train_dataloader())
    for size in windows:  # 261 texts in batches of 15 and 16
        weights = torch.cat([next(batches).weights for _ in range(size)]) / 4  # as Lightning divides
        torch.testing.assert_close(weights, torch.full_like(weights, 1 / len(weights)))


@pytest.mark.parametrize("world_size", [2, 3])
def test_each_text_is_evaluated_in_one_process(data, monkeypatch, world_size):
    shards = []
    for rank in range(world_size):
        monkeypatch.setattr(data_module, "rank_and_world_size", lambda trainer, rank=rank: (rank, world_size))
        shards.append(torch.cat([batch.indices for batch in data.test_dataloader()]))
    assert sorted(torch.cat(shards).tolist()) == list(range(31))


def test_bucketing_leaves_little_padding(data):
    def padding(loader):
        masks = [batch.attention_mask for batch in loader]
        return 1 - sum(mask.sum() for mask in masks) / sum(mask.numel() for mask in masks)

    bucketed = padding(data.train_dataloader())
    data.bucket_batches = 1
    assert bucketed < 0.08 < 0.25 < padding(data.train_dataloader())


def test_balanced_class_weights(texts_folder, checkpoint_folder, tmp_path):
    rows = (texts_folder / "train.jsonl").read_text().splitlines()
    few = [row for i, row in enumerate(rows) if i % 2 or i < 40]
    (tmp_path / "train.jsonl").write_text("\n".join(few) + "\n")
    (tmp_path / "test.jsonl").write_text("\n".join(rows[:20]) + "\n")
    data = TextData(str(tmp_path), str(checkpoint_folder), balanced=True, val_size=0)
    data.setup("fit")
    labels = torch.tensor(data.splits["train"].labels)
    assert labels.bincount().tolist() == [20, 130]
    totals = torch.zeros(2, dtype=torch.float64).index_add(0, labels, data.class_weights[labels])
    torch.testing.assert_close(totals, torch.tensor([75.0, 75.0], dtype=torch.float64))
    for batch in data.train_dataloader():
        torch.testing.assert_close(batch.weights.sum(), torch.tensor(1.0))
        ratio = data.class_weights[batch.labels]
        torch.testing.assert_close(batch.weights, (ratio / ratio.sum()).float())


def test_long_texts_are_truncated_and_counted(texts_folder, checkpoint_folder, capsys):
    data = TextData(str(texts_folder), str(checkpoint_folder), max_length=12)
    data.setup("fit")
    whole = [len(ids) for ids in data.tokenizer(data.splits["train"].texts)["input_ids"]]
    assert data.truncated["train"] == sum(length > 12 for length in whole) > 0
    assert [len(ids) for ids in data.input_ids["train"]] == [min(length, 12) for length in whole]
    assert f"train: {data.truncated['train']} texts are truncated to --data.max_length 12" in capsys.readouterr().out
    assert all(ids[-1] == data.tokenizer.sep_token_id for ids in data.input_ids["train"]), (
        "a truncated text still ends with [SEP]"
    )


def test_extra_train_data_joins_training_only(texts_folder, checkpoint_folder, tmp_path):
    extra = tmp_path / "extra.jsonl"
    extra.write_text(json.dumps({"sentence": "quite new", "label": "positive"}) + "\n")
    data = TextData(str(texts_folder), str(checkpoint_folder), extra_train_data=str(extra))
    assert len(data.splits["train"]) == 262 and data.splits["train"].texts[-1] == "quite new"
    assert data.splits["train"].labels[-1] == data.class_names.index("positive")
    assert len(data.splits["val"]) == 40 and len(data.splits["test"]) == 31
    extra.write_text(json.dumps({"sentence": "quite new", "label": "odd"}) + "\n")
    with pytest.raises(UserError, match="the label 'odd' of extra_train_data is none of train's"):
        TextData(str(texts_folder), str(checkpoint_folder), extra_train_data=str(extra)).splits  # noqa: B018


def test_pad_by_hand():
    ids, mask = pad([[5, 6], [7], [8, 9, 4]], 1)
    assert ids.tolist() == [[5, 6, 1], [7, 1, 1], [8, 9, 4]]
    assert mask.tolist() == [[1, 1, 0], [1, 0, 0], [1, 1, 1]]


def test_max_length_without_room_for_words_is_refused(texts_folder, checkpoint_folder):
    with pytest.raises(UserError, match=r"--data.max_length 2: 2 of them are special tokens"):
        TextData(str(texts_folder), str(checkpoint_folder), max_length=2).setup("fit")


def test_of_a_very_long_text_the_beginning_alone_is_tokenized(monkeypatch):
    texts = ["one two", "one two three " + "four " * 10_000, "one" * 90_000]
    tokenizer = train_tokenizer(texts[:1], 300)
    expected = data_module.tokenize(tokenizer, texts, 8)
    monkeypatch.setattr(data_module, "MAX_CHARACTERS", 20)
    encode, lengths = type(tokenizer).__call__, []

    def record(self, texts, **options):
        lengths.append(max(map(len, texts)))
        return encode(self, texts, **options)

    monkeypatch.setattr(type(tokenizer), "__call__", record)
    assert data_module.tokenize(tokenizer, texts, 8) == expected
    assert expected[1] == 2 and max(lengths) == 8 * 20
    assert data_module.tokenize(tokenizer, [" " * 1000], 8)[1] == 1, "what is not read is counted"
