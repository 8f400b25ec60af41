"""The LightningModule trains, schedules and measures as a plain loop written out by hand does."""

from __future__ import annotations

import copy
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from sklearn.metrics import accuracy_score
from torch import Tensor, nn

from common.cli.main import main
from common.errors import UserError
from common.io.checkpoints import AtomicCheckpointIO, load_module
from common.nn.calibration import fit_temperature
from projects.cifar10 import synthetic
from projects.cifar10.config import AugmentationConfig, SpeedNetConfig
from projects.cifar10.data import CIFAR10Data
from projects.cifar10.lookahead import Lookahead
from projects.cifar10.module import CIFAR10Module
from projects.cifar10.networks import SpeedNet, resize
from projects.cifar10.optim import MuonSGD, parameter_groups
from projects.cifar10.resnet import ResNet18
from projects.cifar10.train import PROJECT
from projects.cifar10.tta import predict_logits

TINY = {"speednet": SpeedNetConfig((8, 8, 8), (2, 2, 2)), "head_lr": 1.0, "bias_lr": 0.05, "progressive_resizing": ()}


@pytest.fixture(autouse=True)
def small_sample(monkeypatch) -> None:
    monkeypatch.setattr(synthetic, "SPLIT_SIZES", {"train": 90, "test": 61})


def trainer(**options: Any) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(accelerator="cpu", devices=1, num_sanity_val_steps=0, use_distributed_sampler=False, **quiet, **options)


def small_data(**options: Any) -> CIFAR10Data:
    """80 training images in batches of 16, so five steps in an epoch, and 10 for validation."""
    return CIFAR10Data(
        **{"source": "sample", "batch_size": 16, "val_size": 10, "eval_batch_size": 25, "subset_fraction": 1.0, **options}
    )


class Record(Callback):
    """What `look(module)` returns at the start of every training batch."""

    def __init__(self, look: Any) -> None:
        self.look, self.values = look, []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.values.append(self.look(pl_module))


# loss


@pytest.mark.parametrize("smoothing, classes", [(0.2, 10), (0.1, 3), (0.0, 10)])
def test_min_loss_is_the_least_loss_that_any_logits_reach(smoothing, classes):
    module = CIFAR10Module(num_classes=classes, label_smoothing=smoothing, **TINY)
    labels = torch.arange(classes)
    logits = torch.zeros(classes, classes, dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=500, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        loss.backward()
        return loss

    for _ in range(5):
        optimizer.step(closure)
    assert module.min_loss == pytest.approx(closure().item(), abs=1e-5)


def test_loss_is_the_smoothed_cross_entropy():
    module, images = CIFAR10Module(label_smoothing=0.3, **TINY), torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    labels = torch.tensor([0, 3, 3, 9])
    target = torch.full((4, 10), 0.03).scatter_add_(1, labels[:, None], torch.full((4, 1), 0.7))
    expected = -(target * module(images).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(module.compute_loss((images, labels)), expected)


# training


def by_hand(start: CIFAR10Module, epochs: int, sizes: list[int], lookahead: bool) -> nn.Module:
    """The training loop without Lightning: the network that `start` becomes on `small_data`."""
    data = small_data()
    data.prepare_data()
    data.setup("fit")
    net = copy.deepcopy(start.net)
    net.init_input_stats(data.train.images)
    h, steps = start.hparams, 5 * epochs
    slow = {key: value.clone() for key, value in net.state_dict().items()}
    groups = parameter_groups(
        net,
        {"muon": True, "lr": h["muon_lr"], "momentum": h["muon_momentum"]},
        {"lr": h["head_lr"], "momentum": h["momentum"], "weight_decay": h["weight_decay"] / h["head_lr"]},
        {"lr": h["bias_lr"], "momentum": h["momentum"], "weight_decay": h["weight_decay"] / h["bias_lr"]},
    )
    optimizer, first = MuonSGD(groups), [group["lr"] for group in groups]
    at = SimpleNamespace(processed=0)
    none = SimpleNamespace(batch_progress=SimpleNamespace(current=SimpleNamespace(ready=0)))
    loop = SimpleNamespace(epoch_progress=SimpleNamespace(current=at), epoch_loop=none)
    data.trainer = SimpleNamespace(fit_loop=loop, num_training_batches=5, global_rank=0, world_size=1)
    step = 0
    for at.processed in range(epochs):
        for images, labels, _ in data.train_dataloader():
            for group, rate in zip(optimizer.param_groups, first, strict=True):
                left = 1 - step / (10 if group["name"] == "whiten" else steps)  # its bias: two epochs
                group["lr"] = rate * max(0.0, left)
            optimizer.zero_grad()
            F.cross_entropy(net(resize(images, sizes[step])), labels, label_smoothing=h["label_smoothing"]).backward()
            optimizer.step()
            net.normalize.size, step = sizes[step], step + 1
            if lookahead and step % 5 == 0:
                decay = 0.95**5 * (step / steps) ** 3
                for key, value in net.state_dict().items():
                    if value.is_floating_point():
                        slow[key] = slow[key].lerp(value, 1 - decay)
                        value.copy_(slow[key])
    return net


@pytest.mark.parametrize("lookahead", [False, True])
def test_the_trainer_ends_where_a_plain_loop_ends(lookahead):
    module = CIFAR10Module(
        **TINY | {"progressive_resizing": ((0.0, 24), (0.5, 32))}, lookahead=lookahead, whiten_bias_epochs=2
    )
    expected = by_hand(module, 3, [24] * 8 + [32] * 7, lookahead)
    trainer(max_epochs=3).fit(module, datamodule=small_data())
    learnt = (expected.head.weight - CIFAR10Module(**TINY).net.head.weight).abs().max()
    assert learnt > 0.1
    for key, value in expected.state_dict().items():
        assert torch.equal(module.net.state_dict()[key], value), key


def test_lookahead_counts_steps_and_not_batches(monkeypatch):
    calls = []
    monkeypatch.setattr(Lookahead, "update", lambda self, net, decay: calls.append(decay))
    module = CIFAR10Module(lookahead=True, **TINY)
    # ten batches of eight in an epoch, two for a step: 15 steps in three epochs
    trainer(max_epochs=3, accumulate_grad_batches=2).fit(module, datamodule=small_data(batch_size=8))
    assert calls == [pytest.approx(0.95**5 * (step / 15) ** 3) for step in (5, 10, 15)] + [1.0]


def test_the_whitening_bias_stands_still_after_its_epochs():
    module = CIFAR10Module(whiten_bias_epochs=2, **TINY)
    record = Record(lambda module: (module.net.whiten.bias.detach().clone(), module.net.whiten.bias.requires_grad))
    trainer(max_epochs=4, callbacks=[record]).fit(module, datamodule=small_data())
    biases = [bias for bias, _ in record.values] + [module.net.whiten.bias.detach()]
    assert [not torch.equal(a, b) for a, b in pairwise(biases)] == [True] * 10 + [False] * 10
    assert [trained for _, trained in record.values] == [True] * 10 + [False] * 10


def test_image_sizes_are_those_of_the_schedule():
    module = CIFAR10Module(**TINY | {"progressive_resizing": ((0.0, 16), (0.4, 20), (0.8, 32))})
    sizes = []
    module.net.register_forward_pre_hook(lambda net, inputs: sizes.append(inputs[0].shape[-1]) if net.training else None)
    trainer(max_epochs=2).fit(module, datamodule=small_data())
    assert sizes == [16] * 4 + [20] * 4 + [32] * 2


def test_input_statistics_are_those_of_the_training_images():
    module, data = CIFAR10Module(**TINY), small_data()
    trainer(max_epochs=0).fit(module, datamodule=data)
    pixels = data.train.images.double() / 255
    torch.testing.assert_close(module.net.normalize.mean.flatten().double(), pixels.mean((0, 2, 3)))
    torch.testing.assert_close(module.net.normalize.std.flatten().double(), pixels.std((0, 2, 3)))


def test_training_ends_without_a_step_as_well():
    for options in ({"max_epochs": 0}, {"max_epochs": 1, "limit_train_batches": 0}):
        trainer(**options).fit(CIFAR10Module(**TINY), datamodule=small_data())
    with pytest.raises(UserError, match="--max_epochs -1: the learning rate falls to zero at the end"):
        trainer(max_epochs=-1).fit(CIFAR10Module(**TINY), datamodule=small_data())


def test_steps_alone_end_a_training():
    module = CIFAR10Module(whiten_bias_epochs=1, **TINY)
    record = Record(lambda module: module.optimizers().param_groups[-1]["lr"])
    trainer(max_epochs=-1, max_steps=8, callbacks=[record]).fit(module, datamodule=small_data())
    assert [rate > 0 for rate in record.values] == [True] * 5 + [False] * 3, "five steps are an epoch"


# metrics


def trained(**options: Any) -> tuple[CIFAR10Module, CIFAR10Data, Trainer]:
    module, data = CIFAR10Module(**TINY), small_data(**options)
    t = trainer(max_epochs=3, plugins=[AtomicCheckpointIO()])
    t.fit(module, datamodule=data)
    return module, data, t


def test_test_metrics_are_those_computed_by_hand():
    module, data, t = trained()
    metrics = t.test(module, datamodule=data, verbose=False)[0]  # 61 images: batches of 25, 25 and 11
    module.eval()
    logits, labels = predict_logits(module.net, data.test.images, 2), data.test.labels
    with torch.no_grad():
        plain = module(data.test.images)
    assert plain.argmax(1).ne(logits.argmax(1)).any(), "views that change nothing would prove nothing"
    for suffix, outputs in (("", plain), ("_tta", logits)):
        assert metrics[f"test/accuracy{suffix}"] == pytest.approx(accuracy_score(labels, outputs.argmax(1)), abs=1e-6)
        assert metrics[f"test/loss{suffix}"] == pytest.approx(F.cross_entropy(outputs, labels).item(), rel=1e-5)
        assert metrics[f"test/calibration_error{suffix}"] == pytest.approx(calibration_error(outputs, labels), abs=1e-5)
        scaled = calibration_error(outputs / module.temperature, labels)
        assert metrics[f"test/calibration_error_scaled{suffix}"] == pytest.approx(scaled, abs=1e-5)


def test_a_run_without_flips_tests_and_predicts_without_them():
    module, data, t = trained(augmentation=AugmentationConfig("none"))
    metrics = t.test(module, datamodule=data, verbose=False)[0]
    module.eval()
    expected = predict_logits(module.net, data.test.images, 2, flip=False)
    assert not torch.allclose(expected, predict_logits(module.net, data.test.images, 2)), "flips would show"
    loss = F.cross_entropy(expected, data.test.labels).item()
    assert metrics["test/loss_tta"] == pytest.approx(loss, rel=1e-5)
    checkpoint: dict[str, Any] = {}
    module.on_save_checkpoint(checkpoint)
    assert checkpoint["horizontal_flip"] is False


def calibration_error(logits: Tensor, labels: Tensor) -> float:
    """Expected calibration error with 15 bins."""
    confidence, predicted = logits.softmax(1).max(1)
    error = 0.0
    for low in range(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if inside.any():
            gap = (predicted[inside] == labels[inside]).double().mean() - confidence[inside].double().mean()
            error += inside.double().mean().item() * abs(gap.item())
    assert error > 0.01
    return error


def test_validation_metrics_are_those_of_the_plain_images():
    module, data = CIFAR10Module(**TINY), small_data(val_size=50, batch_size=20, eval_batch_size=30)
    t = trainer(max_epochs=2)
    t.fit(module, datamodule=data)
    module.eval()
    with torch.no_grad():
        logits = module(data.val.images)  # batches of 30 and 20: a mean of their means would be another metric
    assert t.callback_metrics["val/loss"].item() == pytest.approx(F.cross_entropy(logits, data.val.labels).item(), rel=1e-5)
    expected = accuracy_score(data.val.labels, logits.argmax(1))
    assert t.callback_metrics["val/accuracy"].item() == pytest.approx(expected, abs=1e-6)
    temperature = fit_temperature(logits, data.val.labels).item()
    assert module.temperature.item() == pytest.approx(temperature, abs=1e-4) and abs(temperature - 1) > 0.05


# checkpoints and options


def test_a_checkpoint_is_all_that_is_needed(tmp_path):
    module, data, t = trained()
    path = tmp_path / "x.ckpt"
    t.save_checkpoint(path)
    torch.save({**torch.load(path, weights_only=True), "project": "cifar10"}, path)
    loaded, checkpoint = load_module(path, CIFAR10Module, "cifar10")
    assert torch.equal(loaded(data.test.images), module.eval()(data.test.images))
    assert loaded.hparams == module.hparams
    assert checkpoint["class_names"] == data.class_names


def test_slow_weights_travel_in_the_checkpoint():
    module, other = (CIFAR10Module(lookahead=True, **TINY) for _ in range(2))
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    other.on_load_checkpoint(checkpoint)
    assert other.lookahead.slow.keys() == module.lookahead.slow.keys()
    for key, value in module.lookahead.slow.items():
        assert torch.equal(other.lookahead.slow[key], value)


def test_each_network_is_the_one_that_was_asked_for():
    assert isinstance(CIFAR10Module(**TINY).net, SpeedNet)
    resnet = CIFAR10Module("resnet18", num_classes=4).net
    assert isinstance(resnet, ResNet18) and resnet.head.out_features == 4
    assert len(CIFAR10Module(speednet=SpeedNetConfig((8, 8, 8), (3, 2, 2))).net.blocks[0].convs) == 3


@pytest.mark.parametrize(
    "flag",
    [
        "--model.network=vgg",
        "--model.optimizer=adam",
        "--model.schedule=step",
        "--model.tta=3",
        "--model.lr=0",
        "--model.label_smoothing=1",
        "--model.speednet.convs_per_block=[2,2,4]",
        "--model.progressive_resizing=[[0.5,4]]",
        "--model.progressive_resizing=[[30,24]]",
        "--data.loader=quick",
        "--data.test_split=train",
        "--data.batch_size=0",
        "--data.val_size=-1",
        "--data.subset_fraction=0",
        "--data.subset_fraction=1.5",
        "--data.augmentation.flip=both",
        "--data.augmentation.pad=-1",
    ],
)
def test_values_out_of_range_are_refused_by_the_parser(flag, capsys):
    assert main(PROJECT, [flag]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and flag.strip("-").partition("=")[0] in error


def test_another_number_of_classes_is_one_clear_line():
    with pytest.raises(UserError, match=r"--model\.num_classes 7: the data has 10 classes"):
        trainer(max_epochs=1).fit(CIFAR10Module(num_classes=7, **TINY), datamodule=small_data())
