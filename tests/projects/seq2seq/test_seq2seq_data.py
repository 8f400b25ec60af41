"""Every pair is in exactly one batch, and the right ones follow after a resume."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
import torch
from data_fixtures import SIZES, attach, batches_of, folder, ready, rows

from projects.seq2seq.config import BOS, EOS, PAD
from projects.seq2seq.data import Batch, TranslationData, collate
from projects.seq2seq.synthetic import make_pairs
from projects.seq2seq.tokenizer import decode, encode

pytestmark = pytest.mark.usefixtures("small_sample")


def equal(left: Sequence[Batch], right: Sequence[Batch]) -> bool:
    return len(left) == len(right) and all(
        torch.equal(a, b) for one, other in zip(left, right, strict=True) for a, b in zip(one, other, strict=True)
    )


def target_tokens(batch: Batch) -> torch.Tensor:
    """(batch,) tokens that count in the loss."""
    return (batch.target[:, 1:] != PAD).sum(1)


def test_a_batch_in_full():
    batch = collate([[5, 6, 7], [8], []], [[9], [10, 11], [12]], torch.tensor([2, 0, 1]), 0.25)
    assert batch.source.tolist() == [[EOS, PAD, PAD, PAD], [5, 6, 7, EOS], [8, EOS, PAD, PAD]]
    assert batch.source_lengths.tolist() == [1, 4, 2]
    assert batch.target.tolist() == [[BOS, 12, EOS, PAD], [BOS, 9, EOS, PAD], [BOS, 10, 11, EOS]]
    assert batch.weight.tolist() == [0.25] * 3
    assert batch.pair_index.tolist() == [2, 0, 1]
    assert batch.token_index.tolist() == [0, 1, 3, 4, 6, 7, 8], "in rows of three"
    assert [part.dtype for part in batch] == [torch.int64] * 3 + [torch.float32] + [torch.int64] * 2


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


def test_sentences_that_dropout_makes_too_long_are_counted(capsys):
    data = ready(bpe_dropout=0.5, max_length=40)
    plain = data.truncated["train"]
    ids, rest = data.train_ids(0), data.train_ids(1)
    found = re.findall(r"train: with BPE dropout (\d+) sentences are cut", capsys.readouterr().out)
    uncut = (
        dropper.encode(line, 0, 2 * data.seed + i) for i, dropper in enumerate(data.bpe_droppers) for line in range(211)
    )
    assert [int(count) for count in found] == [sum(len(line) > 40 for line in uncut)] and int(found[0]) > plain
    assert max(len(line) for side in (*ids, *rest) for line in side) == 40
