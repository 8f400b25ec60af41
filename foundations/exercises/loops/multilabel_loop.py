"""Exercise multilabel_loop: K yes-or-no problems that share a network."""

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
    title="Multi-label loop: several labels at once, each a yes or a no",
    level="core",
    minutes=20,
    link="projects.gan.losses:LOSSES",
    why="real or fake is a yes or a no on a logit: softplus(-logit) is the binary cross-entropy of a yes",
    hints=(
        "Each label is a binary problem of its own: a sigmoid for each logit, nothing that makes them sum to one.",
        "Loss: mean over N * K entries of the binary cross-entropy on the logit. A probability over 1/2 is a logit over 0.",
        "F.binary_cross_entropy_with_logits(model(x), y); ((logits > 0) == val_labels.bool()).float().mean().item()",
    ),
    source="torch._decomp.decompositions:binary_cross_entropy_with_logits",
    look_at="The loss is (1 - y) * z - logsigmoid(z): no probability is ever computed. What would log(sigmoid(-200)) be?",
)

WEIGHTS = torch.tensor([[2.0, -1.0, 1.0, 0.5], [1.0, 2.0, -2.0, 0.5]])  # (D, K)


def samples(count: int) -> tuple[Tensor, Tensor]:
    """Inputs (count, 2) and labels (count, 4)."""
    inputs = torch.randn(count, 2)
    return inputs, (inputs @ WEIGHTS + torch.tensor([0.0, 0.5, 0.0, -1.0]) > 0).float()


def case(n: int, n_val: int) -> tuple[nn.Module, Data]:
    """Linear model behind batch normalization, and data."""
    return nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 4)), (*samples(n), *samples(n_val))


def accuracy(outputs: list[Tensor], targets: Tensor, train_targets: Tensor) -> float:
    """Fraction of the entries that are right."""
    return ((torch.stack(outputs) > 0) == (targets > 0.5)).double().mean().item()


def binary_cross_entropy(outputs: list[Tensor], targets: list[Tensor], train_targets: Tensor) -> Tensor:
    """Mean over all entries."""
    z, y = torch.stack(outputs), torch.stack(targets)
    return (F.softplus(z) - y * z).mean()


add_loop_properties(exercise, Loop("train_multilabel", case, accuracy, binary_cross_entropy, lr=2.0))


@exercise.property("samples that it has not seen")
def unseen(answer: ModuleType, rng: random.Random) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 4))
    optimizer = PlainSGD(model.parameters(), lr=1.0)
    history = answer.train_multilabel(model, optimizer, *samples(300), *samples(100), 6, 20, 0)
    inputs, labels = samples(500)
    score = ((model.eval()(inputs) > 0) == labels.bool()).float().mean().item()
    check_that(score > 0.92, "accuracy of the labels of other samples", "over 0.92", score, validation=history)


def train_with(fault: str) -> Any:
    """The loop with one of the known faults."""

    def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
        if fault == "softmax":
            return F.binary_cross_entropy(logits.softmax(1), labels)
        if fault == "cross_entropy":
            return F.cross_entropy(logits, labels)
        if fault == "sum_of_labels":
            return F.binary_cross_entropy_with_logits(logits, labels, reduction="sum") / len(logits)
        return F.binary_cross_entropy_with_logits(logits.sigmoid() if fault == "sigmoid_first" else logits, labels)

    def metric(logits: Tensor, labels: Tensor) -> float:
        right = (logits > (0.5 if fault == "half" else 0)) == labels.bool()
        if fault == "argmax":
            right = F.one_hot(logits.argmax(1), labels.shape[1]).bool() == labels.bool()
        right = right.all(1) if fault == "exact_match" else right
        return right.float().mean().item()

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
        rng, history, best = torch.Generator().manual_seed(seed), [], {}
        for _ in range(epochs):
            model.train()
            for index in torch.randperm(len(inputs), generator=rng).split(batch_size):
                optimizer.zero_grad()
                loss_of(model(inputs[index]), labels[index]).backward()
                optimizer.step()
            model.eval()
            with torch.no_grad():
                history.append(metric(model(val_inputs), val_labels))
            if history[-1] == max(history):
                best = model.state_dict() if fault == "moving" else copy.deepcopy(model.state_dict())
        model.load_state_dict(best)
        return history

    return train_multilabel


exercise.wrong(
    "train_multilabel", "A softmax makes the labels compete: their probabilities sum to one. Use a sigmoid for each."
)(train_with("softmax"))
exercise.wrong(
    "train_multilabel",
    "cross_entropy is for one class of K: with several labels it takes them for a distribution that sums to more than one.",
)(train_with("cross_entropy"))
exercise.wrong("train_multilabel", "A sigmoid, then a loss that takes logits: the sigmoid is applied twice.")(
    train_with("sigmoid_first")
)
exercise.wrong("train_multilabel", "The loss sums over the labels: the mean is over all entries, samples times labels.")(
    train_with("sum_of_labels")
)
exercise.wrong("train_multilabel", "argmax predicts one label for each sample, but a sample may have none, or several.")(
    train_with("argmax")
)
exercise.wrong("train_multilabel", "This is the exact match: a sample counts only if all of its labels are right.")(
    train_with("exact_match")
)
exercise.wrong(
    "train_multilabel", "The threshold 0.5 belongs to probabilities; a logit is over 0 where those are over 0.5."
)(train_with("half"))
exercise.wrong(
    "train_multilabel", "The weights at the end are the last epoch's: keep a copy of the best state dict, and load it."
)(train_with("moving"))


@exercise.also_right("train_multilabel")
def label_by_label(
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
    shuffled, history, saved = random.Random(f"order {seed}"), [], {}
    for _ in range(epochs):
        rows = shuffled.sample(range(len(inputs)), len(inputs))
        for start in range(0, len(rows), batch_size):
            x, y = inputs[rows[start : start + batch_size]], labels[rows[start : start + batch_size]]
            model.train()
            probability = torch.sigmoid(model(x))
            losses = [nn.BCELoss()(probability[:, k], y[:, k]) for k in range(y.shape[1])]
            optimizer.zero_grad(set_to_none=False)
            torch.stack(losses).mean().backward()
            optimizer.step()
        with torch.no_grad():
            predicted = model.eval()(val_inputs).sigmoid().round()
        history.append(1 - float((predicted - val_labels).abs().mean()))
        if not saved or history[-1] > max(history[:-1]):
            saved = copy.deepcopy(model.state_dict())
    model.load_state_dict(saved)
    return history


@exercise.also_right("train_multilabel")
def with_generators(
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
    def epoch(number: int) -> float:
        model.train()
        rng = torch.Generator().manual_seed(1000 * seed + number)
        for rows in torch.randperm(len(labels), generator=rng).split(batch_size):
            signs = 2 * labels[rows] - 1
            loss = F.softplus(-signs * model(inputs[rows])).mean()
            model.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.inference_mode():
            right = [torch.eq(model(x[None])[0].gt(0), y.gt(0)) for x, y in zip(val_inputs, val_labels, strict=True)]
        return torch.stack(right).double().mean().item()

    states, history = [], []
    for number in range(epochs):
        history.append(epoch(number))
        states.append({name: value.clone() for name, value in model.state_dict().items()})
    model.load_state_dict(states[history.index(max(history))])
    return history
