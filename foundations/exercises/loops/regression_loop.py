"""Exercise regression_loop: standardized targets, errors in their own units."""

import copy
import random
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundations.comparing import check_that
from foundations.exercise import Exercise
from foundations.instrumented import PlainSGD
from foundations.loop_checks import Data, Loop, add_loop_properties

exercise = Exercise(
    title="Regression loop: standardized targets, errors in the targets' own units",
    level="core",
    minutes=25,
    link="projects.blank.module:BlankModule",
    why="the same problem as a LightningModule, with predictions of the targets' shape",
    hints=(
        "Mean and std come from the training targets alone, once. The model's outputs (B, 1) lose their last dimension.",
        "Loss: mse(model(x)[:, 0], (y - mean) / std). Error: sqrt(mean((prediction * std + mean - y)^2)), over all.",
        "(predictions * std + mean - val_targets).square().mean().sqrt().item(); the best epoch has min(history).",
    ),
    source="torch.nn.functional:mse_loss",
    look_at="It warns where the shapes differ, then broadcasts. With (B, 1) and (B,) that is B * B differences.",
)

WEIGHTS = torch.tensor([3.0, -2.0])


def samples(count: int, shift: float) -> tuple[Tensor, Tensor]:
    """Inputs (count, 2) and targets (count,) far from 0."""
    inputs = torch.randn(count, 2)
    return inputs, 10 * (inputs @ WEIGHTS) + torch.randn(count) + shift


def case(n: int, n_val: int) -> tuple[nn.Module, Data]:
    """Linear model behind batch normalization, and data; the validation targets have another mean."""
    return nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1)), (*samples(n, 50.0), *samples(n_val, 60.0))


def rmse(outputs: list[Tensor], targets: Tensor, train_targets: Tensor) -> float:
    """Root mean squared error in the targets' units."""
    predictions = torch.stack(outputs)[:, 0] * train_targets.std() + train_targets.mean()
    return (predictions - targets).square().double().mean().sqrt().item()


def mean_squared_error(outputs: list[Tensor], targets: list[Tensor], train_targets: Tensor) -> Tensor:
    """Mean squared error to the standardized targets."""
    return (torch.stack(outputs)[:, 0] - (torch.stack(targets) - train_targets.mean()) / train_targets.std()).square().mean()


add_loop_properties(exercise, Loop("train_regression", case, rmse, mean_squared_error, higher=False, lr=0.1))


@exercise.property("patients that it has not seen")
def diabetes(answer: ModuleType, rng: random.Random) -> None:
    from sklearn.datasets import load_diabetes

    data = load_diabetes()
    inputs, targets = torch.tensor(data.data * 20, dtype=torch.float32), torch.tensor(data.target, dtype=torch.float32)
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    train, val, test = order[:250], order[250:330], order[330:]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 1))
    optimizer = PlainSGD(model.parameters(), lr=0.05)
    parts = inputs[train], targets[train], inputs[val], targets[val]
    history = answer.train_regression(model, optimizer, *parts, 12, 32, 0)
    mean, std = targets[train].mean(), targets[train].std()
    error = (model.eval()(inputs[test])[:, 0] * std + mean - targets[test]).square().mean().sqrt().item()
    constant = (mean - targets[test]).square().mean().sqrt().item()
    limit = 0.82 * constant
    check_that(error < limit, "error on other patients", f"under {limit:.1f}", error, validation=history)


def train_with(fault: str) -> Any:
    """The loop with one of the known faults."""

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
        rng, history, best = torch.Generator().manual_seed(seed), [], {}
        known = torch.cat([targets, val_targets]) if fault == "all_rows" else targets
        mean, std = known.mean(), known.std()
        if fault == "raw":
            mean, std = torch.tensor(0.0), torch.tensor(1.0)
        for _ in range(epochs):
            model.train()
            for index in torch.randperm(len(inputs), generator=rng).split(batch_size):
                y = targets[index]
                center, scale = (y.mean(), y.std()) if fault == "batch_statistics" else (mean, std)
                output = model(inputs[index])
                error = (output if fault == "every_pair" else output[:, 0]) - (y - center) / scale
                optimizer.zero_grad()
                error.square().mean().backward()
                optimizer.step()
            model.eval()
            with torch.set_grad_enabled(fault == "graph"):
                parts = [model(part)[:, 0] for part in val_inputs.split(batch_size)]
            pairs = zip(parts, val_targets.split(batch_size), strict=True)
            if fault == "standardized":
                errors = [part - (y - mean) / std for part, y in pairs]
            elif fault == "every_pair_in_validation":
                errors = [((torch.cat(parts) * std + mean)[:, None] - val_targets).flatten()]
            else:
                errors = [part * std + mean - y for part, y in pairs]
            roots = [part.square().mean().sqrt() for part in errors]
            whole = torch.cat(errors).square().mean()
            result = torch.stack(roots).mean() if fault == "mean_of_roots" else whole if fault == "no_root" else whole.sqrt()
            history.append(result.item())
            if history[-1] == min(history):
                best = model.state_dict() if fault == "moving" else copy.deepcopy(model.state_dict())
        model.load_state_dict(best)
        return history

    return train_regression


exercise.wrong(
    "train_regression",
    "(B, 1) minus (B,) is (B, B): every prediction meets every target, and torch only warns. Take the outputs' [:, 0].",
    "https://github.com/pytorch/pytorch/issues/16045",
)(train_with("every_pair"))
exercise.wrong(
    "train_regression",
    "In the validation (B, 1) minus (B,) is (B, B): each prediction meets each target. Take the outputs' [:, 0] there, too.",
)(train_with("every_pair_in_validation"))
exercise.wrong("train_regression", "eval() does not stop autograd: the validation builds graphs. Use torch.no_grad().")(
    train_with("graph")
)
exercise.wrong("train_regression", "The targets are not standardized: the outputs begin far from them, at 0.")(
    train_with("raw")
)
exercise.wrong(
    "train_regression", "Mean and std come from all targets: what validation is to measure has leaked into the training."
)(train_with("all_rows"))
exercise.wrong("train_regression", "Each batch is standardized with its own mean and std: the model learns no fixed scale.")(
    train_with("batch_statistics")
)
exercise.wrong("train_regression", "The errors are in standardized units: turn the predictions back, times std plus mean.")(
    train_with("standardized")
)
exercise.wrong("train_regression", "A mean of the batches' roots is not the root of the mean over all samples.")(
    train_with("mean_of_roots")
)
exercise.wrong("train_regression", "The root is missing: this is the mean squared error, in squared units.")(
    train_with("no_root")
)
exercise.wrong(
    "train_regression",
    "The weights at the end are the last epoch's: keep a copy of those with the lowest error, and load it.",
)(train_with("moving"))


@exercise.also_right("train_regression")
def with_lists(
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
    shuffled = random.Random(seed)
    rows, errors, saved = list(range(len(targets))), [], None
    center, scale = float(targets.mean()), float(targets.std())
    scaled = ((targets - center) / scale).unsqueeze(-1)
    for _ in range(epochs):
        shuffled.shuffle(rows)
        for start in range(0, len(rows), batch_size):
            model.train()
            part = rows[start : start + batch_size]
            nn.MSELoss()(model(inputs[part]), scaled[part]).backward()
            optimizer.step()
            optimizer.zero_grad()
        model.eval()
        with torch.no_grad():
            squares = (model(val_inputs).flatten() * scale + center - val_targets) ** 2
        errors.append(float(squares.sum() / len(squares)) ** 0.5)
        if saved is None or errors[-1] < min(errors[:-1]):
            saved = {name: value.detach().clone() for name, value in model.state_dict().items()}
    model.load_state_dict(saved)
    return errors


@exercise.also_right("train_regression")
def by_hand(
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
    generator = torch.Generator().manual_seed(seed + 1)
    std, mean = torch.std_mean(targets)
    best, history = (float("inf"), model.state_dict()), torch.zeros(epochs, dtype=torch.float64)
    for epoch in range(epochs):
        for rows in torch.rand(len(targets), generator=generator).argsort().split(batch_size):
            error = model.train()(inputs[rows])[:, 0] - (targets[rows] - mean) / std
            grads = torch.autograd.grad(error.dot(error) / len(rows), list(model.parameters()))
            for parameter, grad in zip(model.parameters(), grads, strict=True):
                parameter.grad = grad
            optimizer.step()
        with torch.no_grad():
            error = model.eval()(val_inputs)[:, 0] * std + mean - val_targets
        history[epoch] = F.mse_loss(error, torch.zeros_like(error)).sqrt()
        if history[epoch] < best[0]:
            best = history[epoch].item(), copy.deepcopy(model.state_dict())
    model.load_state_dict(best[1])
    return history.tolist()
