"""A training that does not carry over

The training below runs without an error, its loss falls, and on held-out data it is of no use. One thing is wrong.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HIDDEN = 48
BATCH_SIZE = 16
EPOCHS = 14
LR = 0.01


def make_model(in_dim: int) -> nn.Module:
    """Network from inputs (N, in_dim) to forecasts (N, 1)."""
    return nn.Sequential(nn.Linear(in_dim, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU(), nn.Dropout(0.1), nn.Linear(HIDDEN, 1))


def make_pairs(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and what they are to forecast: the measurements of a day go with the yield of the next."""
    return x[:-1], y[1:]


def predict(model: nn.Module, x: Tensor) -> Tensor:
    """Forecasts of a batch."""
    return model(x)[:, 0]


def compute_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Loss of a batch, a scalar."""
    return F.mse_loss(predict(model, x), y)


def validate(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Mean squared error of the forecasts, computed in batches."""
    model.eval()
    with torch.no_grad():
        forecasts = torch.cat([predict(model, rows) for rows in x.split(BATCH_SIZE)])
        return (forecasts - y).square().mean().item()


def train(x: Tensor, y: Tensor, seed: int) -> tuple[nn.Module, dict[str, list[float]]]:
    """A forecast of tomorrow's yield from today's measurements; the last quarter of the days is held out.

    Args:
        x: Measurements of each day (N, in_dim).
        y: Yield of each day (N,).
        seed: Of the random numbers.

    Returns:
        The model as it is to be used, the loss of each step and the error after each epoch: `train/loss` and `val/loss`.

    Example:
        model, history = train(x, y, 0); then model(x[-1:]) is the forecast of the day after the last.
    """
    torch.manual_seed(seed)
    inputs, targets = make_pairs(x, y)
    cut = len(inputs) * 3 // 4
    model = make_model(x.shape[1])
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    history: dict[str, list[float]] = {"train/loss": [], "val/loss": []}
    for _ in range(EPOCHS):
        model.train()
        for rows in torch.randperm(cut).split(BATCH_SIZE):
            loss = compute_loss(model, inputs[rows], targets[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            history["train/loss"].append(loss.item())
        history["val/loss"].append(validate(model, inputs[cut:], targets[cut:]))
    return model, history
