"""Exercise network_from_scratch: twenty steps that end at torch's weights."""

import random
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from foundations.comparing import Failure, check_equal, check_that, difference
from foundations.exercise import Exercise
from foundations.modules import load_same

exercise = Exercise(
    title="A network from scratch: your layers, your loss, your optimizer, torch's numbers",
    level="challenge",
    minutes=30,
    link="projects.cifar10.module:CIFAR10Module",
    why="the same parts, with torch's layers where they are enough",
    hints=(
        "Import what you wrote: from networks.linear import Linear. The names hidden, norm and head make the state dict.",
        "forward: head(relu(norm(hidden(x)))). A step: loss, zero_grad, backward, step, in model.train().",
        "predict: remember model.training, model.eval(), argmax(1), then model.train(mode).",
    ),
    source="torch.optim:Optimizer.zero_grad",
    look_at="set_to_none is the default. What would a gradient of zeros do to Adam's averages where a layer takes no part?",
    barred=(
        "torch.nn.Linear",
        "torch.nn.modules.batchnorm._BatchNorm",
        "torch.optim.Optimizer",
        "cross_entropy",
        "batch_norm",
        "linear",
    ),
    uses=("adam", "batch_layer_norm", "cross_entropy", "linear"),
)

IN, HIDDEN, CLASSES = 4, 8, 3


class Reference(nn.Module):
    """The same network of torch.nn."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.norm, self.head = (
            nn.Linear(IN, HIDDEN, bias=False),
            nn.BatchNorm1d(HIDDEN),
            nn.Linear(HIDDEN, CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.hidden(x))))


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    """Random batches."""
    torch.manual_seed(1)
    return [(torch.randn(6, IN), torch.randint(CLASSES, (6,))) for _ in range(count)]


def pair(answer: ModuleType) -> tuple[nn.Module, nn.Module]:
    """Both networks with the same weights."""
    torch.manual_seed(0)
    return load_same(answer.Network(IN, HIDDEN, CLASSES), Reference())


@exercise.property("the network")
def network(answer: ModuleType, rng: random.Random) -> None:
    ours, theirs = pair(answer)
    for mode in (True, False):
        x = torch.randn(5, IN)
        check_equal(ours.train(mode), x, expected=theirs.train(mode)(x).detach(), rtol=1e-4, atol=1e-5)


@exercise.property("one step")
def one_step(answer: ModuleType, rng: random.Random) -> None:
    check_training(answer, 1)


@exercise.property("twenty steps")
def twenty_steps(answer: ModuleType, rng: random.Random) -> None:
    check_training(answer, 20)


def check_training(answer: ModuleType, count: int) -> None:
    """Compares losses and weights after so many steps with those of torch.nn and torch.optim."""
    ours, theirs = pair(answer)
    optimizer, data, expected = torch.optim.Adam(theirs.parameters(), lr=0.01), batches(count), []
    for x, y in data:
        loss = nn.functional.cross_entropy(theirs(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    try:
        losses = answer.train(ours.eval(), data, 0.01)
    except NotImplementedError:
        raise
    except Exception as error:
        raise Failure(f"training raises {type(error).__name__}", got=error) from error
    reason = difference(losses, expected, 1e-3, 1e-4)
    check_that(not reason, f"the losses of the batches: {reason}", expected, losses)
    got = ours.state_dict()
    for name, want in theirs.state_dict().items():
        reason = difference(got[name], want, 1e-3, 1e-5)
        check_that(not reason, f"{name} after {count} steps: {reason}", want, got[name])


@exercise.property("prediction in evaluation mode, mode restored")
def prediction(answer: ModuleType, rng: random.Random) -> None:
    for mode in (True, False):
        ours, theirs = pair(answer)
        for x, _ in batches(3):
            theirs(x)
        ours.load_state_dict(theirs.state_dict())
        ours.train(mode)
        x = 3 * torch.randn(40, IN) + 1
        classes = theirs.eval()(x).argmax(1)
        check_equal(lambda x, model=ours: answer.predict(model, x), x, expected=classes)
        check_that(ours.training is mode, "the mode of the model afterwards", mode, ours.training)
        same = difference(ours.norm.running_mean, theirs.norm.running_mean, 1e-5, 1e-6)
        check_that(not same, "prediction changes the running statistics")


def train_with(fault: str) -> Any:
    """Training with one of the known faults."""

    def train(model: nn.Module, data: list[tuple[Tensor, Tensor]], lr: float) -> list[float]:
        from networks.adam import Adam
        from networks.cross_entropy import cross_entropy

        if fault != "eval_mode":
            model.train()
        optimizer = Adam(model.parameters(), lr=lr)
        losses = []
        for x, y in data:
            optimizer = Adam(model.parameters(), lr=lr) if fault == "new_optimizer" else optimizer
            loss = cross_entropy(model(x), y)
            if fault != "kept":
                optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(cross_entropy(model(x), y).item() if fault == "loss_after" else loss.item())
        return losses

    return train


def predict_with(fault: str) -> Any:
    """Prediction with one of the known faults."""

    def predict(model: nn.Module, x: Tensor) -> Tensor:
        mode = model.training
        if fault != "train_mode":
            model.eval()
        classes = model(x).argmax(1)
        if fault != "left_in_eval":
            model.train(True if fault == "always_train" else mode)
        return classes

    return predict


exercise.wrong("train", "Gradients are not cleared between steps: they add up.")(train_with("kept"))
exercise.wrong("train", "The network trains in evaluation mode: batch normalization uses statistics that never move.")(
    train_with("eval_mode")
)
exercise.wrong("train", "A new optimizer for each batch forgets its averages.")(train_with("new_optimizer"))
exercise.wrong("train", "The loss is the one before the step; this one is of the weights after it.")(
    train_with("loss_after")
)
exercise.wrong(
    "predict", "Prediction runs in training mode: the answer depends on the other samples, and the statistics move."
)(predict_with("train_mode"))
exercise.wrong("predict", "The model is left in evaluation mode: the next epoch would train so.")(
    predict_with("left_in_eval")
)
exercise.wrong("predict", "The mode afterwards is always training; it is to be what it was.")(predict_with("always_train"))
exercise.also_right("train")(train_with(""))
exercise.also_right("predict")(predict_with(""))
