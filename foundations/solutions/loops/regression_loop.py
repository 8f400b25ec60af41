"""Regression loop: standardized targets, errors in the targets' own units

The same loop with a loss for numbers. A network that begins near zero learns fastest if its targets are near zero too.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def train_regression(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    targets: Tensor,
    val_inputs: Tensor,
    val_targets: Tensor,
    epochs: int,
    batch_size: int,
    seed: int,
) -> list[float]:
    """Trains on the mean squared error to the standardized targets, and ends with the weights of the best epoch.

    The targets are standardized, (y - mean) / std, with `mean()` and `std()` of all training targets; that is what the model
    predicts. Epochs, orders, modes and the end are those of `train_images`; the best epoch has the lowest error.

    Args:
        model: Inputs (B, D) to predictions (B, 1) of the standardized target.
        optimizer: Optimizer of the model's parameters, which has made no step.
        inputs: (N, D) float.
        targets: (N,) float, in units such as dollars or degrees.
        val_inputs: (M, D) float.
        val_targets: (M,) float, in the same units.
        epochs: Number of epochs, at least 1.
        batch_size: Samples of a step; the last batch may be short.
        seed: The orders depend on it alone, not on torch's global generator: the same seed, the same orders.

    Returns:
        The root mean squared error after each epoch, over all validation samples, in the units of the targets.

    Example:
        With training targets [10, 30] (mean 20, std 14.14) a model that gives 0 predicts 20: its error for 24 is 4.
    """
    rng = torch.Generator().manual_seed(seed)
    mean, std = targets.mean(), targets.std()
    history: list[float] = []
    for _ in range(epochs):
        model.train()
        for index in torch.randperm(len(inputs), generator=rng).split(batch_size):
            loss = F.mse_loss(model(inputs[index])[:, 0], (targets[index] - mean) / std)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            predictions = torch.cat([model(batch) for batch in val_inputs.split(batch_size)])[:, 0]
        history.append((predictions * std + mean - val_targets).square().mean().sqrt().item())
        if history[-1] == min(history):
            best = copy.deepcopy(model.state_dict())
    model.load_state_dict(best)
    return history
