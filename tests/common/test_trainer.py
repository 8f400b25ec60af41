"""Queries of the Trainer: each against what a small real training does, also where Lightning keeps the answer private."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch.utils.data import DataLoader, TensorDataset

from common import trainer as queries
from common.errors import UserError
from common.io.csv_metrics import csv_logger
from common.io.metrics import read_metrics

pytestmark = pytest.mark.filterwarnings("ignore:.*(workers|logging interval|is not empty|resumable).*")
EPOCH_BATCHES = 5


class Recorder(LightningModule):
    """One weight; records the queries' answers in every hook, and saves a checkpoint after every batch and epoch."""

    def __init__(self, folder, optimizers: int = 1) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.folder = folder
        self.num_optimizers = optimizers
        self.automatic_optimization = optimizers == 1
        self.positions: list[tuple[str, tuple[int, int]]] = []
        self.should_log: list[bool] = []
        self.checkpoints: list[dict] = []

    def record(self, hook: str) -> None:
        self.positions.append((hook, queries.resume_position(self.trainer)))

    def training_step(self, batch, batch_idx):
        before = queries.should_log(self.trainer)
        self.log("train/loss", float(self.trainer.fit_loop.epoch_loop.total_batch_idx))
        self.should_log.append(before)
        if self.automatic_optimization:
            return self.weight * batch[0].mean()
        for optimizer in self.optimizers():
            optimizer.step()

    def on_train_batch_end(self, outputs, batch, batch_idx):
        assert queries.should_log(self.trainer) == self.should_log[-1], "constant within a step"
        if batch_idx + 1 < EPOCH_BATCHES:
            self.record("batch")
            self.save()

    def on_train_epoch_end(self):
        self.record("epoch")
        self.save()

    def save(self) -> None:
        self.trainer.save_checkpoint(self.folder / "x.ckpt")
        self.checkpoints.append(torch.load(self.folder / "x.ckpt", weights_only=True))

    def configure_optimizers(self):
        return [torch.optim.SGD(self.parameters(), 0.1) for _ in range(self.num_optimizers)]


def new_trainer(**options) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False, "logger": False}
    return Trainer(**{**quiet, "accelerator": "cpu", "max_epochs": 2, **options})


def fit(module: LightningModule, ckpt_path=None, **options) -> Trainer:
    trainer = new_trainer(**options)
    trainer.fit(module, DataLoader(TensorDataset(torch.ones(2 * EPOCH_BATCHES, 1)), batch_size=2), ckpt_path=ckpt_path)
    return trainer


def test_module_knows_the_trainer_it_is_attached_to(tmp_path):
    module = Recorder(tmp_path)
    assert queries.attached_trainer(module) is None
    trainer = fit(module, max_epochs=0)
    assert queries.attached_trainer(module) is trainer


def test_resume_position_is_the_next_batch(tmp_path):
    assert queries.resume_position(None) == (0, 0)
    module = Recorder(tmp_path)
    trainer = fit(module)
    within = [("batch", (0, 1)), ("batch", (0, 2)), ("batch", (0, 3)), ("batch", (0, 4))]
    assert module.positions[:5] == [*within, ("epoch", (1, 0))]
    assert module.positions[5:] == [(hook, (epoch + 1, batch)) for hook, (epoch, batch) in module.positions[:5]]
    assert queries.resume_position(trainer) == (2, 0)


@pytest.mark.parametrize("saved, position", [(0, (0, 1)), (3, (0, 4)), (4, (1, 0)), (5, (1, 1)), (8, (1, 4))])
def test_resume_position_comes_from_the_checkpoint(tmp_path, saved, position):
    class Resumed(Recorder):
        def on_train_start(self):
            self.record("start")

    first, resumed = Recorder(tmp_path), Resumed(tmp_path)
    fit(first)
    torch.save(first.checkpoints[saved], tmp_path / "resumed.ckpt")
    fit(resumed, ckpt_path=tmp_path / "resumed.ckpt")
    assert resumed.positions[0] == ("start", position)


def test_rank_and_world_size():
    assert queries.rank_and_world_size(None) == (0, 1)
    assert queries.rank_and_world_size(new_trainer()) == (0, 1)
    assert queries.rank_and_world_size(SimpleNamespace(global_rank=1, world_size=4)) == (1, 4)


@pytest.mark.parametrize(
    "options, steps", [({}, 10), ({"max_steps": 7}, 7), ({"accumulate_grad_batches": 2}, 6), ({"max_steps": 0}, 1)]
)
def test_training_steps(tmp_path, options, steps):
    trainer = fit(Recorder(tmp_path), **options)
    assert queries.training_steps(trainer) == steps == max(1, trainer.global_step)


def test_training_without_an_end_has_no_number_of_steps():
    with pytest.raises(UserError, match="--max_epochs -1: the learning rate falls to zero at the end"):
        queries.training_steps(SimpleNamespace(estimated_stepping_batches=float("inf")))


def test_gradients_are_not_synchronized_within_no_sync(monkeypatch):
    calls = []
    monkeypatch.setattr(DDPStrategy, "block_backward_sync", lambda self: calls.append(self) or torch.no_grad())
    strategy = DDPStrategy()
    with queries.no_sync(strategy):
        assert calls == [strategy]
    with queries.no_sync(SingleDeviceStrategy("cpu")):
        assert calls == [strategy], "there is nothing to synchronize with"


@pytest.mark.parametrize("interval", [1, 3])
def test_should_log_is_true_in_exactly_the_logged_steps(tmp_path, interval):
    module = Recorder(tmp_path)
    fit(module, logger=csv_logger(tmp_path), log_every_n_steps=interval)
    logged = [int(row["step"]) for row in read_metrics(tmp_path / "metrics.csv") if "train/loss" in row]
    assert logged == [step for step, due in enumerate(module.should_log) if due] and len(module.should_log) == 10


def test_a_discarded_metric_is_not_logged_again(tmp_path):
    class EveryThird(Recorder):
        def training_step(self, batch, batch_idx):
            if batch_idx % 3:
                queries.discard_metrics(self.trainer, ["train/third"])
            else:
                self.log("train/third", float(batch_idx))
            return super().training_step(batch, batch_idx)

    module = EveryThird(tmp_path)
    trainer = fit(module, logger=csv_logger(tmp_path), log_every_n_steps=1)
    rows = [row for row in read_metrics(tmp_path / "metrics.csv") if "train/loss" in row]
    assert [row.get("train/third") for row in rows] == 2 * [0.0, None, None, 3.0, None]
    assert "train/third" not in trainer.callback_metrics


@pytest.mark.parametrize("optimizers", [1, 2])
def test_logged_steps_number_the_first_step_after_a_checkpoint(tmp_path, optimizers):
    module = Recorder(tmp_path, optimizers)
    fit(module, logger=csv_logger(tmp_path), log_every_n_steps=1)
    logged = [int(row["step"]) for row in read_metrics(tmp_path / "metrics.csv") if "train/loss" in row]
    # what is saved after batch n is continued by the batch that is logged as step n
    assert logged == list(range(10))
    assert [queries.logged_steps(checkpoint) for checkpoint in module.checkpoints] == list(range(1, 11))
    assert module.checkpoints[0]["global_step"] == optimizers


def test_logged_steps_with_accumulated_gradients(tmp_path):
    module = Recorder(tmp_path)
    fit(module, logger=csv_logger(tmp_path), log_every_n_steps=1, accumulate_grad_batches=5, max_epochs=1)
    assert queries.logged_steps(module.checkpoints[-1]) == 1
