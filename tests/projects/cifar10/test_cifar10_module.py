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

from common.errors import UserError
from projects.cifar10 import data as data_module
from projects.cifar10.data import CIFAR10Data
from projects.cifar10.inference import predict_logits
from projects.cifar10.module import CIFAR10Module
from projects.cifar10.networks import ResNet18, SpeedNet, resize
from projects.cifar10.optim import Lookahead, MuonSGD, parameter_groups

TINY = {"widths": (8, 8, 8), "optimizer": "muon", "head_lr": 1.0, "bias_lr": 0.05, "schedule": "linear", "warmup": 0.0}


@pytest.fixture(autouse=True)
def small_sample(monkeypatch) -> None:
    monkeypatch.setattr(data_module, "SAMPLE_SIZES", {"train": 90, "test": 61})


def trainer(**options: Any) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(accelerator="cpu", devices=1, num_sanity_val_steps=0, use_distributed_sampler=False, **quiet, **options)


def small_data(**options: Any) -> CIFAR10Data:
    """80 training pictures in batches of 16, so five steps in an epoch, and 10 for validation."""
    return CIFAR10Data(**{"source": "sample", "batch_size": 16, "val_size": 10, "eval_batch_size": 25, **options})


class Record(Callback):
    """What `look(module)` returns at the start of every training batch."""

    def __init__(self, look: Any) -> None:
        self.look, self.seen = look, []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.seen.append(self.look(pl_module))


# loss


@pytest.mark.parametrize("smoothing, classes", [(0.2, 10), (0.1, 3), (0.0, 10)])
def test_loss_floor_is_the_least_loss_that_any_logits_reach(smoothing, classes):
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
    net.fit_inputs(data.train.images)
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
    module = CIFAR10Module(resolutions=[(0.0, 24), (0.5, 32)], lookahead=lookahead, whiten_bias_epochs=2, **TINY)
    expected = by_hand(module, 3, [24] * 8 + [32] * 7, lookahead)
    trainer(max_epochs=3).fit(module, datamodule=small_data())
    learnt = (expected.head.weight - CIFAR10Module(**TINY).net.head.weight).abs().max()
    assert learnt > 0.1
    for key, value in expected.state_dict().items():
        assert torch.equal(module.net.state_dict()[key], value), key


def test_slow_weights_are_returned_to_after_steps_and_not_after_batches(monkeypatch):
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
    biases = [bias for bias, _ in record.seen] + [module.net.whiten.bias.detach()]
    assert [not torch.equal(a, b) for a, b in pairwise(biases)] == [True] * 10 + [False] * 10
    assert [trained for _, trained in record.seen] == [True] * 10 + [False] * 10


def test_resolution_is_that_of_the_pictures_that_the_network_sees():
    module = CIFAR10Module(resolutions=[(0.0, 16), (0.4, 20), (0.8, 32)], **TINY)
    sizes = []
    module.net.register_forward_pre_hook(lambda net, inputs: sizes.append(inputs[0].shape[-1]) if net.training else None)
    trainer(max_epochs=2).fit(module, datamodule=small_data())
    assert sizes == [16] * 4 + [20] * 4 + [32] * 2


def test_input_statistics_are_those_of_the_training_pictures():
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
    assert [rate > 0 for rate in record.seen] == [True] * 5 + [False] * 3, "five steps are an epoch"


# figures


def trained() -> tuple[CIFAR10Module, CIFAR10Data, Trainer]:
    module, data, t = CIFAR10Module(**TINY), small_data(), trainer(max_epochs=3)
    t.fit(module, datamodule=data)
    return module, data, t


def test_test_figures_are_those_computed_by_hand():
    module, data, t = trained()
    figures = t.test(module, datamodule=data, verbose=False)[0]  # 61 pictures: batches of 25, 25 and 11
    module.eval()
    logits, labels = predict_logits(module.net, data.test.images, 2), data.test.labels
    with torch.no_grad():
        plain = module(data.test.images)
    assert figures["test/accuracy"] == pytest.approx(accuracy_score(labels, logits.argmax(1)), abs=1e-6)
    assert figures["test/accuracy_plain"] == pytest.approx(accuracy_score(labels, plain.argmax(1)), abs=1e-6)
    assert figures["test/loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    confidence, predicted = logits.softmax(1).max(1)
    error = 0.0
    for low in range(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if inside.any():
            gap = (predicted[inside] == labels[inside]).double().mean() - confidence[inside].double().mean()
            error += inside.double().mean().item() * abs(gap.item())
    assert error > 0.01
    assert figures["test/calibration_error"] == pytest.approx(error, abs=1e-5)


def test_validation_figures_are_those_of_the_plain_pictures():
    module, data = CIFAR10Module(**TINY), small_data(val_size=50, batch_size=20, eval_batch_size=30)
    t = trainer(max_epochs=2)
    t.fit(module, datamodule=data)
    module.eval()
    with torch.no_grad():
        logits = module(data.val.images)  # batches of 30 and 20: a mean of their means would be another figure
    assert t.callback_metrics["val/loss"].item() == pytest.approx(F.cross_entropy(logits, data.val.labels).item(), rel=1e-5)
    expected = accuracy_score(data.val.labels, logits.argmax(1))
    assert t.callback_metrics["val/accuracy"].item() == pytest.approx(expected, abs=1e-6)


# checkpoints and options


def test_a_checkpoint_is_all_that_is_needed(tmp_path):
    module, data, t = trained()
    t.save_checkpoint(tmp_path / "x.ckpt")
    loaded = CIFAR10Module.load_from_checkpoint(tmp_path / "x.ckpt", weights_only=True).eval()
    assert torch.equal(loaded(data.test.images), module.eval()(data.test.images))
    assert loaded.hparams == module.hparams
    assert torch.load(tmp_path / "x.ckpt", weights_only=True)["class_names"] == data.class_names


def test_slow_weights_travel_in_the_checkpoint(tmp_path):
    module, t = CIFAR10Module(lookahead=True, **TINY), trainer(max_epochs=2, max_steps=8)
    t.fit(module, datamodule=small_data())
    module.slow_weights.slow["head.weight"].fill_(3.0)
    t.save_checkpoint(tmp_path / "x.ckpt")
    loaded = CIFAR10Module.load_from_checkpoint(tmp_path / "x.ckpt", weights_only=True)
    assert loaded.slow_weights.slow.keys() == module.slow_weights.slow.keys()
    for key, value in module.slow_weights.slow.items():
        assert torch.equal(loaded.slow_weights.slow[key], value)


def test_compiling_keeps_the_names_in_the_state(monkeypatch):
    compiled = []

    def compile_nothing(function: Any, *_: Any, **__: Any) -> Any:
        compiled.append(function)
        return function

    monkeypatch.setattr(torch, "compile", compile_nothing)
    module = CIFAR10Module(compile=True, **TINY)
    names = list(module.state_dict())
    trainer(max_epochs=1).fit(module, datamodule=small_data())
    assert compiled and list(module.state_dict()) == names == list(CIFAR10Module(**TINY).state_dict())


def test_each_network_is_the_one_that_was_asked_for():
    assert isinstance(CIFAR10Module(**TINY).net, SpeedNet)
    resnet = CIFAR10Module("resnet18", num_classes=4).net
    assert isinstance(resnet, ResNet18) and resnet.head.out_features == 4
    assert len(CIFAR10Module(depths=(3, 2, 2), **TINY).net.blocks[0].convs) == 3


@pytest.mark.parametrize(
    "options, message",
    [
        ({"network": "vgg"}, "--model.network vgg: use one of speednet, resnet18"),
        ({"optimizer": "adam"}, "--model.optimizer adam: use one of muon, sgd"),
        ({"schedule": "step"}, "--model.schedule step: use one of linear, cosine"),
        ({"tta": 3}, "--model.tta 3: use one of 0, 1, 2"),
        ({"depths": (2, 2, 4)}, r"--model.depths \[2, 2, 4\]: each block has 2 or 3 convolutions"),
        ({"resolutions": [(0.5, 4)]}, "a size 9 or more"),
        ({"resolutions": [(30, 24)]}, "a share is 0 to 1"),
    ],
    ids=str,
)
def test_bad_options_are_one_clear_line(options, message):
    with pytest.raises(UserError, match=message):
        CIFAR10Module(**{**TINY, **options})


def test_another_number_of_classes_is_one_clear_line():
    with pytest.raises(UserError, match=r"--model\.num_classes 7: the data has 10 classes"):
        trainer(max_epochs=1).fit(CIFAR10Module(num_classes=7, **TINY), datamodule=small_data())
