"""Image loop: train, validate, keep the best weights

The loop that all others vary: batches in a new order, a step for each, then the validation, which decides what is kept.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def train_images(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    val_images: Tensor,
    val_labels: Tensor,
    epochs: int,
    batch_size: int,
    seed: int,
) -> list[float]:
    """Trains on the mean cross-entropy of each batch, and ends with the weights of the best epoch.

    Each epoch has every training image once, in a new order and in training mode, whatever mode the model comes in. Then the
    validation, in evaluation mode and without a graph. The last batch may be short. At the end the model has the state dict
    of the epoch with the highest accuracy.

    Args:
        model: Images (B, C, H, W) to logits (B, K).
        optimizer: Optimizer of the model's parameters, which has made no step.
        images: (N, C, H, W) float.
        labels: (N,) int64.
        val_images: (M, C, H, W) float.
        val_labels: (M,) int64.
        epochs: Number of epochs, at least 1.
        batch_size: Images of a step.
        seed: The orders depend on it alone, not on torch's global generator: the same seed, the same orders.

    Returns:
        The validation accuracy after each epoch, over all validation images.

    Example:
        With N = 10, batch_size = 4 and epochs = 2 there are six steps, of 4, 4, 2 and 4, 4, 2 images.
    """
    rng = torch.Generator().manual_seed(seed)
    history: list[float] = []
    for _ in range(epochs):
        model.train()
        for index in torch.randperm(len(images), generator=rng).split(batch_size):
            loss = F.cross_entropy(model(images[index]), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            logits = torch.cat([model(batch) for batch in val_images.split(batch_size)])
        history.append((logits.argmax(1) == val_labels).float().mean().item())
        if history[-1] == max(history):
            best = copy.deepcopy(model.state_dict())
    model.load_state_dict(best)
    return history
