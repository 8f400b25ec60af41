"""A loss that stands still

The training below runs without an error, and its loss stays where it begins, or soon stops. One thing is wrong.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HIDDEN = 24
DEPTH = 5
BATCH_SIZE = 32
EPOCHS = 15
LR = 0.02


def init_weights(layer: nn.Module) -> None:
    """Initializes a linear layer; leaves other modules as they are."""
    if isinstance(layer, nn.Linear):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)


def make_model(in_dim: int, num_classes: int) -> nn.Module:
    """Deep network from inputs (N, in_dim) to scores (N, num_classes)."""
    layers: list[nn.Module] = []
    for i in range(DEPTH):
        layers += [nn.Linear(HIDDEN if i else in_dim, HIDDEN), nn.ReLU()]
    layers.append(nn.Linear(HIDDEN, num_classes))
    return nn.Sequential(*layers).apply(init_weights)


def compute_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Loss of a batch, a scalar."""
    return F.cross_entropy(model(x), y)


def train(x: Tensor, y: Tensor, val_x: Tensor, val_y: Tensor, seed: int) -> tuple[nn.Module, dict[str, list[float]]]:
    """A classifier of points in spirals.

    Args:
        x: Inputs (N, in_dim).
        y: Classes (N,).
        val_x: Inputs of the validation (M, in_dim).
        val_y: Their classes (M,).
        seed: Of the random numbers.

    Returns:
        The model, and the loss of each step and of each epoch's validation: `train/loss` and `val/loss`.

    Example:
        model, history = train(x, y, val_x, val_y, 0); then model(x).argmax(1) are classes.
    """
    torch.manual_seed(seed)
    model = make_model(x.shape[1], int(y.max()) + 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
    history: dict[str, list[float]] = {"train/loss": [], "val/loss": []}
    for _ in range(EPOCHS):
        model.train()
        for rows in torch.randperm(len(x)).split(BATCH_SIZE):
            loss = compute_loss(model, x[rows], y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            history["train/loss"].append(loss.item())
        model.eval()
        with torch.no_grad():
            history["val/loss"].append(compute_loss(model, val_x, val_y).item())
    return model, history
