"""Online hard-example selection: the hard images and some others, the same in every process and after a resume."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from projects.cifar10.augment import sample_params
from projects.cifar10.config import AugmentationConfig
from projects.cifar10.data import CIFAR10Data
from projects.cifar10.hard_examples import HardExampleSelection


def selection(count: int = 100, subset_fraction: float = 0.6, seed: int = 3) -> HardExampleSelection:
    return HardExampleSelection(count, subset_fraction, seed, torch.device("cpu"))


def test_all_images_are_used_where_none_is_left_out():
    every = selection(subset_fraction=1.0)
    for epoch in range(3):
        assert torch.equal(every.select(epoch), torch.arange(100))
        every.update(torch.arange(100), torch.rand(100))
        assert torch.equal(every.times_sampled, torch.full((100,), epoch))
    assert every.state_dict() == {}


def test_an_epoch_has_the_hard_images_and_as_many_others():
    selected = selection()
    losses = torch.rand(100)
    selected.update(torch.arange(100), losses)
    hard = set(losses.argsort(descending=True)[:30].tolist())
    rest: Counter[int] = Counter()
    for epoch in range(400):
        subset = selected.select(epoch).tolist()
        assert len(subset) == len(set(subset)) == 60 and hard < set(subset)
        rest.update(set(subset) - hard)
    assert set(rest) == set(range(100)) - hard, "nothing is forgotten for ever"
    # each of 70 others is sampled with probability 3/7: 171 of 400 times, with a standard deviation of 9.9
    assert all(abs(times - 171.4) < 50 for times in rest.values())


def test_images_never_trained_on_come_first():
    selected = selection()
    first = selected.select(0)
    selected.update(first, torch.rand(60))
    never = set(range(100)) - set(first.tolist())
    second = set(selected.select(1).tolist())
    assert len(never & second) >= 30, "half of the epoch, at least"
    selected.update(torch.tensor(sorted(second)), torch.rand(60))
    left = never - second
    assert left < set(selected.select(2).tolist())


def test_a_later_loss_replaces_an_earlier_one():
    selected = selection(4, 0.5)
    selected.update(torch.tensor([2, 0]), torch.tensor([5.0, 1.0], dtype=torch.float64))
    selected.update(torch.tensor([2, 3]), torch.tensor([0.25, 2.0], requires_grad=True))
    assert selected.losses.tolist() == [1.0, float("inf"), 0.25, 2.0]
    assert not selected.losses.requires_grad


def test_an_epoch_stays_as_it_was_subset_and_counts_once():
    selected = selection()
    subset = selected.select(0).clone()
    selected.update(subset, torch.rand(60))
    assert torch.equal(selected.select(0), subset)
    assert not selected.times_sampled.any()
    selected.select(1)
    expected = torch.zeros(100, dtype=torch.int64)
    expected[subset] = 1
    assert torch.equal(selected.times_sampled, expected)


def test_a_resumed_run_continues_with_the_same_images():
    whole = selection()
    whole.update(whole.select(0)[:20], torch.rand(20))
    resumed = selection()
    resumed.load_state_dict(whole.state_dict())
    for selected in (whole, resumed):
        selected.update(selected.select(0)[20:], torch.linspace(0, 1, 40))
    for epoch in (1, 2):
        assert torch.equal(whole.select(epoch), resumed.select(epoch))
        assert torch.equal(whole.times_sampled, resumed.times_sampled)


def test_an_image_is_flipped_every_other_time_that_it_is_sampled():
    times = torch.randint(0, 5, (200,))
    flips = [sample_params(200, 32, epoch, 1, AugmentationConfig("alternating")).flip for epoch in range(2)]
    got = sample_params(200, 32, 7, 1, AugmentationConfig("alternating"), times).flip
    assert torch.equal(got, torch.where(times % 2 == 0, *flips))


@pytest.mark.parametrize("loader", ["device", "dataloader"])
def test_batches_have_the_index_of_each_image(loader, monkeypatch):
    monkeypatch.setattr("projects.cifar10.synthetic.SPLIT_SIZES", {"train": 60, "test": 10})
    options = {"augmentation": AugmentationConfig("none", pad=0), "val_size": 10, "batch_size": 8, "num_workers": 0}
    data = CIFAR10Data("sample", loader=loader, subset_fraction=0.5, **options)
    data.prepare_data()
    data.setup("fit")
    batches = list(data.train_dataloader())
    assert [len(batch[2]) for batch in batches] == [6] * 4 and len(data.train_dataloader()) == 4  # of 25 images
    index = torch.cat([batch[2] for batch in batches])
    assert len(index.unique()) == 24 and {*index.tolist()} < {*data.hard_examples.select(0).tolist()}
    assert torch.equal(torch.cat([batch[0] for batch in batches]), data.train.images[index])
    assert torch.equal(torch.cat([batch[1] for batch in batches]), data.train.labels[index])
