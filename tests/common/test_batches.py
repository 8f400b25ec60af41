"""Which samples make up which batch: nothing left out, nothing twice, the same whichever way it is split or interrupted."""

from __future__ import annotations

import math

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

from common.batches import count_batches, data_position, epoch_batches, rank_and_world_size, rank_share

# (samples, batch of a process, processes); among them a remainder, one sample, and batches larger than the data
SIZES = [(100, 10, 1), (101, 10, 1), (103, 7, 2), (50_000, 500, 3), (10, 16, 1), (10, 16, 4), (1, 1, 1), (97, 8, 4)]


def all_batches(count, batch_size, world_size, epoch=2, seed=5):
    """batches[step][rank]"""
    ranks = [epoch_batches(count, batch_size, epoch, seed, rank, world_size) for rank in range(world_size)]
    return list(zip(*ranks, strict=True))


@pytest.mark.parametrize("count, batch_size, world_size", SIZES)
def test_every_sample_is_trained_on_exactly_once(count, batch_size, world_size):
    batches = all_batches(count, batch_size, world_size)
    assert torch.equal(torch.cat([b for step in batches for b in step]).sort().values, torch.arange(count))
    assert len(batches) == count_batches(count, batch_size, world_size) == math.ceil(count / (batch_size * world_size))


@pytest.mark.parametrize("count, batch_size, world_size", SIZES)
def test_batches_are_of_equal_size_to_within_one(count, batch_size, world_size):
    sizes = [len(b) for step in all_batches(count, batch_size, world_size) for b in step]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= batch_size


def test_several_processes_see_what_one_sees_with_a_larger_batch():
    for count, batch_size, world_size in [(103, 7, 2), (1000, 32, 4), (97, 8, 3)]:
        alone = epoch_batches(count, batch_size * world_size, epoch=2, seed=5)
        together = all_batches(count, batch_size, world_size)
        assert [set(b.tolist()) for b in alone] == [set(torch.cat(step).tolist()) for step in together]


def test_order_follows_from_seed_and_epoch_alone():
    first = torch.cat(epoch_batches(200, 32, epoch=1, seed=3))
    torch.rand(5)
    assert torch.equal(first, torch.cat(epoch_batches(200, 32, epoch=1, seed=3)))
    assert torch.equal(first, torch.cat(epoch_batches(200, 50, epoch=1, seed=3)))
    others = [(0, 3), (2, 3), (1, 2), (1, 4)]
    orders = {tuple(torch.cat(epoch_batches(200, 32, epoch, seed)).tolist()) for epoch, seed in [(1, 3), *others]}
    assert len(orders) == 5
    assert not torch.equal(first, torch.arange(200)), "an epoch has to be shuffled"


@pytest.mark.parametrize("count, world_size", [(7, 2), (8, 4), (1000, 3), (3, 4), (5, 1)])
def test_shares_at_evaluation_repeat_nothing(count, world_size):
    shares = [rank_share(count, rank, world_size) for rank in range(world_size)]
    assert torch.equal(torch.cat(shares).sort().values, torch.arange(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_outside_of_a_trainer_there_is_one_process_at_the_start():
    assert data_position(None) == (0, 0)
    assert rank_and_world_size(None) == (0, 1)


# the position, as a real trainer counts it


class Model(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, index):
        return self.weight * batch[0].sum()

    def validation_step(self, batch, index):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Positions(Callback):
    """Writes down the position at the moments when a checkpoint may be saved, and saves one `at` one of them."""

    def __init__(self, at=None, path=None) -> None:
        self.seen: list[tuple[str, tuple[int, int]]] = []
        self.at, self.path = at, path

    def note(self, trainer, when):
        self.seen.append((when, data_position(trainer)))
        if self.seen[-1] == self.at:
            trainer.save_checkpoint(self.path)

    def on_train_start(self, trainer, module):
        self.note(trainer, "start")

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        if index + 1 < trainer.num_training_batches:
            self.note(trainer, "batch")

    def on_train_epoch_end(self, trainer, module):
        self.note(trainer, "epoch")


def fit(callback, limit=3, **options):
    loader = DataLoader(TensorDataset(torch.ones(10, 1)), batch_size=2)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=2,
        limit_train_batches=limit,
        num_sanity_val_steps=0,
        callbacks=[callback],
        **quiet,
    )
    trainer.fit(Model(), loader, loader, **options)
    return callback.seen


@pytest.mark.filterwarnings("ignore:.*workers.*")
def test_position_names_the_next_batch_wherever_a_run_can_be_saved():
    one_epoch = [("batch", (0, 1)), ("batch", (0, 2)), ("epoch", (1, 0))]
    next_epoch = [(when, (epoch + 1, batch)) for when, (epoch, batch) in one_epoch]
    assert fit(Positions()) == [("start", (0, 0)), *one_epoch, *next_epoch]


@pytest.mark.filterwarnings("ignore:.*(workers|resumable).*")
@pytest.mark.parametrize(
    "moment", [("batch", (0, 1)), ("batch", (0, 2)), ("epoch", (1, 0)), ("batch", (1, 1)), ("batch", (1, 2))]
)
def test_position_after_a_resume_is_that_of_the_checkpoint(moment, tmp_path):
    whole = fit(Positions(moment, tmp_path / "x.ckpt"))
    resumed = fit(Positions(), ckpt_path=tmp_path / "x.ckpt")
    assert resumed[0] == ("start", moment[1])
    assert resumed[1:] == whole[whole.index(moment) + 1 :]
