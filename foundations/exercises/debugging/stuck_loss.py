"""Exercise stuck_loss: three trainings whose loss stands still, each for another reason."""

import random
from types import ModuleType

import torch
from torch import nn
from torch.nn import functional as F

from foundations.comparing import Failure, check_that
from foundations.exercise import Exercise
from foundations.faults import PLANTS
from foundations.trainings import (
    Run,
    Seen,
    as_probabilities,
    check_curve,
    check_seed,
    clipped,
    load_training,
    observe,
    spirals,
)

exercise = Exercise(
    title="A loss that stands still",
    level="core",
    minutes=40,
    link="common.callbacks.activations:ActivationStats",
    why="every run logs which layers are dead or saturated, and names those without living units",
    hints=(
        "A loss stands still where no gradient arrives, where nobody takes the step, or where the loss cannot go lower.",
        "Compare activations and gradients layer by layer; then the loss with its lowest value for right answers.",
        "Print for each of model.named_parameters(): requires_grad, grad.norm(), and whether it changed after a step.",
    ),
    source="torch.nn.init:calculate_gain",
    look_at="What is the gain of relu, and where does it come from? kaiming_normal_ divides it by the root of the fan.",
)

SEEDS = (21, 22)
LR = 0.02


def train(answer: ModuleType, seed: int) -> Run:
    """An observed run on data of its own."""
    x, y = spirals(480, seed, 1)
    return observe(answer, x, y, *spirals(100, seed, 2), seed, rows_of=x)


@exercise.property("the loss comes down, on held-out data too")
def falls(answer: ModuleType, rng: random.Random) -> None:
    for seed in SEEDS:
        run = train(answer, seed)
        check_that(len(run.steps) > 1, "number of steps of a torch.optim optimizer", "many", len(run.steps))
        x, y = spirals(500, seed, 3)
        with torch.no_grad():
            accuracy = (run.model(x).argmax(1) == y).float().mean().item()
        if not (accuracy > 0.8 and run.last_losses(15) < 0.65):  # torch's own init is a mend, too, and learns more slowly
            text = f"accuracy {accuracy:.2f}, loss of the last steps {run.last_losses(15):.3g}"
            reason = f"the result{symptom(run, seed, accuracy)}"
            raise Failure(reason, expected=Seen("accuracy over 0.8, loss under 0.65"), got=Seen(text))


def symptom(run: Run, seed: int, accuracy: float) -> str:
    """What one sees in a run that does not learn."""
    frozen = [name for name, value in run.model.named_parameters() if not value.requires_grad]
    if frozen:
        return f"; {frozen[0]} requires no gradient"
    if run.left_out():
        return f"; {run.left_out()[0]} is not among the optimizer's parameters"
    if is_squashed(run, seed):
        return "; the loss is that of probabilities in place of logits" + (
            ", and lr is larger" if run.steps[0].lr > 2 * LR else ""
        )
    norms = list(run.first_norms.values())
    if norms[0] < 1e-3 * norms[-1]:
        return "; the first weight's gradient is under a thousandth of the last bias's" + (
            ", and gradients are clipped" if clipped(run) else ""
        )
    if run.steps[0].norm / min(run.steps[0].scale, 1.0) > 100:
        return "; the gradient's norm in the first step is over 100"
    return "; it learns, too slowly or too unsteadily" if accuracy > 0.4 else ""


def is_squashed(run: Run, seed: int) -> bool:
    """Whether the loss of the validation is what cross_entropy gives of probabilities."""
    x, y = spirals(100, seed, 2)
    with torch.no_grad():
        probabilities = as_probabilities(run.model(x))
    reported = run.history["val/loss"][-1]
    right, squashed = F.nll_loss(probabilities.clamp(min=1e-30).log(), y), F.cross_entropy(probabilities, y)
    return abs(reported - squashed) < 1e-3 < abs(reported - right)


@exercise.property("the model and its curves")
def curves(answer: ModuleType, rng: random.Random) -> None:
    run = train(answer, SEEDS[0])
    val_x, val_y = spirals(100, SEEDS[0], 2)
    with torch.no_grad():
        probabilities = as_probabilities(run.model(val_x))
    check_that(probabilities.shape == (100, 5), "shape of model(val_x)", (100, 5), tuple(probabilities.shape))
    check_curve(run, "val/loss", F.nll_loss(probabilities.clamp(min=1e-30).log(), val_y).item())
    losses = run.history["train/loss"]
    check_that(len(losses) == len(run.steps), "entries of train/loss: one for each step", len(run.steps), len(losses))


@exercise.property("the seed decides")
def seeds(answer: ModuleType, rng: random.Random) -> None:
    check_seed(answer, *spirals(48, 1, 1), *spirals(20, 1, 2))


NAME = "stuck_loss"
SOFTMAX, IN_LOSS = PLANTS[NAME]["softmax"]
FROZEN = PLANTS[NAME]["frozen"][0]
VANISHING, EXPLODING = PLANTS[NAME]["flow"]
HIGHER = (("LR = 0.02\n", "LR = 0.05\n"),)
STEP = "            optimizer.step()"
CLIP = ((STEP, f"            nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n{STEP}"),)
OPTIMIZER = "    optimizer = torch.optim.SGD(model.parameters(),"
HEAD_ONLY = ((OPTIMIZER, "    optimizer = torch.optim.SGD(model[-1].parameters(),"),)

WRONG = {
    "As it was: the loss stops far above 0 although the answers are right. How low can it be?": SOFTMAX,
    "A higher learning rate arrives sooner at the same floor: the loss is still computed from numbers between 0 and 1.": (
        *SOFTMAX,
        *HIGHER,
    ),
    "As it was: most of the network is after the training what it was before.": FROZEN,
    "Now all parameters have gradients, and the optimizer has never been given most of them.": HEAD_ONLY,
    "As it was: print the size of each layer's activations in the first step. Where does the signal end?": VANISHING,
    "Clipping makes large gradients shorter. These are too small, from the first step on.": (*VANISHING, *CLIP),
    "As it was: the first loss is far above log(5), what a guess costs. How large are the activations of the last layer?": (
        EXPLODING
    ),
}
for message, changes in WRONG.items():
    exercise.wrong("train", message)(load_training(NAME, changes).train)

NLL = (
    *SOFTMAX,
    ("    return F.cross_entropy(model(x), y)", "    return F.nll_loss(model(x).clamp(min=1e-12).log(), y)"),
)
exercise.also_right("train")(load_training(NAME, NLL).train)
exercise.also_right("train")(load_training(NAME, ((".apply(init_weights)", ""),)).train)  # torch's own init


@exercise.also_right("train")
def with_tanh(x, y, val_x, val_y, seed):
    torch.manual_seed(seed)
    blocks = [nn.Sequential(nn.LazyLinear(32), nn.BatchNorm1d(32), nn.Tanh()) for _ in range(3)]
    net = nn.Sequential(*blocks, nn.LazyLinear(5))
    net(x[:2])
    opt = torch.optim.AdamW(net.parameters(), 0.01)
    train_losses, val_losses = [], []
    for _ in range(15):
        net.train()
        for rows in torch.randperm(len(x)).chunk(15):
            opt.zero_grad()
            value = nn.CrossEntropyLoss()(net(x[rows]), y[rows])
            value.backward()
            opt.step()
            train_losses.append(value.detach().item())
        with torch.no_grad():
            val_losses.append(F.cross_entropy(net.eval()(val_x), val_y).item())
    return net, {"train/loss": train_losses, "val/loss": val_losses}
