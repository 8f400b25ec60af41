"""Initialization and hooks: look at what flows through a network

A forward hook sees each layer's output. With it one sees whether a deep network begins alive.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Stats = dict[str, tuple[float, float, float]]


@contextmanager
def activation_stats(model: nn.Module) -> Iterator[Stats]:
    """Context in which each forward pass records what every leaf module (one without children) gives.

    The dict that it yields holds for each leaf module's name the mean, the standard deviation (biased) and the fraction of
    entries that are exactly 0 of its last output. The model gives what it gave before; no graph is kept; afterwards no hook
    is left, also after an exception.

    Example:
        with activation_stats(model) as stats: model(x); then stats["0"] is (mean, std, zeros) of the first layer.
    """
    stats: Stats = {}
    handles = []
    for name, module in model.named_modules():
        if not list(module.children()):

            def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, name: str = name) -> None:
                values = output.detach()
                stats[name] = values.mean().item(), values.std(correction=0).item(), (values == 0).float().mean().item()

            handles.append(module.register_forward_hook(record))
    try:
        yield stats
    finally:
        for handle in handles:
            handle.remove()


def init_relu_network(model: nn.Module, rng: torch.Generator) -> None:
    """Initializes every nn.Linear, in place, for a deep network with ReLU: the activations neither die nor explode.

    Weights are normal with variance 2 / in_features (He et al., arXiv 1502.01852); biases are zeros.

    Args:
        model: Network; other modules stay as they are.
        rng: Random numbers come from it alone.
    """
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(0, (2 / module.in_features) ** 0.5, generator=rng)
                if module.bias is not None:
                    module.bias.zero_()
