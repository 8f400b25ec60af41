"""Exercise image_loop: the loop that all others vary."""

import copy
import random
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from foundations.comparing import check_that
from foundations.exercise import Exercise
from foundations.instrumented import PlainSGD
from foundations.loop_checks import Data, Loop, add_loop_properties

exercise = Exercise(
    title="Image loop: train, validate, keep the best weights",
    level="core",
    minutes=30,
    link="projects.cifar10.module:CIFAR10Module",
    why="the same loop, with what Lightning does left to Lightning",
    hints=(
        "Two parts an epoch: steps in training mode, then the validation in evaluation mode. Then: is it the best so far?",
        "A step: F.cross_entropy(model(x), y), zero_grad(), backward(), step(). Orders: torch.randperm(n, generator=rng).",
        "if history[-1] == max(history): best = copy.deepcopy(model.state_dict()); at the end model.load_state_dict(best).",
    ),
    source="torch.utils.data.sampler:RandomSampler.__iter__",
    look_at="Where does the order come from if there is no generator? That is why a DataLoader's order depends on whatever "
    "used random numbers before it.",
)

CENTERS = torch.tensor([[2.0, 0, 0, 1], [0, 2, 1, 0], [-1, -1, 2, 2]])


def images_of(count: int) -> tuple[Tensor, Tensor]:
    """Images (count, 1, 2, 2) of three classes."""
    labels = torch.randint(3, (count,))
    return (CENTERS[labels] + 0.7 * torch.randn(count, 4)).reshape(count, 1, 2, 2), labels


def case(n: int, n_val: int) -> tuple[nn.Module, Data]:
    """Small network with batch normalization, and data."""
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3)), (*images_of(n), *images_of(n_val))


def accuracy(outputs: list[Tensor], targets: Tensor, train_targets: Tensor) -> float:
    """Fraction of the samples whose largest logit is that of their class."""
    return (torch.stack(outputs).argmax(1) == targets).double().mean().item()


def cross_entropy(outputs: list[Tensor], targets: list[Tensor], train_targets: Tensor) -> Tensor:
    """Mean cross-entropy."""
    return F.cross_entropy(torch.stack(outputs), torch.stack(targets))


add_loop_properties(exercise, Loop("train_images", case, accuracy, cross_entropy))


@exercise.property("digits that it has not seen")
def digits(answer: ModuleType, rng: random.Random) -> None:
    from sklearn.datasets import load_digits

    data = load_digits()
    images, labels = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16, torch.tensor(data.target)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = PlainSGD(model.parameters(), lr=0.3)
    parts = images[:600], labels[:600], images[600:800], labels[600:800]
    history = answer.train_images(model, optimizer, *parts, 5, 32, 0)
    score = (model.eval()(images[800:]).argmax(1) == labels[800:]).float().mean().item()
    check_that(score > 0.85, "accuracy on a thousand other digits", "over 0.85", score, validation=history)


def train_with(fault: str) -> Any:
    """The loop with one of the known faults."""

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
        rng, history, best = torch.Generator().manual_seed(seed), [], {}
        if fault != "trusted":
            model.train()
        if fault == "global_seeded":
            torch.manual_seed(seed)
        for _ in range(epochs):
            if fault == "seeded_anew":
                rng.manual_seed(seed)
            if fault not in ("never_train_again", "trusted"):
                model.train()
            order = torch.randperm(len(images), generator=None if fault.startswith("global") else rng)
            order = torch.arange(len(images)) if fault == "unshuffled" else order
            for index in order.split(batch_size):
                logits = model(images[index])
                loss = F.cross_entropy(logits.softmax(1) if fault == "softmax_first" else logits, labels[index])
                if fault != "kept":
                    optimizer.zero_grad()
                loss.backward()
                if fault == "cleared_late":
                    optimizer.zero_grad()
                optimizer.step()
            if fault != "train_mode":
                model.eval()
            with torch.set_grad_enabled(fault == "graph"):
                parts = [model(part).argmax(1) for part in val_images.split(batch_size)]
            pairs = zip(parts, val_labels.split(batch_size), strict=True)
            right = [part == label for part, label in pairs]
            right = right if fault == "mean_of_bools" else [part.float() for part in right]
            means = torch.stack([part.mean() for part in right])
            history.append((means.mean() if fault == "mean_of_means" else torch.cat(right).mean()).item())
            if fault == "trusted":
                model.train()
            if history[-1] == max(history):
                saved = dict(model.named_parameters()) if fault == "parameters" else model.state_dict()
                best = saved if fault == "moving" else copy.deepcopy(saved)
        model.load_state_dict(best, strict=fault != "parameters")
        return history

    return train_images


exercise.wrong("train_images", "Gradients add up until zero_grad() clears them: each step goes along all batches so far.")(
    train_with("kept")
)
exercise.wrong("train_images", "zero_grad() between backward() and step() clears what the step needs: .grad is empty.")(
    train_with("cleared_late")
)
exercise.wrong("train_images", "After the validation the model stays in evaluation mode: call train() in every epoch.")(
    train_with("never_train_again")
)
exercise.wrong(
    "train_images", "The first epoch trusts the mode that the model comes in; pretrained models come in evaluation mode."
)(train_with("trusted"))
exercise.wrong(
    "train_images", "The validation runs in training mode: batch statistics and dropout change what it measures."
)(train_with("train_mode"))
exercise.wrong("train_images", "eval() does not stop autograd: the validation still builds graphs. Use torch.no_grad().")(
    train_with("graph")
)
exercise.wrong(
    "train_images",
    "The weights at the end are the last epoch's. state_dict() keeps moving with the model: copy it, and load the copy.",
    "https://pytorch.org/tutorials/beginner/saving_loading_models.html",
)(train_with("moving"))
exercise.wrong("train_images", "Only parameters are kept; the running statistics of batch normalization are buffers.")(
    train_with("parameters")
)
exercise.wrong("train_images", "Batches of unequal size weigh the same in a mean of means: count over all samples.")(
    train_with("mean_of_means")
)
exercise.wrong("train_images", "cross_entropy takes logits; after a softmax its gradients are small and the wrong ones.")(
    train_with("softmax_first")
)
exercise.wrong("train_images", "The samples always come in the order of the data: shuffle them.")(train_with("unshuffled"))
exercise.wrong("train_images", "The order comes from torch's global generator: make one from the seed.")(
    train_with("global_order")
)
exercise.wrong(
    "train_images",
    "manual_seed() seeds the global generator, from which dropout draws too: make one for the orders.",
)(train_with("global_seeded"))
exercise.wrong(
    "train_images", "The generator is seeded anew in each epoch, and begins again with the same order: make it before them."
)(train_with("seeded_anew"))
exercise.wrong("train_images", "mean() wants floating-point numbers, and a comparison gives bools: float() before it.")(
    train_with("mean_of_bools")
)


@exercise.also_right("train_images")
def by_data_loaders(
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
    rng = torch.Generator()
    rng.manual_seed(seed)
    loader = DataLoader(TensorDataset(images, labels), batch_size, shuffle=True, generator=rng)
    val_loader = DataLoader(TensorDataset(val_images, val_labels), 2 * batch_size)
    accuracies, best = [], (-1.0, {})
    for _ in range(epochs):
        for x, y in loader:
            model.train().zero_grad(set_to_none=False)
            (-F.log_softmax(model(x), -1)[range(len(y)), y]).mean().backward()
            optimizer.step()
        right = 0
        with torch.inference_mode():
            for x, y in val_loader:
                right += int((model.eval()(x).max(1).indices == y).sum())
        accuracies.append(right / len(val_labels))
        if accuracies[-1] > best[0]:
            best = accuracies[-1], {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(best[1])
    return accuracies


@exercise.also_right("train_images")
def with_a_closure(
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
    torch.manual_seed(seed)
    orders = [torch.randperm(len(labels)).tolist() for _ in range(epochs)]
    states, history = [], []
    for order in orders:
        model.train()
        while order:
            rows, order = order[:batch_size], order[batch_size:]

            def closure(rows: list[int] = rows) -> Tensor:
                for parameter in model.parameters():
                    parameter.grad = None
                loss = nn.CrossEntropyLoss(reduction="sum")(model(images[rows]), labels[rows]) / len(rows)
                loss.backward()
                return loss

            optimizer.step(closure)
        model.eval()
        with torch.no_grad():
            history.append(float((model(val_images).argmax(-1) == val_labels).double().mean()))
        states.append(copy.deepcopy(model.state_dict()))
    model.load_state_dict(states[max(range(epochs), key=history.__getitem__)])
    return history


@exercise.also_right("train_images")
def validated_twice(
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
    """A pass over the validation data for its loss, and another one for the accuracy."""
    rng, history, losses, best = torch.Generator().manual_seed(seed), [], [], {}
    for _ in range(epochs):
        model.train()
        for rows in torch.randperm(len(labels), generator=rng).split(batch_size):
            optimizer.zero_grad()
            F.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            losses.append(F.cross_entropy(model(val_images), val_labels).item())
            right = [model(x[None]).argmax() == y for x, y in zip(val_images, val_labels, strict=True)]
        history.append(sum(map(int, right)) / len(right))
        if history.index(max(history)) == len(history) - 1:
            best = copy.deepcopy(model.state_dict())
    model.load_state_dict(best)
    return history
