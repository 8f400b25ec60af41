"""Callbacks that measure: what they log equals a computation by hand, in every logged step."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from common.callbacks import throughput
from common.callbacks.activations import ActivationStats, dead_fraction, saturated_fraction
from common.callbacks.gradients import GradientMonitor
from common.callbacks.progress import EpochPrinter
from common.callbacks.throughput import Throughput, batch_size_of
from common.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:.*(workers|logging interval|no `val_dataloader`).*")


class Rows(Logger):
    """Logger that keeps the metrics of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[int, dict[str, float]] = {}

    name, version = "rows", 0

    def log_metrics(self, metrics, step=None):
        self.rows.setdefault(step, {}).update(metrics)

    def log_hyperparams(self, params):
        pass


class Net(LightningModule):
    """Network with every kind of activation, which records its outputs and gradient norms."""

    def __init__(self, loss=None) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 5, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(20, 6),
            nn.GELU(),
            nn.Linear(6, 8),
            nn.Tanh(),
            nn.Linear(8, 3),
            nn.Sigmoid(),
        )
        with torch.no_grad():
            self.net[0].bias[:3] = torch.tensor([-9.0, 9.0, -9.0])  # channels 0 and 2 are dead
            self.net[5].weight.mul_(8)  # far into the ends of tanh
        self.loss = loss
        self.norms: list[float] = []
        self.outputs: list[dict[str, torch.Tensor]] = []

    def training_step(self, batch, index):
        x, outputs = batch[0], {}
        for name, layer in self.net.named_children():
            x = layer(x)
            outputs[name] = x.detach()
        self.outputs.append(outputs)
        loss = F.mse_loss(x, torch.zeros_like(x))
        if self.loss is not None:
            loss = self.loss(self, loss)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, index):
        self.log("val/loss", batch[0].mean())

    def on_before_optimizer_step(self, optimizer):
        self.norms.append(math.sqrt(sum(float(g) ** 2 for p in self.parameters() for g in p.grad.flatten())))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.5)


def fit(module, *callbacks, samples=10, epochs=2, every=1, val=False, ckpt_path=None, value=None, **options):
    """Trains on `samples`, random or all of one `value`, in batches of 4 and returns what was logged."""
    images = torch.rand(samples, 1, 4, 4) if value is None else torch.full((samples, 1, 4, 4), value)
    loader = DataLoader(TensorDataset(images), batch_size=4)
    logger = Rows()
    quiet = dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        log_every_n_steps=every,
        num_sanity_val_steps=0,
        callbacks=list(callbacks),
        logger=logger,
        **(quiet | options),
    )
    trainer.fit(module, loader, loader if val else None, ckpt_path=ckpt_path)
    return logger.rows


def test_metrics_are_logged_in_every_logged_step_however_short_the_epochs(tmp_path):
    rows = fit(Net(), GradientMonitor(tmp_path), ActivationStats(), Throughput(), samples=8, epochs=6, every=5)
    names = {"train/loss", "grad/norm", "perf/samples_per_second", "act/dead/1", "act/saturated/6"}
    assert {step for step, row in rows.items() if names <= row.keys()} == {4, 9}
    assert not any(names & row.keys() for step, row in rows.items() if step not in (4, 9))


# gradients


@pytest.mark.parametrize("options", [{}, {"gradient_clip_val": 0.01}, {"accumulate_grad_batches": 2}])
def test_gradient_norm_is_that_of_all_gradients_before_clipping(tmp_path, options):
    module = Net()
    rows = fit(module, GradientMonitor(tmp_path), every=2, **options)
    assert len(module.norms) == (4 if "accumulate_grad_batches" in options else 6)
    assert min(module.norms) > 0.01
    logged = {step: row["grad/norm"] for step, row in rows.items() if "grad/norm" in row}
    assert logged == pytest.approx({step: norm for step, norm in enumerate(module.norms) if step % 2}, rel=1e-5)


class Snapshot(Callback):
    """Keeps the weights after each step."""

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.weights = {name: value.clone() for name, value in module.state_dict().items()}


def at_step(step, loss):
    return lambda module, usual: loss(usual) if module.global_step == step else usual


@pytest.mark.parametrize(
    "loss, message",
    [
        (lambda usual: usual * math.nan, "the loss is nan"),
        (lambda usual: usual * math.inf, "the loss is inf"),
        (lambda usual: (usual * 0).sqrt(), "the gradient is not finite"),  # 0, with an infinite gradient
    ],
)
def test_a_loss_or_gradient_that_is_not_finite_stops_before_the_step(tmp_path, loss, message):
    for name in ("step-00000002.ckpt", "best-00000002.ckpt"):
        (tmp_path / name).touch()
    module, snapshot = Net(at_step(4, loss)), Snapshot()
    with pytest.raises(UserError) as caught:
        fit(module, GradientMonitor(tmp_path), snapshot)
    assert str(caught.value).startswith(
        f"stopped before step 5: {message}; the last good checkpoint is {tmp_path}/step-00000002.ckpt. "
    )
    assert "--trainer.gradient_clip_val 1" in str(caught.value)
    assert all(torch.equal(value, snapshot.weights[name]) for name, value in module.state_dict().items())
    assert module.global_step == 4


def test_without_a_checkpoint_the_message_says_so(tmp_path):
    with pytest.raises(UserError, match="stopped before step 1: the loss is nan; there is no checkpoint yet"):
        fit(Net(at_step(0, lambda usual: usual * math.nan)), GradientMonitor(tmp_path / "none"))


@pytest.mark.parametrize(
    "broken, message",
    [
        ("data", "The batch has values that are not finite: mend the data"),
        ("weights", "The weights net.0.weight are not finite from the start: use another checkpoint"),
        ("neither", "Data and weights are finite: look for values that are too large"),
    ],
)
def test_the_message_names_a_cause_that_is_true(tmp_path, broken, message):
    module = Net((lambda module, usual: usual * math.nan) if broken == "neither" else None)
    if broken == "weights":
        module.net[0].weight.data[0, 0] = math.nan
    with pytest.raises(UserError, match=message) as caught:
        fit(module, GradientMonitor(tmp_path), value=math.nan if broken == "data" else None)
    assert "earning rate" not in str(caught.value)


def test_a_validation_loss_that_is_not_finite_stops(tmp_path):
    module = Net()
    module.validation_step = lambda *args: module.log("val/loss", torch.tensor(math.nan))
    with pytest.raises(UserError, match=r"stopped after step 3: val/loss is nan\. Lower the learning rate"):
        fit(module, GradientMonitor(tmp_path), val=True)


def scaler() -> MixedPrecision:
    """Precision plugin with a gradient scaler, which works on a CPU too."""
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))


def test_a_gradient_scaler_handles_infinite_gradients_but_not_losses(tmp_path):
    rows = fit(Net(at_step(2, lambda usual: (usual * 0).sqrt())), GradientMonitor(tmp_path), plugins=[scaler()])
    norms = {step: row["grad/norm"] for step, row in rows.items() if "grad/norm" in row}
    assert not math.isfinite(norms[2]) and math.isfinite(norms[1]) and math.isfinite(norms[5])
    with pytest.raises(UserError, match="stopped before step 3: the loss is nan"):
        fit(Net(at_step(2, lambda usual: usual * math.nan)), GradientMonitor(tmp_path), plugins=[scaler()])


def test_one_process_does_not_stop_alone(tmp_path):
    # the loss is known to its process only; the gradient, summed over processes, to all
    rows = fit(Net(at_step(2, lambda usual: usual + math.nan)), GradientMonitor(tmp_path))
    assert math.isnan(rows[2]["train/loss"]) and math.isfinite(rows[2]["grad/norm"]) and 5 in rows


# activations


def dead_by_hand(output):
    """Dead fraction, unit by unit: a channel of (batch, channels, height, width), else an entry of the last dimension."""
    units = output.unbind(1) if output.dim() == 4 else output.unbind(-1)
    return sum(all(value <= 0 for value in unit.flatten().tolist()) for unit in units) / len(units)


def saturated_by_hand(output, low, high):
    values, margin = output.flatten().tolist(), (high - low) / 100
    return sum(value < low + margin or value > high - margin for value in values) / len(values)


def test_dead_and_saturated_fractions_are_those_counted_by_hand():
    module = Net()
    rows = fit(module, ActivationStats(), every=2)
    assert sorted(rows) == [1, 3, 5]
    for step, row in rows.items():
        outputs = module.outputs[step]
        fractions = {name: value for name, value in row.items() if name.startswith("act/")}
        assert fractions == pytest.approx(
            {
                "act/dead/1": dead_by_hand(outputs["1"]),
                "act/dead/4": dead_by_hand(outputs["4"]),
                "act/saturated/6": saturated_by_hand(outputs["6"], -1, 1),
                "act/saturated/8": saturated_by_hand(outputs["8"], 0, 1),
            }
        )
    assert rows[1]["act/dead/1"] >= 0.4 and rows[1]["act/saturated/6"] > 0.02, "else there was nothing to find"
    assert not any(layer._forward_hooks for layer in module.modules())


@pytest.mark.parametrize("every", [1, 50])
def test_a_dead_layer_is_named_once_with_what_to_do(capsys, every):
    """However seldom metrics are logged; one with living units is not."""
    module, stats = Net(), ActivationStats()
    fit(module, stats, every=every)
    assert capsys.readouterr().out == ""
    with torch.no_grad():
        module.net[3].bias.fill_(-99.0)
    fit(module, stats, every=every)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 and lines[0].startswith("NOTE: dead layers: 4 (100% of its units)."), lines
    assert "lower learning rates" in lines[0]


class HookCounter(Callback):
    def __init__(self) -> None:
        self.counts: list[int] = []

    def on_before_backward(self, trainer, module, loss):
        self.counts.append(sum(len(layer._forward_hooks) for layer in module.modules()))


def test_hooks_are_registered_in_logged_steps_only():
    counter = HookCounter()
    fit(Net(), ActivationStats(), counter, every=3)
    assert counter.counts == [0, 0, 4, 0, 0, 4]


def test_a_compiled_network_has_no_hooks():
    """Else they would recompile it; this fails if torch renames the private attribute that marks compiled modules."""
    counter, module = HookCounter(), Net()
    module.net[0].compile(backend="eager")
    with torch.compiler.set_stance("force_eager"):  # nothing is really compiled
        rows = fit(module, ActivationStats(), counter, epochs=1)
    assert counter.counts == [0, 0, 0] and not any(name.startswith("act/") for row in rows.values() for name in row)


@pytest.mark.parametrize("shape", [(6, 5, 3, 3), (7, 9), (2, 4, 9)])
def test_a_unit_is_a_channel_or_a_feature(shape):
    output = torch.randn(shape)
    output.select(1 if len(shape) == 4 else -1, 2).abs_().neg_()  # a dead unit
    assert dead_fraction(output).item() > 0
    assert dead_fraction(output).item() == pytest.approx(dead_by_hand(output))
    assert dead_fraction(torch.zeros(shape)).item() == 1


def test_saturation_begins_one_per_cent_from_the_ends():
    output = torch.tensor([-1.0, -0.981, -0.979, 0.0, 0.979, 0.981])
    assert saturated_fraction(output, -1, 1).item() == pytest.approx(3 / 6)
    assert saturated_fraction(torch.tensor([0.009, 0.011, 0.989, 0.991]), 0, 1).item() == pytest.approx(2 / 4)


# throughput


class Clock(Callback):
    """Simulated clock: 1 s for a step, 10 s for a validation, 100 s for a checkpoint."""

    def __init__(self, monkeypatch, path=None) -> None:
        self.now, self.path = 1000.0, path
        monkeypatch.setattr(throughput, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def on_before_backward(self, trainer, module, loss):
        self.now += 1

    def on_validation_end(self, trainer, module):
        self.now += 10

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        if self.path is not None and index == 1:
            trainer.save_checkpoint(self.path)
            self.now += 100


def test_throughput_counts_samples_and_the_time_of_steps_alone(monkeypatch, tmp_path):
    meter = Throughput()
    rows = fit(Net(), meter, Clock(monkeypatch, tmp_path / "x.ckpt"), every=2, val=True)
    assert (meter.samples, meter.steps_seconds, meter.samples_per_second) == (20, 6.0, 20 / 6)
    assert meter.seconds == 6 + 2 * 10 + 2 * 100
    windows = {step: row["perf/samples_per_second"] for step, row in rows.items() if "perf/step_seconds" in row}
    assert windows == {1: (4 + 4) / 2, 3: (2 + 4) / 2, 5: (4 + 2) / 2}  # an epoch is 4, 4 and 2 samples
    assert all(row["perf/step_seconds"] == 1 for row in rows.values() if "perf/step_seconds" in row)


def test_throughput_leaves_out_validation_inside_an_epoch(monkeypatch):
    meter = Throughput()
    fit(Net(), meter, Clock(monkeypatch), val=True, val_check_interval=1)
    assert (meter.samples, meter.steps_seconds) == (20, 6.0)


def test_throughput_continues_from_a_checkpoint(monkeypatch, tmp_path):
    path = tmp_path / "x.ckpt"
    fit(Net(), Throughput(), Clock(monkeypatch, path))  # the last is saved after five of the six steps
    meter = Throughput()
    fit(Net(), meter, Clock(monkeypatch), ckpt_path=path)
    assert (meter.samples, meter.steps_seconds) == (18 + 4, 6.0)  # a plain loader begins anew, so the sixth step has four
    assert meter.seconds == 6 + 100  # one of the two times of saving is in the checkpoint


def test_throughput_stays_when_an_earlier_checkpoint_is_tested(monkeypatch, tmp_path):
    path, meter, module = tmp_path / "x.ckpt", Throughput(), Net()
    fit(module, meter, Clock(monkeypatch, path))
    before = meter.samples, meter.seconds, meter.steps_seconds
    loader = DataLoader(TensorDataset(torch.rand(4, 1, 4, 4)), batch_size=4)
    trainer = Trainer(accelerator="cpu", callbacks=[meter], logger=False, enable_checkpointing=False)
    trainer.validate(module, loader, ckpt_path=path, verbose=False)
    assert before == (meter.samples, meter.seconds, meter.steps_seconds) == (20, 6 + 2 * 100, 6.0)


def test_throughput_includes_waiting_for_data(monkeypatch):
    clock, meter = Clock(monkeypatch), Throughput()
    usual = torch.utils.data.TensorDataset.__getitem__
    monkeypatch.setattr(
        TensorDataset, "__getitem__", lambda self, i: (setattr(clock, "now", clock.now + 0.25), usual(self, i))[1]
    )
    fit(Net(), meter, clock)
    assert meter.steps_seconds == 6 + 20 * 0.25


def test_throughput_counts_all_processes(monkeypatch):
    monkeypatch.setattr(Trainer, "world_size", 3)
    meter = Throughput()
    assert meter.samples_per_second == 0
    fit(Net(), meter)
    assert meter.samples == 3 * 20


@pytest.mark.parametrize(
    "batch, length",
    [
        (torch.zeros(7, 2), 7),
        ((torch.zeros(6, 1), torch.zeros(5)), 6),
        ({"names": ["a", "b"], "images": torch.zeros(4, 1)}, 4),
        ([torch.tensor(1.0), {"x": (torch.zeros(3),)}], 3),
        ("nothing", 1),
        ((), 1),
    ],
)
def test_batch_size_is_the_length_of_the_first_tensor(batch, length):
    assert batch_size_of(batch) == length


# progress


def test_every_epoch_prints_a_line(capsys):
    fit(Net(), EpochPrinter(), val=True)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for number, line in enumerate(lines, start=1):
        words = line.split()
        assert words[:4] == ["epoch", str(number), "step", str(3 * number)]
        assert words[4:8:2] == ["train/loss", "val/loss"] and words[-1] == "s"
        assert all(float(word) >= 0 for word in words[5:8:2])


def test_metrics_are_printed_in_the_epoch_that_measured_them(capsys):
    class Sparse(Net):
        def training_step(self, batch, index):
            if self.current_epoch == 1:
                self.log("train/second", 1.0)
            return super().training_step(batch, index)

    fit(Sparse(), EpochPrinter(), val=True, epochs=4, check_val_every_n_epoch=3)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert all("train/loss" in line for line in lines)
    assert ["val/loss" in line for line in lines] == [False, False, True, False]
    assert ["train/second" in line for line in lines] == [False, True, False, False]
