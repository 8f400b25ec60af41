"""Two faults at once

The training below runs without an error. Two of the twelve faults are in it. Its accuracy on held-out data decides.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HIDDEN = 32
DEPTH = 3
BATCH_SIZE = 32
EPOCHS = 6
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
        layers += [nn.Linear(HIDDEN if i else in_dim, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU()]
    layers += [nn.Dropout(0.2), nn.Linear(HIDDEN, num_classes)]
    return nn.Sequential(*layers).apply(init_weights)


def compute_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Loss of a batch, a scalar."""
    return F.cross_entropy(model(x), y)


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Fraction of samples that are classified rightly, computed in batches."""
    correct = 0
    for rows in torch.arange(len(x)).split(BATCH_SIZE):
        correct += (model(x[rows]).argmax(1) == y[rows]).sum().item()
    return correct / len(x)


def train(x: Tensor, y: Tensor, val_x: Tensor, val_y: Tensor, seed: int) -> tuple[nn.Module, dict[str, list[float]]]:
    """A classifier of points in spirals, trained on samples that lie in their file class by class.

    Args:
        x: Inputs (N, in_dim).
        y: Classes (N,).
        val_x: Inputs of the validation (M, in_dim).
        val_y: Their classes (M,).
        seed: Of the random numbers.

    Returns:
        The model as it is to be used, the loss of each step as `train/loss` and the accuracy after each epoch as
        `val/accuracy`.

    Example:
        model, history = train(x, y, val_x, val_y, 0); then model(x[:1]).argmax(1) is the class of the first sample.
    """
    torch.manual_seed(seed)
    model = make_model(x.shape[1], int(y.max()) + 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
    history: dict[str, list[float]] = {"train/loss": [], "val/accuracy": []}
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
            history["val/accuracy"].append(accuracy(model, val_x, val_y))
    return model, history
