"""A loss that does not come down

The training below runs without an error, and its loss goes up and down. One thing is wrong. Find it and mend it.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HIDDEN = 16
BATCH_SIZE = 10
EPOCHS = 6
LR = 0.2


def make_model(in_dim: int, num_classes: int) -> nn.Module:
    """Network from inputs (N, in_dim) to logits (N, num_classes)."""
    return nn.Sequential(nn.Linear(in_dim, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, num_classes))


def compute_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Loss of a batch, a scalar."""
    return F.cross_entropy(model(x), y)


def train(x: Tensor, y: Tensor, val_x: Tensor, val_y: Tensor, seed: int) -> tuple[nn.Module, dict[str, list[float]]]:
    """A classifier, trained on samples that lie in their file class by class.

    Args:
        x: Inputs (N, in_dim).
        y: Classes (N,).
        val_x: Inputs of the validation (M, in_dim).
        val_y: Their classes (M,).
        seed: Of the random numbers.

    Returns:
        The model, and the loss of each step and of each epoch's validation: `train/loss` and `val/loss`.

    Example:
        model, history = train(x, y, val_x, val_y, 0); then model(x) are logits, and history["val/loss"] has 12 entries.
    """
    torch.manual_seed(seed)
    model = make_model(x.shape[1], int(y.max()) + 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    history: dict[str, list[float]] = {"train/loss": [], "val/loss": []}
    for _ in range(EPOCHS):
        model.train()
        order = torch.randperm(len(x))
        for rows in order.split(BATCH_SIZE):
            loss = compute_loss(model, x[rows], y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            history["train/loss"].append(loss.item())
        model.eval()
        with torch.no_grad():
            history["val/loss"].append(compute_loss(model, val_x, val_y).item())
    return model, history
