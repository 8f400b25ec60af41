"""Multi-label loop: several labels at once, each a yes or a no

No class excludes another: K binary problems that share a network.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def train_multilabel(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    labels: Tensor,
    val_inputs: Tensor,
    val_labels: Tensor,
    epochs: int,
    batch_size: int,
    seed: int,
) -> list[float]:
    """Trains on the mean binary cross-entropy of all labels, and ends with the weights of the best epoch.

    A label is predicted if its probability is over one half. Epochs, orders, modes and the end are those of `train_images`.

    Args:
        model: Inputs (B, D) to logits (B, K), one for each label.
        optimizer: Optimizer of the model's parameters, which has made no step.
        inputs: (N, D) float.
        labels: (N, K) float, 0 or 1; a sample has any number of them.
        val_inputs: (M, D) float.
        val_labels: (M, K) float.
        epochs: Number of epochs, at least 1.
        batch_size: Samples of a step; the last batch may be short.
        seed: The orders depend on it alone, not on torch's global generator: the same seed, the same orders.

    Returns:
        The validation accuracy of the labels after each epoch: the fraction of all M * K entries that are right.

    Example:
        Logits [[2, -1, 0.5]] for labels [[1, 0, 0]]: two of three entries are right, so the accuracy is 0.667.
    """
    rng = torch.Generator().manual_seed(seed)
    history: list[float] = []
    for _ in range(epochs):
        model.train()
        for index in torch.randperm(len(inputs), generator=rng).split(batch_size):
            loss = F.binary_cross_entropy_with_logits(model(inputs[index]), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            logits = torch.cat([model(batch) for batch in val_inputs.split(batch_size)])
        history.append(((logits > 0) == val_labels.bool()).float().mean().item())
        if history[-1] == max(history):
            best = copy.deepcopy(model.state_dict())
    model.load_state_dict(best)
    return history
