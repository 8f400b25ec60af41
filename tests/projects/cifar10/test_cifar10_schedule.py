"""Learning rates and picture sizes at every step of a training are those worked out by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from projects.cifar10.module import CIFAR10Module
from projects.cifar10.optim import MuonSGD

TINY = {"widths": (8, 8, 8), "optimizer": "muon", "head_lr": 1.0, "bias_lr": 0.05, "schedule": "linear", "warmup": 0.0}


def configured(steps: int, per_epoch: int, accumulate: int = 1, **options: Any) -> tuple[MuonSGD, Any]:
    """The optimizer and the scheduler for a training of `steps` steps with `per_epoch` batches in an epoch."""
    module = CIFAR10Module(**{**TINY, **options})
    module.trainer = SimpleNamespace(
        estimated_stepping_batches=steps,
        num_training_batches=per_epoch,
        accumulate_grad_batches=accumulate,
        fit_loop=SimpleNamespace(setup_data=lambda: None),
    )
    made = module.configure_optimizers()
    assert made["lr_scheduler"]["interval"] == "step"
    return made["optimizer"], made["lr_scheduler"]["scheduler"]


def rates(steps: int, per_epoch: int, accumulate: int = 1, **options: Any) -> dict[str, list[float]]:
    """Each group's learning rate in every step, as shares of its first option, and after the last."""
    optimizer, scheduler = configured(steps, per_epoch, accumulate, **options)
    seen: dict[str, list[float]] = {group["name"]: [] for group in optimizer.param_groups}
    for _ in range(steps + 1):
        for group in optimizer.param_groups:
            seen[group["name"]].append(group["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_rates_fall_linearly_to_zero_each_group_from_its_own():
    seen = rates(80, 10, muon_lr=0.24, head_lr=7.0, bias_lr=3.0, whiten_bias_epochs=3)
    for name, first in [("filters", 0.24), ("head", 7.0), ("biases", 3.0)]:
        assert (seen[name][0], seen[name][40], seen[name][80]) == (first, pytest.approx(first / 2), 0.0)
        assert seen[name][20] == pytest.approx(0.75 * first)
    # the whitening bias: three epochs of ten steps
    assert (seen["whiten"][0], seen["whiten"][15], seen["whiten"][30]) == (3.0, pytest.approx(1.5), 0.0)
    assert seen["whiten"][29] > 0 and not any(seen["whiten"][30:])


def test_rates_of_the_cosine_schedule():
    seen = rates(60, 10, schedule="cosine", optimizer="sgd", lr=0.2)
    for name in ("filters", "head", "biases"):
        assert (seen[name][0], seen[name][30], seen[name][60]) == (0.2, pytest.approx(0.1), pytest.approx(0, abs=1e-12))
        assert seen[name][20] == pytest.approx(0.2 * (1 + math.cos(math.pi / 3)) / 2)


def test_rates_rise_linearly_from_a_fifth_in_the_warmup():
    seen = rates(100, 10, warmup=0.2, optimizer="sgd", lr=1.0)["head"]
    assert seen[0] == pytest.approx(0.2) and seen[10] == pytest.approx(0.6)
    assert seen[20] == pytest.approx(0.8) and seen[60] == pytest.approx(0.4) and seen[100] == 0


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
    seen = rates(steps, per_epoch, accumulate, whiten_bias_epochs=epochs)["whiten"]
    assert sum(rate > 0 for rate in seen) == expected


def test_decay_takes_the_share_that_was_asked_for():
    optimizer, _ = configured(10, 10, head_lr=7.0, bias_lr=3.0, weight_decay=0.02)
    groups = {group["name"]: group for group in optimizer.param_groups}
    for name in ("head", "biases", "whiten"):
        assert groups[name]["lr"] * groups[name]["weight_decay"] == pytest.approx(0.02)
    assert groups["filters"]["weight_decay"] == 0 and groups["filters"]["muon"] and not groups["head"]["muon"]
    optimizer, _ = configured(10, 10, optimizer="sgd", lr=0.3, momentum=0.8, weight_decay=0.02)
    for group in optimizer.param_groups:
        assert (group["lr"], group["momentum"], group["weight_decay"], group["muon"]) == (0.3, 0.8, 0.02, False)


def test_resolution_follows_its_shares_of_training():
    module = CIFAR10Module(resolutions=[(0.0, 20), (0.3, 24), (0.75, 32)], **TINY)
    sizes = []
    for step in range(20):
        module.trainer = SimpleNamespace(global_step=step, estimated_stepping_batches=20)
        sizes.append(module.current_resolution(32))
    assert sizes == [20] * 6 + [24] * 9 + [32] * 5
    assert CIFAR10Module(**TINY).current_resolution(32) == 32
