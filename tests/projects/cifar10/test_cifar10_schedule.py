"""Learning rates and image sizes in every step of a training are those worked out by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from projects.cifar10.config import SpeedNetConfig
from projects.cifar10.module import CIFAR10Module
from projects.cifar10.optim import MuonSGD

TINY = {"speednet": SpeedNetConfig((8, 8, 8)), "head_lr": 1.0, "bias_lr": 0.05, "progressive_resizing": ()}


def configured(steps: int, per_epoch: int, accumulate: int = 1, **options: Any) -> tuple[MuonSGD, Any]:
    """The optimizer and the scheduler for a training of `steps` steps with `per_epoch` batches in an epoch."""
    module = CIFAR10Module(**{**TINY, **options})
    module.trainer = SimpleNamespace(
        estimated_stepping_batches=steps,
        num_training_batches=per_epoch,
        accumulate_grad_batches=accumulate,
        fit_loop=SimpleNamespace(setup_data=lambda: None),
    )
    result = module.configure_optimizers()
    assert result["lr_scheduler"]["interval"] == "step"
    return result["optimizer"], result["lr_scheduler"]["scheduler"]


def learning_rates(steps: int, per_epoch: int, accumulate: int = 1, **options: Any) -> dict[str, list[float]]:
    """Each group's learning rate in every step, and after the last."""
    optimizer, scheduler = configured(steps, per_epoch, accumulate, **options)
    lrs: dict[str, list[float]] = {group["name"]: [] for group in optimizer.param_groups}
    for _ in range(steps + 1):
        for group in optimizer.param_groups:
            lrs[group["name"]].append(group["lr"])
        optimizer.step()
        scheduler.step()
    return lrs


def test_learning_rates_fall_linearly_to_zero_each_group_from_its_own():
    lrs = learning_rates(80, 10, muon_lr=0.24, head_lr=7.0, bias_lr=3.0, whiten_bias_epochs=3)
    for name, first in [("filters", 0.24), ("head", 7.0), ("biases", 3.0)]:
        assert (lrs[name][0], lrs[name][40], lrs[name][80]) == (first, pytest.approx(first / 2), 0.0)
        assert lrs[name][20] == pytest.approx(0.75 * first)
    # the whitening bias: three epochs of ten steps
    assert (lrs["whiten"][0], lrs["whiten"][15], lrs["whiten"][30]) == (3.0, pytest.approx(1.5), 0.0)
    assert lrs["whiten"][29] > 0 and not any(lrs["whiten"][30:])


def test_learning_rates_of_the_cosine_schedule():
    lrs = learning_rates(60, 10, schedule="cosine", optimizer="sgd", lr=0.2)
    for name in ("filters", "head", "biases"):
        assert (lrs[name][0], lrs[name][30], lrs[name][60]) == (0.2, pytest.approx(0.1), pytest.approx(0, abs=1e-12))
        assert lrs[name][20] == pytest.approx(0.2 * (1 + math.cos(math.pi / 3)) / 2)


@pytest.mark.parametrize(
    "steps, per_epoch, accumulate, epochs, expected",
    [
        (25, 10, 1, 2, 20),  # --max_steps 25 stops in the third epoch
        (25, 10, 1, 3, 25),
        (40, 10, 4, 2, 6),  # three steps in an epoch, the last of two batches
        (80, 10, 1, 0, 0),
    ],
)
def test_the_whitening_bias_is_trained_for_its_epochs_however_training_ends(steps, per_epoch, accumulate, epochs, expected):
    lrs = learning_rates(steps, per_epoch, accumulate, whiten_bias_epochs=epochs)["whiten"]
    assert sum(lr > 0 for lr in lrs) == expected


def test_weight_decay_is_the_fraction_of_a_step_at_the_peak_learning_rate():
    optimizer, _ = configured(10, 10, head_lr=7.0, bias_lr=3.0, weight_decay=0.02)
    groups = {group["name"]: group for group in optimizer.param_groups}
    for name in ("head", "biases", "whiten"):
        assert groups[name]["lr"] * groups[name]["weight_decay"] == pytest.approx(0.02)
    assert groups["filters"]["weight_decay"] == 0 and groups["filters"]["muon"] and not groups["head"]["muon"]
    optimizer, _ = configured(10, 10, optimizer="sgd", lr=0.3, momentum=0.8, weight_decay=0.02)
    for group in optimizer.param_groups:
        assert (group["lr"], group["momentum"], group["weight_decay"], group["muon"]) == (0.3, 0.8, 0.02, False)


def test_the_image_size_follows_the_fraction_of_training_done():
    module = CIFAR10Module(**TINY | {"progressive_resizing": ((0.0, 20), (0.3, 24), (0.75, 32))})
    sizes = []
    for step in range(20):
        module.trainer = SimpleNamespace(global_step=step, estimated_stepping_batches=20)
        sizes.append(module.scheduled_size(32))
    assert sizes == [20] * 6 + [24] * 9 + [32] * 5
    module = CIFAR10Module(**TINY)
    module.trainer = SimpleNamespace(global_step=7, estimated_stepping_batches=20)
    assert module.scheduled_size(32) == 32
