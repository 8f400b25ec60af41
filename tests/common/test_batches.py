"""Batches: no sample in two of them, the same for any number of processes, of similar lengths, in random order."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from common.data.batches import (
    batch_shape,
    bucketed_batches,
    count_batches,
    count_token_batches,
    epoch_batches,
    pad_sequences,
    report_left_out,
    shard_indices,
    token_batches,
)
from common.errors import UserError

# (samples, batch size, processes), with a remainder, with one sample, with batches larger than the data
SIZES = [(100, 10, 1), (101, 10, 1), (103, 7, 2), (50_000, 500, 3), (10, 16, 1), (10, 16, 4), (1, 1, 1), (97, 8, 4)]


def all_batches(count, batch_size, world_size, epoch=2, seed=5):
    """batches[step][rank]"""
    ranks = [epoch_batches(count, batch_size, epoch, seed, rank, world_size) for rank in range(world_size)]
    return list(zip(*ranks, strict=True))


@pytest.mark.parametrize("count, batch_size, world_size", SIZES)
def test_no_sample_is_trained_on_twice_in_an_epoch_and_each_in_some_epoch(count, batch_size, world_size):
    epochs = [torch.cat([b for step in all_batches(count, batch_size, world_size, i) for b in step]) for i in range(6)]
    assert all(len(epoch.unique()) == len(epoch) for epoch in epochs)
    assert torch.equal(torch.cat(epochs).unique(), torch.arange(count))


@pytest.mark.parametrize("count, batch_size, world_size", SIZES)
def test_batches_are_of_one_size_on_each_process(count, batch_size, world_size):
    batches = all_batches(count, batch_size, world_size)
    steps, size = batch_shape(count, batch_size, world_size)
    assert len(batches) == steps and {sum(map(len, step)) for step in batches} == {size}
    for rank in range(world_size):
        sizes = {len(step[rank]) for step in batches}
        assert len(sizes) == 1 and 1 <= max(sizes) <= batch_size


@pytest.mark.parametrize("world_size", [1, 3])
def test_batches_leave_out_as_few_samples_as_the_two_usual_ways_would(world_size):
    for count, batch_size in itertools.product(range(world_size, 300, 7), range(1, 40)):
        steps, size = batch_shape(count, batch_size, world_size)
        largest = batch_size * world_size
        last_dropped = count - count % largest  # drop_last of a DataLoader
        equal = math.ceil(count / largest) * (count // math.ceil(count / largest))
        assert steps * size == max(last_dropped, equal) or size == world_size, (count, batch_size)


def test_samples_that_are_left_out_are_counted_and_said(capsys):
    report_left_out(44_870, *batch_shape(44_870, 500))
    assert capsys.readouterr().out == "training: 90 batches of 498 in an epoch; 50 of 44870 samples are left out of it\n"
    report_left_out(4000, *batch_shape(4000, 500))
    assert capsys.readouterr().out == ""


def test_several_processes_train_on_the_batches_of_one_process_with_a_larger_batch():
    for count, batch_size, world_size in [(103, 7, 2), (1000, 32, 4), (97, 8, 3)]:
        alone = epoch_batches(count, batch_size * world_size, epoch=2, seed=5)
        together = all_batches(count, batch_size, world_size)
        assert [set(b.tolist()) for b in alone] == [set(torch.cat(step).tolist()) for step in together]


def test_order_is_a_function_of_seed_and_epoch():
    first = torch.cat(epoch_batches(200, 32, epoch=1, seed=3))
    torch.rand(5)
    assert torch.equal(first, torch.cat(epoch_batches(200, 32, epoch=1, seed=3)))
    assert torch.equal(torch.cat(epoch_batches(200, 20, 1, 3)), torch.cat(epoch_batches(200, 50, epoch=1, seed=3)))
    others = [(0, 3), (2, 3), (1, 2), (1, 4)]
    orders = {tuple(torch.cat(epoch_batches(200, 32, epoch, seed)).tolist()) for epoch, seed in [(1, 3), *others]}
    assert len(orders) == 5
    assert not torch.equal(first, torch.arange(200)), "an epoch has to be shuffled"


@pytest.mark.parametrize("count, world_size", [(7, 2), (8, 4), (1000, 3), (4, 4), (5, 1)])
def test_evaluation_shards_repeat_no_sample(count, world_size):
    shards = [shard_indices(count, rank, world_size) for rank in range(world_size)]
    assert torch.equal(torch.cat(shards).sort().values, torch.arange(count))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_fewer_samples_to_evaluate_than_processes_are_one_line():
    with pytest.raises(UserError, match="3 samples to evaluate for 4 processes: use fewer --devices"):
        shard_indices(3, 0, 4)


@pytest.mark.parametrize("before, now", [(1, 2), (2, 1), (2, 3), (3, 2)])
def test_batches_formed_for_other_processes_are_dealt_out_to_those_of_now(before, now):
    lengths = pair_lengths(200)
    steps = count_token_batches(lengths, 100, before)
    for alone, dealt in [
        (
            epoch_batches(199, 10 * before, 1, 3),
            [epoch_batches(199, 10, 1, 3, rank, now, before) for rank in range(now)],
        ),
        (
            bucketed_batches(lengths[:, 0], 10 * before, 4, 1, 3),
            [bucketed_batches(lengths[:, 0], 10, 4, 1, 3, rank, now, before) for rank in range(now)],
        ),
        (
            token_batches(lengths, steps, 1, 3, formed_for=before),
            [token_batches(lengths, steps, 1, 3, rank, now, before) for rank in range(now)],
        ),
    ]:
        together = [torch.cat(shards).sort().values for shards in zip(*dealt, strict=True)]
        assert all(map(torch.equal, together, [batch.sort().values for batch in alone]))


def test_more_processes_than_samples_in_a_batch_are_one_line():
    with pytest.raises(UserError, match="3 processes for batches of 2 samples: resume with fewer --devices"):
        epoch_batches(20, 2, 0, 0, 0, 3, 1)


# batches of equal numbers of tokens


def pair_lengths(count: int, seed: int = 0):
    """Lengths (count, 2) as of sentences and their translations: 14 tokens on average, 4 to 60."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.empty(count).log_normal_(2.55, 0.35, generator=generator)
    second = first * torch.empty(count).normal_(1.05, 0.2, generator=generator).clamp(0.4, 2)
    return torch.stack([first, second], 1).round().long().clamp(4, 60)


def sums(lengths, batches):
    """Tokens of the longer side in each of `batches`."""
    return torch.tensor([int(lengths[batch].amax(1).sum()) for batch in batches])


def padding(lengths, batches):
    """Fraction of padding if each side of each batch is padded to its longest sample."""
    padded = sum(int(lengths[batch].amax(0).sum()) * len(batch) for batch in batches)
    return 1 - int(lengths.sum()) / padded


# (samples, max_tokens, processes), with a sample longer than a batch, with fewer samples than batches
TOKEN_SIZES = [(1000, 200, 1), (1000, 100, 3), (997, 4096, 2), (50, 5, 1), (50, 5, 4), (4, 1, 4), (1, 1, 1), (7, 30, 2)]


@pytest.mark.parametrize("sides", [1, 2, 3])
@pytest.mark.parametrize("count, max_tokens, world_size", TOKEN_SIZES)
def test_every_sample_is_in_one_token_batch_and_none_is_empty(count, max_tokens, world_size, sides):
    lengths = pair_lengths(count)[:, [0, 1, 0][:sides]]
    steps = count_token_batches(lengths, max_tokens, world_size)
    for epoch in (0, 3):
        ranks = [token_batches(lengths, steps, epoch, 5, rank, world_size) for rank in range(world_size)]
        assert {len(batches) for batches in ranks} == {steps}
        batches = [batch for rank in ranks for batch in rank]
        assert torch.equal(torch.cat(batches).sort().values, torch.arange(count))
        assert min(map(len, batches)) > 0
        sizes = [[len(batch) for batch in step] for step in zip(*ranks, strict=True)]
        assert max(max(step) - min(step) for step in sizes) <= 1, "one process would wait for another"


def test_count_of_token_batches_is_the_smallest_possible():
    lengths = torch.tensor([[3, 4], [5, 1], [2, 2], [6, 7]])  # 4 + 5 + 2 + 7 = 18 tokens
    assert [count_token_batches(lengths, tokens) for tokens in (18, 17, 9, 8, 6, 1)] == [1, 2, 2, 3, 3, 4]
    assert [count_token_batches(lengths, 3, ranks) for ranks in (1, 2, 3, 4)] == [4, 2, 1, 1]
    assert count_token_batches(lengths[:, :1], 4) == 4
    assert count_token_batches(pair_lengths(29_000), 4096) == math.ceil(int(pair_lengths(29_000).amax(1).sum()) / 4096)


@pytest.mark.parametrize("max_tokens", [100, 350, 2000])
def test_token_batches_are_of_equal_tokens_to_within_a_sample(max_tokens):
    lengths = pair_lengths(1000)
    steps = count_token_batches(lengths, max_tokens)
    mean = int(lengths.amax(1).sum()) / steps
    for epoch in range(2):
        assert (sums(lengths, token_batches(lengths, steps, epoch, 1)) - mean).abs().max() <= lengths.max()


def test_count_of_token_batches_stays_when_lengths_change():
    lengths = pair_lengths(500)
    steps = count_token_batches(lengths, 100)
    longer = lengths + torch.randint(0, 9, lengths.shape, generator=torch.Generator().manual_seed(0))
    batches = token_batches(longer, steps, 1, 1)
    assert len(batches) == steps < count_token_batches(longer, 100)
    assert (sums(longer, batches) - int(longer.amax(1).sum()) / steps).abs().max() <= longer.max()


def test_token_batches_hardly_pad():
    lengths = pair_lengths(29_000)
    steps = count_token_batches(lengths, 4096)
    assert padding(lengths, torch.randperm(len(lengths), generator=torch.Generator().manual_seed(0)).chunk(steps)) > 0.5
    assert max(padding(lengths, token_batches(lengths, steps, epoch, 1)) for epoch in range(2)) < 0.06
    assert padding(lengths[:, :1], token_batches(lengths[:, :1], steps, 0, 1)) < 0.015
    independent = torch.stack([lengths[:, 0], lengths[:, 1].flip(0)], 1)  # lengths of both sides
    assert padding(independent, token_batches(independent, steps, 0, 1)) < 0.12


@pytest.mark.parametrize("world_size", [2, 3])
def test_several_processes_train_on_the_token_batches_of_one_process_with_more_tokens(world_size):
    lengths = pair_lengths(1000)
    steps = count_token_batches(lengths, 150, world_size)
    assert steps == count_token_batches(lengths, 150 * world_size)
    alone = token_batches(lengths, steps, 2, 5)
    ranks = [token_batches(lengths, steps, 2, 5, rank, world_size) for rank in range(world_size)]
    for one, step in zip(alone, zip(*ranks, strict=True), strict=True):
        assert torch.equal(one.sort().values, torch.cat(step).sort().values)


def test_token_batches_are_a_function_of_their_arguments():
    lengths = pair_lengths(400)
    first = token_batches(lengths, 30, epoch=1, seed=3)
    state = torch.get_rng_state()
    again = token_batches(lengths, 30, epoch=1, seed=3)
    assert all(map(torch.equal, first, again))
    assert torch.equal(state, torch.get_rng_state()), "the global generator belongs to the caller"
    others = [token_batches(lengths, 30, epoch, seed) for epoch, seed in [(0, 3), (2, 3), (1, 2), (1, 4)]]
    assert len({tuple(torch.cat(batches).tolist()) for batches in [first, *others]}) == 5


def test_token_batches_come_in_random_order():
    lengths = pair_lengths(4000)
    means = torch.tensor([float(lengths[batch].float().mean()) for batch in token_batches(lengths, 200, 0, 0)])
    steps = means.diff()
    assert 70 < (steps > 0).sum() < 130, "short before long, or long before short"


def test_batches_differ_from_epoch_to_epoch_even_if_all_lengths_differ():
    lengths = torch.stack([torch.arange(10, 410), torch.randperm(400, generator=torch.Generator().manual_seed(0)) + 10], 1)
    partners = []
    for epoch in range(4):
        batch = next(batch for batch in token_batches(lengths, 20, epoch, 0) if 200 in batch.tolist())
        partners.append(frozenset(batch.tolist()))
    assert len(set(partners)) > 2


@pytest.mark.parametrize("count", [5, 7, 9])
def test_every_process_has_a_sample_in_every_batch(count):
    for world_size in (2, 3, 5):
        shards = [epoch_batches(count, 1, 0, 0, rank, world_size) for rank in range(world_size)]
        assert all(len(batch) for shard in shards for batch in shard)
        assert len(torch.cat([torch.cat(shard) for shard in shards]).unique()) == count - count % world_size
    with pytest.raises(UserError, match=f"{count} training samples for 10 processes: use fewer --devices"):
        count_batches(count, 4, 10)
    with pytest.raises(UserError, match=f"{count} training samples for 10 processes: use fewer --devices"):
        batch_shape(count, 4, 10)
    with pytest.raises(UserError, match="use fewer --devices"):
        count_token_batches(torch.ones(count, 1, dtype=torch.long), 100, 10)


# length buckets


@pytest.mark.parametrize(
    ("count", "batch_size", "bucket_batches", "world_size"), [(101, 8, 3, 1), (101, 4, 3, 2), (5, 8, 100, 1), (64, 8, 1, 4)]
)
def test_buckets_hold_every_sample_once_and_similar_lengths_together(count, batch_size, bucket_batches, world_size):
    lengths = torch.randint(1, 60, (count,), generator=torch.Generator().manual_seed(1))
    shards = [bucketed_batches(lengths, batch_size, bucket_batches, 3, 7, rank, world_size) for rank in range(world_size)]
    steps = count_batches(count, batch_size, world_size)
    assert all(len(shard) == steps for shard in shards)
    assert torch.cat([torch.cat(shard) for shard in shards]).sort().values.tolist() == list(range(count))
    assert max(len(batch) for shard in shards for batch in shard) <= batch_size
    whole = bucketed_batches(lengths, batch_size * world_size, bucket_batches, 3, 7)
    for step, batch in enumerate(whole):
        together = torch.cat([shard[step] for shard in shards])
        assert sorted(together.tolist()) == sorted(batch.tolist()), "the processes train together on the batch of one"
    again = bucketed_batches(lengths, batch_size * world_size, bucket_batches, 3, 7)
    other = bucketed_batches(lengths, batch_size * world_size, bucket_batches, 4, 7)
    assert all(map(torch.equal, whole, again))
    assert count < 10 or not all(map(torch.equal, whole, other)), "another epoch, other batches"
    if bucket_batches >= steps > 1:
        spans = sorted((int(lengths[batch].min()), int(lengths[batch].max())) for batch in whole)
        assert all(left[1] <= right[0] for left, right in itertools.pairwise(spans)), "within one bucket no lengths overlap"


def test_large_buckets_leave_next_to_no_padding(count=6400):
    lengths = torch.randint(1, 60, (count,), generator=torch.Generator().manual_seed(2))

    def padded(bucket_batches):
        batches = bucketed_batches(lengths, 32, bucket_batches, 0, 0)
        return sum(int(lengths[batch].max()) * len(batch) for batch in batches) / int(lengths.sum())

    assert padded(200) < padded(20) < 1.1 < 1.8 < padded(1)


def test_padding_and_its_mask():
    padded, mask = pad_sequences([[5, 6, 7], [8]], 0)
    assert padded.tolist() == [[5, 6, 7], [8, 0, 0]] and padded.dtype == torch.int64
    assert mask.tolist() == [[True, True, True], [True, False, False]]
    assert pad_sequences([[5, 6, 7], [8]], 9, multiple=4)[0].tolist() == [[5, 6, 7, 9], [8, 9, 9, 9]]
