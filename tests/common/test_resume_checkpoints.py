"""Checkpoints for resuming: when they are saved, what they hold, and SIGTERM. (Killed runs are tested on whole projects,
in `tests/projects`.)
"""

from __future__ import annotations

import os
import random
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerState
from torch.utils.data import DataLoader, TensorDataset

from common.callbacks.resume import ResumeCheckpoints, random_state, set_random_state
from common.errors import Preempted
from common.io.checkpoints import read_checkpoint
from common.io.loggers import csv_logger, read_metrics
from common.trainer import logged_steps

pytestmark = pytest.mark.filterwarnings("ignore:.*(workers|resumable|is not empty).*")


class Model(LightningModule):
    """One weight; its validation loss is `losses[epoch]`."""

    def __init__(self, losses=(3.0, 1.0, 2.0, 2.5)) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.losses = losses

    def training_step(self, batch, index):
        self.log("train/loss", float(self.global_step))
        return self.weight * batch[0].mean()

    def validation_step(self, batch, index):
        self.log("val/loss", self.losses[self.current_epoch])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class TwoOptimizers(Model):
    """Three optimizer steps in a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, index):
        first, second = self.optimizers()
        for optimizer in (first, first, second):
            optimizer.zero_grad()
            self.manual_backward(self.weight * 1.0)
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(self.parameters(), 0.1) for _ in range(2)]


class KeepAll(ResumeCheckpoints):
    MAX_KEPT = 100


def fit(callbacks, module=None, epochs=2, **options):
    """Trains in epochs of 5 batches."""
    loader = DataLoader(TensorDataset(torch.ones(10, 1)), batch_size=2)
    fit_options = {"ckpt_path": options.pop("ckpt_path", None)}
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    options = {**quiet, "max_epochs": epochs, "num_sanity_val_steps": 0, "log_every_n_steps": 1, **options}
    trainer = Trainer(accelerator="cpu", callbacks=callbacks, **options)
    trainer.fit(module or Model(), loader, loader, **fit_options)
    return trainer


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def step_files(*steps: int) -> list[str]:
    return [f"step-{step:08d}.ckpt" for step in steps]


# when


def test_the_latest_two_are_kept(tmp_path):
    fit([ResumeCheckpoints(tmp_path, "cifar10", 2)])
    assert names(tmp_path) == step_files(8, 10)


@pytest.mark.parametrize("every, steps", [(0, [5, 10]), (2, [2, 4, 5, 6, 8, 10]), (5, [5, 10]), (3, [3, 5, 6, 9, 10])])
def test_they_are_saved_every_few_steps_and_at_the_ends_of_epochs(tmp_path, every, steps):
    fit([KeepAll(tmp_path, "cifar10", every)])
    assert names(tmp_path) == step_files(*steps)


def test_they_are_saved_by_time_too(tmp_path, monkeypatch):
    monkeypatch.setattr(ResumeCheckpoints, "SAVE_SECONDS", 0.0)
    fit([KeepAll(tmp_path, "cifar10", 100)], epochs=1)
    assert names(tmp_path) == step_files(1, 2, 3, 4, 5)
    (tmp_path / "none").mkdir()
    fit([KeepAll(tmp_path / "none", "cifar10", 0)], epochs=1)
    assert names(tmp_path / "none") == step_files(5)


def test_several_processes_are_asked_about_every_two_seconds(tmp_path, monkeypatch):
    clock, asked = [0.0], []
    monkeypatch.setattr("common.callbacks.resume.time.monotonic", lambda: clock[0])

    class Strategy:
        root_device = torch.device("cpu")

        def reduce(self, tensor, reduce_op):
            assert reduce_op == "max"
            asked.append(tensor.tolist())
            return tensor

    trainer = SimpleNamespace(world_size=2, is_global_zero=True, strategy=Strategy())
    callback = ResumeCheckpoints(tmp_path, "cifar10", 10**6)
    questions = []
    for callback._step in range(1, 1501):
        clock[0] += 0.1  # ten steps in a second
        callback.stop_requested = callback._step > 1490
        answer = callback._ask(trainer)
        questions += [callback._step] if len(asked) > len(questions) else []
        assert answer[1] == (callback._step in (questions[-1:]) and clock[0] >= 120), "due when asked after two minutes"
        if answer[0]:
            break
    assert set(np.diff(questions[1:])) <= {19, 20} and 1490 < callback._step <= 1510
    trainer.is_global_zero, callback._next_question = False, 0
    callback._ask(trainer)
    assert asked[-1] == [1, 0, 0], "the clock is rank zero's"


def test_no_checkpoint_between_accumulated_gradients(tmp_path):
    # the optimizer steps after batches 2, 4 and 5; accumulated gradients are in no checkpoint
    fit([KeepAll(tmp_path, "cifar10", 1)], accumulate_grad_batches=2)
    assert names(tmp_path) == step_files(1, 2, 3, 4, 5, 6)
    for path, batches in zip(sorted(tmp_path.iterdir()), [2, 4, 5, 2, 4, 5], strict=True):
        progress = read_checkpoint(path)["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
        assert progress["ready"] == batches


def test_steps_of_several_optimizers_are_counted_together(tmp_path):
    fit([KeepAll(tmp_path, "gan", 4)], TwoOptimizers())
    # 3 steps in a batch: the first batch's end beyond each multiple of 4, and the ends of epochs
    assert names(tmp_path) == step_files(6, 9, 12, 15, 18, 21, 24, 30)
    loggers_count = [logged_steps(read_checkpoint(path)) for path in sorted(tmp_path.iterdir())]
    assert loggers_count == [2, 3, 4, 5, 6, 7, 8, 10]


def test_old_files_with_larger_steps_do_not_displace_a_new_one(tmp_path):
    fit([KeepAll(tmp_path, "cifar10", 0)], epochs=1)
    for step in (100, 200):  # of a run that is resumed from an earlier checkpoint
        path = tmp_path / f"step-{step:08d}.ckpt"
        path.touch()
        os.utime(path, (1, 1))
    fit([ResumeCheckpoints(tmp_path, "cifar10", 0)], ckpt_path=tmp_path / "step-00000005.ckpt", epochs=3)
    assert names(tmp_path) == step_files(10, 15)


def test_lightning_saves_no_checkpoints_of_its_own(tmp_path):
    fit([ResumeCheckpoints(tmp_path / "ours", "cifar10", 0)], default_root_dir=tmp_path, limit_val_batches=0)
    assert sorted(path.name for path in tmp_path.rglob("*.ckpt")) == step_files(5, 10)


# what


def test_they_hold_the_project_and_the_random_states(tmp_path):
    class Sample(Callback):
        def on_train_batch_end(self, trainer, *args):
            self.state = torch.rand(1), random.random(), np.random.rand()
            if trainer.global_step == 4:
                self.expected = random_state()

    sample = Sample()
    fit([sample, KeepAll(tmp_path, "cifar10", 4)], epochs=1)
    checkpoint = read_checkpoint(tmp_path / "step-00000004.ckpt")
    assert checkpoint["project"] == "cifar10"
    (state,) = checkpoint["random_states"]
    assert torch.equal(state["torch"], sample.expected["torch"])
    assert state["python"] == sample.expected["python"]
    assert torch.equal(state["numpy"][1], sample.expected["numpy"][1])


def test_checkpoint_of_an_epoch_holds_its_best_and_its_patience(tmp_path):
    best = ModelCheckpoint(tmp_path, filename="best-{step}", monitor="val/loss", save_on_train_epoch_end=True)
    fit([best, KeepAll(tmp_path, "cifar10", 0), EarlyStopping("val/loss", patience=9)], epochs=4)
    for step, loss, best_step, waited in [(5, 3.0, 5, 0), (10, 1.0, 10, 0), (15, 1.0, 10, 1), (20, 1.0, 10, 2)]:
        states = read_checkpoint(tmp_path / f"step-{step:08d}.ckpt")["callbacks"]
        kept = next(state for name, state in states.items() if name.startswith("ModelCheckpoint"))
        stopping = next(state for name, state in states.items() if name.startswith("EarlyStopping"))
        assert kept["best_model_score"] == loss and kept["best_model_path"].endswith(f"best-step={best_step}.ckpt")
        assert stopping["wait_count"] == waited


def test_resumed_run_continues_with_the_best_so_far(tmp_path):
    def callbacks():
        best = ModelCheckpoint(tmp_path, filename="best-{step}", monitor="val/loss", save_on_train_epoch_end=True)
        return [best, ResumeCheckpoints(tmp_path, "cifar10", 0)]

    fit(callbacks(), epochs=2)
    resumed = fit(callbacks(), epochs=4, ckpt_path=tmp_path / "step-00000010.ckpt")
    assert resumed.checkpoint_callback.best_model_path == str(tmp_path / "best-step=10.ckpt")
    assert (tmp_path / "best-step=10.ckpt").is_file()


@pytest.mark.parametrize("precision, dtype", [("32-true", torch.float32), ("64-true", torch.float64)])
def test_resumed_run_continues_with_the_weights_to_the_last_bit(tmp_path, precision, dtype):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    fit([KeepAll(whole, "cifar10", 3)], precision=precision)
    fit([KeepAll(resumed, "cifar10", 3)], precision=precision, ckpt_path=whole / "step-00000003.ckpt")
    weights = [read_checkpoint(folder / "step-00000006.ckpt")["state_dict"]["weight"] for folder in (whole, resumed)]
    assert weights[0].dtype == dtype and torch.equal(*weights)


# SIGTERM, within a process


class Terminate(Callback):
    """Asks the process to stop in one of its batches."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_before_backward(self, trainer, module, loss):
        if trainer.fit_loop.epoch_loop.total_batch_idx == self.batch:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    "batch, options, saved",
    [
        (1, {}, 2),  # after the step at hand
        (4, {}, 5),  # the last of an epoch: after its validation
        (0, {"accumulate_grad_batches": 2}, 1),  # after the step that takes the gradients so far
    ],
)
def test_sigterm_finishes_the_step_saves_it_and_restores_the_handler(tmp_path, batch, options, saved):
    before = signal.getsignal(signal.SIGTERM)
    path = tmp_path / f"step-{saved:08d}.ckpt"
    with pytest.raises(Preempted, match=f"stopped by SIGTERM; state saved in {path}") as caught:
        fit([Terminate(batch), ResumeCheckpoints(tmp_path, "cifar10", 0)], **options)
    assert caught.value.checkpoint == str(path)
    assert names(tmp_path) == step_files(saved)
    assert read_checkpoint(path)["global_step"] == saved
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("batch, steps", [(1, [0, 1]), (4, [0, 1, 2, 3, 4, 4])])  # and one of the validation
def test_metrics_of_the_last_step_before_sigterm_are_logged(tmp_path, batch, steps):
    logger = csv_logger(tmp_path)
    with pytest.raises(Preempted):
        fit([Terminate(batch), ResumeCheckpoints(tmp_path, "cifar10", 0)], logger=logger)
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.csv")] == steps


def test_sigterm_in_the_last_epoch_leaves_the_test_to_the_next_run(tmp_path):
    with pytest.raises(Preempted, match="step-00000005"):
        fit([Terminate(4), ResumeCheckpoints(tmp_path, "cifar10", 0)], epochs=1)


# random states


def sample_all() -> tuple:
    return torch.rand(3).tolist(), torch.randn(3).tolist(), np.random.rand(3).tolist(), np.random.randn(), random.gauss(0, 1)


def test_random_states_are_restored_from_a_file(tmp_path):
    sample_all()  # leaves the second of a pair of normal numbers cached in python and numpy
    torch.save(random_state(), tmp_path / "x.pt")
    expected = [sample_all() for _ in range(300)]  # more than one block of the Mersenne Twister
    set_random_state(torch.load(tmp_path / "x.pt", weights_only=True))
    assert [sample_all() for _ in range(300)] == expected


def test_random_states_of_another_world_size_are_ignored(tmp_path):
    callback = ResumeCheckpoints(tmp_path, "cifar10", 0)
    states = [random_state(), random_state()]

    class Alone:
        world_size, global_rank, state = 1, 0, TrainerState()

    torch.rand(5)
    now = random_state()["torch"]
    callback.on_load_checkpoint(Alone, None, {"random_states": states})
    callback._restore_random_state(Alone)
    assert torch.equal(random_state()["torch"], now)
    callback.on_load_checkpoint(Alone, None, {"random_states": states[:1]})
    callback._restore_random_state(Alone)
    assert torch.equal(random_state()["torch"], states[0]["torch"])
