"""Exercise unstable_loss: three trainings whose loss goes up and down, each for another reason."""

import random
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional as F

from foundations.comparing import Failure, check_that
from foundations.exercise import Exercise
from foundations.faults import PLANTS
from foundations.trainings import (
    Run,
    Seen,
    check_curve,
    check_seed,
    clipped,
    load_training,
    observe,
    sorted_clusters,
    unshuffled,
)

exercise = Exercise(
    title="A loss that does not come down",
    level="core",
    minutes=40,
    link="common.callbacks.gradients:GradientMonitor",
    why="every run logs the gradient norm before each step, and stops where it is not finite",
    hints=(
        "Follow one step: which samples are in its batch, which gradient is in .grad, how far does lr carry the weights?",
        "grad(step) = gradient of this batch, and nothing of the batches before; a batch looks like the whole data.",
        "Print next(model.parameters()).grad.norm() and y[rows] in each step, and compare a step with the one before.",
    ),
    source="torch.optim:Optimizer.zero_grad",
    look_at="What becomes of the gradients with set_to_none? Who calls this function, if you do not?",
)

SEEDS = (11, 12)
BATCH_SIZE, LR = 10, 0.2


def train(answer: ModuleType, seed: int) -> Run:
    """An observed run on data of its own."""
    x, y = sorted_clusters(400, seed, 1)
    return observe(answer, x, y, *sorted_clusters(100, seed, 2), seed, rows_of=x)


@exercise.property("the model and its curves")
def curves(answer: ModuleType, rng: random.Random) -> None:
    run = train(answer, SEEDS[0])
    val_x, val_y = sorted_clusters(100, SEEDS[0], 2)
    with torch.no_grad():
        logits = run.model(val_x)
    check_that(logits.shape == (100, 4), "shape of model(val_x)", (100, 4), tuple(logits.shape))
    check_curve(run, "val/loss", F.cross_entropy(logits, val_y).item())
    losses = run.history["train/loss"]
    check_that(len(losses) == len(run.steps), "entries of train/loss: one for each step", len(run.steps), len(losses))


@exercise.property("the steps, and the loss on held-out data")
def steps(answer: ModuleType, rng: random.Random) -> None:
    for seed in SEEDS:
        run = train(answer, seed)
        check_that(len(run.steps) > 1, "number of steps of a torch.optim optimizer", "many", len(run.steps))
        check_gradients(run)
        check_batches(run, sorted_clusters(400, seed, 1)[1])
        check_result(run, *sorted_clusters(500, seed, 3))


def check_gradients(run: Run) -> None:
    """Checks that each step takes the gradient of its batch alone, scaled or not."""
    lowest = min(step.similarity for step in run.steps[1:40])
    if lowest < 0.9:
        smaller = ", and lr is smaller" if run.steps[0].lr < LR / 2 else ""
        text = f"cosine between the step's gradient and its batch's: {lowest:.2f}"
        raise Failure(f"the gradient of a step is not that of its batch{smaller}", expected=1, got=Seen(text))


def check_batches(run: Run, y: Tensor) -> None:
    """Checks that the batches are mixed."""
    if unshuffled(run, y):
        larger = ", and the batches are larger" if len(run.steps[0].rows) > BATCH_SIZE else ""
        classes = ", ".join(str(y[step.rows].unique().tolist()) for step in run.steps[:4])
        raise Failure(f"the batches do not look like the data{larger}", got=Seen(f"classes in the first batches: {classes}"))


def check_result(run: Run, x: Tensor, y: Tensor) -> None:
    """Checks the loss on held-out data."""
    with torch.no_grad():
        loss = F.cross_entropy(run.model(x), y).item()
    if not loss < 0.42:
        lr = run.steps[0].lr
        reason = "the loss on held-out data"
        if lr > 5 * LR:
            reason += "; lr is over 1" + (", and the gradients are clipped" if clipped(run) else "")
        elif lr > 2.5 * LR:
            reason += "; lr is over 0.5"
        elif lr < LR / 5:
            reason += "; lr is under 0.04"
        raise Failure(reason, expected=Seen("about 0.3"), got=Seen(f"{loss:.3g}"))


@exercise.property("the seed decides")
def seeds(answer: ModuleType, rng: random.Random) -> None:
    check_seed(answer, *sorted_clusters(48, 1, 1), *sorted_clusters(20, 1, 2))


FAULTS = {name: changes[-1] for name, changes in PLANTS["unstable_loss"].items()}
LOWER = (("LR = 0.2\n", "LR = 0.01\n"),)
CLIP = (
    (
        "            optimizer.step()",
        "            nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n            optimizer.step()",
    ),
)
LARGER = (("BATCH_SIZE = 10\n", "BATCH_SIZE = 80\n"),)

WRONG = {
    "As it was: the gradient of a step grows from step to step, though its batch's does not. What else is in .grad?": FAULTS[
        "zero_grad"
    ],
    "A lower learning rate makes the curve smoother. The gradients of all earlier batches are still in the step.": (
        *FAULTS["zero_grad"],
        *LOWER,
    ),
    "As it was: single steps carry the weights far beyond the minimum. Compare the step's length with the weights.": FAULTS[
        "lr"
    ],
    "Clipping bounds the gradient, and lr multiplies what is left: the steps are still longer than the weights.": (
        *FAULTS["lr"],
        *CLIP,
    ),
    "It is lower than it was, and single steps still carry the weights beyond the minimum: go on in this direction.": (
        ("LR = 0.2\n", "LR = 1.0\n"),
    ),
    "Now it is smooth and too slow: with so small a learning rate the training ends long before the minimum.": (
        ("LR = 0.2\n", "LR = 0.002\n"),
    ),
    "As it was: look at the classes within one batch, and within the batches around it.": FAULTS["no_shuffle"],
    "Larger batches of sorted samples hide the wave, and there are fewer steps: the order is still that of the file.": (
        *FAULTS["no_shuffle"],
        *LARGER,
    ),
}
for message, changes in WRONG.items():
    exercise.wrong("train", message)(load_training("unstable_loss", changes).train)

ORDER = "            optimizer.zero_grad()\n            loss.backward()\n"
for arguments in ("", "set_to_none=False"):
    CLEARS = f"            loss.backward()\n            optimizer.zero_grad({arguments})\n"
    exercise.wrong(
        "train", "zero_grad stands between backward and step: it clears the gradient before the step can take it."
    )(load_training("unstable_loss", ((ORDER, CLEARS),)).train)


@exercise.also_right("train")
def with_a_loader(x: Tensor, y: Tensor, val_x: Tensor, val_y: Tensor, seed: int):
    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Linear(5, 24), torch.nn.Tanh(), torch.nn.Linear(24, 4))
    opt = torch.optim.Adam(net.parameters(), lr=0.01)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), 16, shuffle=True)
    curves = {"train/loss": [], "val/loss": []}
    for _ in range(8):
        for xb, yb in loader:
            loss = -torch.log_softmax(net(xb), 1).gather(1, yb[:, None]).mean()
            loss.backward()
            opt.step()
            net.zero_grad()
            curves["train/loss"] += [float(loss)]
        with torch.inference_mode():
            curves["val/loss"] += [float(F.cross_entropy(net(val_x), val_y))]
    return net, curves


CLEARED = (
    ("            optimizer.zero_grad()\n", "            for p in model.parameters():\n                p.grad = None\n"),
)
exercise.also_right("train")(load_training("unstable_loss", (*CLEARED, ("LR = 0.2\n", "LR = 0.1\n"), *CLIP)).train)
