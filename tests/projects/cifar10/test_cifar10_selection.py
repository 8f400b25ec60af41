"""Which pictures an epoch shows: the hardest and some others, the same for every process and after a resume."""

from __future__ import annotations

import signal
from collections import Counter

import pytest
import torch

from commands import Life, same
from common.errors import UserError
from projects.cifar10.augment import Augmentation, draw
from projects.cifar10.data import CIFAR10Data
from projects.cifar10.selection import Selection

CPU_DEVICE = torch.device("cpu")
EPOCHS, STEPS = 4, 30  # steps in an epoch: 120 of 200 pictures by fours
LAST = f"checkpoints/step-{EPOCHS * STEPS:08d}.ckpt"


def selection(count: int = 100, share: float = 0.6, seed: int = 3) -> Selection:
    return Selection(count, share, seed, CPU_DEVICE)


def test_everything_is_shown_where_nothing_is_left_out():
    every = selection(share=1.0)
    for epoch in range(3):
        assert torch.equal(every.choose(epoch), torch.arange(100))
        every.report(torch.arange(100), torch.rand(100))
        assert torch.equal(every.shown, torch.full((100,), epoch))
    assert every.state_dict() == {}


def test_an_epoch_has_the_hardest_and_as_many_others():
    chooser = selection()
    losses = torch.rand(100)
    chooser.report(torch.arange(100), losses)
    hardest = set(losses.argsort(descending=True)[:30].tolist())
    rest: Counter[int] = Counter()
    for epoch in range(400):
        chosen = chooser.choose(epoch).tolist()
        assert len(chosen) == len(set(chosen)) == 60 and hardest < set(chosen)
        rest.update(set(chosen) - hardest)
    assert set(rest) == set(range(100)) - hardest, "nothing is forgotten for ever"
    # each of 70 others is drawn with probability 3/7: 171 of 400 times, with a standard deviation of 9.9
    assert all(abs(times - 171.4) < 50 for times in rest.values())


def test_pictures_never_shown_come_first():
    chooser = selection()
    first = chooser.choose(0)
    chooser.report(first, torch.rand(60))
    never = set(range(100)) - set(first.tolist())
    second = set(chooser.choose(1).tolist())
    assert len(never & second) >= 30, "half of the epoch, at least"
    chooser.report(torch.tensor(sorted(second)), torch.rand(60))
    left = never - second
    assert left < set(chooser.choose(2).tolist())


def test_a_later_loss_replaces_an_earlier_one():
    chooser = selection(4, 0.5)
    chooser.report(torch.tensor([2, 0]), torch.tensor([5.0, 1.0], dtype=torch.float64))
    chooser.report(torch.tensor([2, 3]), torch.tensor([0.25, 2.0], requires_grad=True))
    assert chooser.losses.tolist() == [1.0, float("inf"), 0.25, 2.0]
    assert not chooser.losses.requires_grad


def test_an_epoch_stays_as_it_was_chosen_and_counts_once():
    chooser = selection()
    chosen = chooser.choose(0).clone()
    chooser.report(chosen, torch.rand(60))
    assert torch.equal(chooser.choose(0), chosen)
    assert not chooser.shown.any()
    chooser.choose(1)
    expected = torch.zeros(100, dtype=torch.int64)
    expected[chosen] = 1
    assert torch.equal(chooser.shown, expected)


def test_a_resumed_run_goes_on_with_the_same_pictures():
    whole = selection()
    whole.report(whole.choose(0)[:20], torch.rand(20))
    resumed = selection()
    resumed.load_state_dict(whole.state_dict())
    for chooser in (whole, resumed):
        chooser.report(chooser.choose(0)[20:], torch.linspace(0, 1, 40))
    for epoch in (1, 2):
        assert torch.equal(whole.choose(epoch), resumed.choose(epoch))
        assert torch.equal(whole.shown, resumed.shown)


def test_a_picture_is_mirrored_every_other_time_that_it_is_shown():
    shown = torch.randint(0, 5, (200,))
    flips = [draw(200, 32, epoch, 1, Augmentation("alternating")).flip for epoch in range(2)]
    got = draw(200, 32, 7, 1, Augmentation("alternating"), shown).flip
    assert torch.equal(got, torch.where(shown % 2 == 0, *flips))


@pytest.mark.parametrize("loader", ["device", "classic"])
def test_batches_say_which_pictures_they_hold(loader, monkeypatch):
    monkeypatch.setattr("projects.cifar10.data.SAMPLE_SIZES", {"train": 60, "test": 10})
    options = {"flip": "none", "pad": 0, "val_size": 10, "batch_size": 8, "num_workers": 0}
    data = CIFAR10Data("sample", loader=loader, share=0.5, **options)
    data.prepare_data()
    data.setup("fit")
    batches = list(data.train_dataloader())
    assert len(batches) == len(data.train_dataloader()) == 4  # of 25 pictures
    index = torch.cat([batch[2] for batch in batches])
    assert sorted(index.tolist()) == sorted(data.selection.choose(0).tolist())
    assert torch.equal(torch.cat([batch[0] for batch in batches]), data.train.images[index])
    assert torch.equal(torch.cat([batch[1] for batch in batches]), data.train.labels[index])


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5])
def test_a_share_that_is_none_is_one_clear_line(share):
    with pytest.raises(UserError, match=r"--data\.share .*above 0 and at most 1"):
        CIFAR10Data("sample", share=share)


@pytest.fixture(scope="module")
def flags(picture_folder) -> list[str]:
    flags = ["--data.source", str(picture_folder), "--data.val_size", "60", "--data.share", "0.6"]
    return [*flags, "--max_epochs", f"{EPOCHS}", "--trainer.limit_test_batches", "0"]


def test_a_killed_run_resumes_bitwise(command, flags):
    flags = [*flags, "--data.batch_size", "4", "--checkpoint_every", "5"]
    whole = command("train", "--name", "selection", *flags)
    life = Life(command, "selection-killed", flags, [signal.SIGKILL])
    killed = life.live()
    whole.wait()
    assert all(step % STEPS for step in life.resumed_from), "in the middle of an epoch"
    ends = [torch.load(folder / LAST, weights_only=True) for folder in (whole.runs / "selection", killed)]
    assert same(ends[0]["state_dict"], ends[1]["state_dict"])
    assert same(ends[0]["CIFAR10Data"], ends[1]["CIFAR10Data"])
    losses = ends[0]["CIFAR10Data"]["losses"]
    assert losses.isfinite().all() and losses.std() > 0


def test_two_processes_choose_what_one_would(command, flags):
    flags = [*flags, "--precision", "64-true", "--model.optimizer", "sgd", "--model.lr", "0.03", "--checkpoint_every", "5"]
    one = command("train", "--name", "selection-one", *flags, "--data.batch_size", "40")
    one.wait()
    two = ["--devices", "2", "--strategy", "ddp", "--data.batch_size", "20"]
    command("train", "--name", "selection-two", *flags, *two).wait()
    last = f"checkpoints/step-{EPOCHS * 3:08d}.ckpt"
    ends = [torch.load(one.runs / name / last, weights_only=True) for name in ("selection-one", "selection-two")]
    chosen, expected = ends[1]["CIFAR10Data"], ends[0]["CIFAR10Data"]
    assert torch.equal(chosen["chosen"], expected["chosen"]) and torch.equal(chosen["shown"], expected["shown"])
    torch.testing.assert_close(chosen["losses"], expected["losses"], rtol=1e-6, atol=1e-6)
    for key, value in ends[0]["state_dict"].items():
        torch.testing.assert_close(ends[1]["state_dict"][key], value, rtol=0, atol=1e-9 * float(value.abs().max()))
