"""Exercise batch_layer_norm: two normalizations and their traps."""

import random
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from foundations.comparing import check_equal, check_that, difference
from foundations.exercise import Exercise
from foundations.modules import check_gradients_of, check_state_dict, load_same

exercise = Exercise(
    title="Batch normalization and layer normalization: mean 0 and variance 1, over the batch or over the features",
    level="core",
    minutes=30,
    link="projects.cifar10.networks:SpeedBlock",
    why="every convolution of the network is followed by a batch normalization",
    hints=(
        "Batch: mean and variance over all dimensions but the channels. Layer: over the last dimension of each vector.",
        "y = (x - mean) / sqrt(var + eps) * weight + bias, var biased; running = (1 - momentum) running + momentum new.",
        "The running variance takes var * n / (n - 1); buffers by register_buffer, updated under no_grad.",
    ),
    source="torch._decomp.decompositions:native_batch_norm_helper",
    look_at="Find the line with n / (n - 1): the running variance is unbiased, the one that normalizes is not.",
    barred=(
        *("batch_norm", "layer_norm", "group_norm", "instance_norm", "native_layer_norm", "native_batch_norm", "rms_norm"),
        *("torch.nn.LayerNorm", "torch.nn.GroupNorm", "torch.nn.modules.batchnorm._BatchNorm", "torch.nn.RMSNorm"),
    ),
)


@exercise.property("state dicts")
def state_dicts(answer: ModuleType, rng: random.Random) -> None:
    check_state_dict(answer.BatchNorm(3), nn.BatchNorm1d(3))
    check_state_dict(answer.LayerNorm(3), nn.LayerNorm(3))


@exercise.property("layer normalization")
def layer(answer: ModuleType, rng: random.Random) -> None:
    for shape in [(1, 2), (2, 3), (3, 3), (2, 2, 4), (0, 3)]:
        reference = nn.LayerNorm(shape[-1])
        nn.init.normal_(reference.weight)
        nn.init.normal_(reference.bias)
        ours, theirs = load_same(answer.LayerNorm(shape[-1]), reference)
        x = 2 * torch.randn(shape) + 1
        check_equal(ours, x, expected=theirs(x).detach(), rtol=1e-4)
    x = 1e-3 * torch.randn(2, 3)
    check_equal(answer.LayerNorm(3), x, expected=nn.LayerNorm(3)(x).detach(), rtol=1e-4)
    check_gradients_of(*load_same(answer.LayerNorm(4), nn.LayerNorm(4)), torch.randn(3, 4))


@exercise.property("batch normalization in training")
def training(answer: ModuleType, rng: random.Random) -> None:
    for shape in [(2, 1), (3, 2), (3, 3), (2, 3, 2, 2), (2, 2, 3, 4)]:
        ours, theirs = load_same(
            answer.BatchNorm(shape[1]), (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(shape[1])
        )
        x = 2 * torch.randn(shape) + 1
        check_equal(ours, x, expected=theirs(x).detach(), rtol=1e-3, atol=1e-5)
    check_gradients_of(*load_same(answer.BatchNorm(2), nn.BatchNorm2d(2)), torch.randn(3, 2, 2, 2), rtol=1e-5)


@exercise.property("running statistics")
def running(answer: ModuleType, rng: random.Random) -> None:
    settings: list[tuple[tuple[int, ...], dict[str, float]]] = [
        ((4, 2), {}),
        ((4, 2), {"momentum": 0.3}),
        ((4, 2, 3, 4), {}),
    ]
    for shape, options in settings:
        ours = answer.BatchNorm(2, **options)
        theirs = (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(2, **options)
        for _ in range(3):
            x = 2 * torch.randn(shape) + 1
            ours(x)
            theirs(x)
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            got, want = ours.state_dict()[name], theirs.state_dict()[name]
            reason = difference(got, want, 1e-4, 1e-5)
            check_that(not reason, f"{name} after three batches {shape}: {reason}", want, got, **options)


@exercise.property("evaluation")
def evaluation(answer: ModuleType, rng: random.Random) -> None:
    reference = nn.BatchNorm2d(2)
    for _ in range(2):
        reference(torch.randn(3, 2, 2, 2) + 1)
    nn.init.normal_(reference.weight)
    ours, theirs = load_same(answer.BatchNorm(2), reference)
    before = {name: value.clone() for name, value in ours.eval().state_dict().items()}
    x = torch.randn(1, 2, 2, 2)
    check_equal(ours, x, expected=theirs.eval()(x).detach(), rtol=1e-4)
    check_that(
        all(torch.equal(before[name], value) for name, value in ours.state_dict().items()),
        "evaluation changes the statistics",
    )


def batch_norm(**faults: Any) -> type:
    """Batch normalization with one of the known faults."""

    class BatchNorm(nn.Module):
        def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
            super().__init__()
            self.eps, self.momentum = eps, momentum
            self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
            start = {
                "running_mean": torch.zeros(channels),
                "running_var": torch.ones(channels),
                "num_batches_tracked": torch.tensor(0),
            }
            for name, value in start.items():
                if faults.get("plain"):
                    setattr(self, name, value)
                else:
                    self.register_buffer(name, value)

        def forward(self, x: Tensor) -> Tensor:
            dims = [0] if faults.get("each_pixel") else [0, *range(2, x.ndim)]
            if self.training or faults.get("batch_always"):
                mean, var = x.mean(dims, keepdim=True), x.var(dims, correction=faults.get("correction", 0), keepdim=True)
                n = len(x) if faults.get("samples_counted") else x.numel() / x.shape[1]
                with torch.no_grad():
                    m = 1 - self.momentum if faults.get("turned") else self.momentum
                    unbiased = var * (1 if faults.get("biased_running") else n / (n - 1))
                    if not faults.get("each_pixel"):
                        self.running_mean += m * (mean.flatten() - self.running_mean)
                        self.running_var += m * (unbiased.flatten() - self.running_var)
                    self.num_batches_tracked += 1
            else:
                mean, var = self.running_mean, self.running_var
            shape = (-1,) + (1,) * (x.ndim - 2)
            if mean.ndim == 1:
                mean, var = mean.view(shape), var.view(shape)
            return (x - mean) / (var + self.eps).sqrt() * self.weight.view(shape) + self.bias.view(shape)

    return BatchNorm


def layer_norm(fault: str = "") -> type:
    """Layer normalization with one of the known faults."""

    class LayerNorm(nn.Module):
        def __init__(self, features: int, eps: float = 1e-5) -> None:
            super().__init__()
            self.eps = eps
            self.weight, self.bias = nn.Parameter(torch.ones(features)), nn.Parameter(torch.zeros(features))

        def forward(self, x: Tensor) -> Tensor:
            dim = 0 if fault == "batch" else -1
            centered = x - x.mean(dim, keepdim=True)
            var = x.var(dim, correction=1 if fault == "unbiased" else 0, keepdim=True)
            scale = var.sqrt() + self.eps if fault == "eps_outside" else (var + self.eps).sqrt()
            return centered / scale * self.weight + self.bias

    return LayerNorm


exercise.wrong("BatchNorm", "The running variance is torch's unbiased one, n / (n - 1) times that of the batch.")(
    batch_norm(biased_running=True)
)
exercise.wrong("BatchNorm", "The n of n / (n - 1) counts all values of a channel: of images N * H * W, not N.")(
    batch_norm(samples_counted=True)
)
exercise.wrong("BatchNorm", "torch's momentum is the weight of the new value, 0.1, not of the old.")(batch_norm(turned=True))
exercise.wrong(
    "BatchNorm", "The running statistics are plain tensors: they are not saved, nor moved to a GPU. register_buffer."
)(batch_norm(plain=True))
exercise.wrong("BatchNorm", "The batch is normalized with the unbiased variance; torch takes the biased one there.")(
    batch_norm(correction=1)
)
exercise.wrong(
    "BatchNorm", "In evaluation the running statistics are used, not the batch's: one sample must give an answer on its own."
)(batch_norm(batch_always=True))
exercise.wrong("BatchNorm", "Each pixel is normalized on its own: a channel's mean is over batch, height and width.")(
    batch_norm(each_pixel=True)
)
exercise.wrong("LayerNorm", "var is unbiased unless you give it correction=0.")(layer_norm("unbiased"))
exercise.wrong("LayerNorm", "eps belongs under the root: beside it, small vectors come out differently.")(
    layer_norm("eps_outside")
)
exercise.wrong("LayerNorm", "The mean is over the batch: each vector is normalized by itself, over its last dimension.")(
    layer_norm("batch")
)
exercise.also_right("BatchNorm")(batch_norm())
exercise.also_right("LayerNorm")(layer_norm())
