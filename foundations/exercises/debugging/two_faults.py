"""Exercise two_faults: two faults in one training."""

import copy
import random
from types import ModuleType

import torch
from torch import nn
from torch.nn import functional as F

from foundations.comparing import Failure, check_that
from foundations.exercise import Exercise
from foundations.faults import PLANTS
from foundations.trainings import Run, Seen, as_probabilities, check_seed, load_training, observe, spirals, unshuffled

exercise = Exercise(
    title="Two faults at once",
    level="challenge",
    minutes=45,
    link="common.debug.overfit:overfit_one_batch",
    why="the first question to any capstone: `--debug overfit`, before the long training",
    hints=(
        "One fault hides the other. Mend what you are sure of, then look at the new curve as if it were another training.",
        "In order: the right gradient, of a mixed batch, of the right loss, for all parameters? In which mode?",
        "Set EPOCHS = 1 and one batch, and print for each step: y[rows], loss, grad.norm(), requires_grad, model.training.",
    ),
    source="torch.nn:Module.train",
    look_at="What does eval() do besides train(False)? Which layers look at self.training, and which functions do not?",
)

SEEDS = (51, 52)
LR = 0.02


def train(answer: ModuleType, seed: int) -> Run:
    """An observed run on data of its own."""
    x, y = spirals(480, seed, 1)
    return observe(answer, x, y, *spirals(100, seed, 2), seed, rows_of=x)


def accuracy(model: nn.Module, seed: int, part: int, samples: int) -> float:
    """Accuracy in small batches, in the order of the classes; the model's mode is what it is."""
    x, y = spirals(samples, seed, part)
    mode, buffers = model.training, {name: value.clone() for name, value in model.named_buffers()}
    with torch.no_grad():
        answers = torch.cat([model(rows).argmax(1) for rows in x.split(20)])
        for name, value in model.named_buffers():
            value.copy_(buffers[name])
    model.train(mode)
    return (answers == y).float().mean().item()


@exercise.property("the accuracy on held-out data, and what the training says of it")
def held_out(answer: ModuleType, rng: random.Random) -> None:
    for seed in SEEDS:
        run = train(answer, seed)
        check_that(len(run.steps) > 1, "number of steps of a torch.optim optimizer", "many", len(run.steps))
        got = accuracy(run.model, seed, 3, 500)
        losses = run.last_losses(15)
        if not (got > 0.95 and losses < 0.75):
            text = f"accuracy {got:.3f}, loss of the last steps {losses:.2f}"
            raise Failure(
                f"the result{symptom(run, seed)}", expected=Seen("accuracy over 0.95, loss under 0.75"), got=Seen(text)
            )
        still = sum(not step.training for step in run.steps)
        text = f"{still} of {len(run.steps)}"
        check_that(not still, "steps in which a part of the model is in evaluation mode", 0, Seen(text))
        reported = run.history.get("val/accuracy", [float("nan")])[-1]
        exact = accuracy(run.model.eval(), seed, 2, 100)
        check_that(abs(reported - exact) < 1e-4, "the last val/accuracy, and the model's", exact, Seen(f"{reported:.3f}"))


@exercise.property("the model and its curves")
def curves(answer: ModuleType, rng: random.Random) -> None:
    run = train(answer, SEEDS[0])
    shape = tuple(run.model.eval()(torch.zeros(1, 2)).shape)
    check_that(shape == (1, 5), "shape of model(x) for one sample", (1, 5), shape)
    losses = run.history.get("train/loss", [])
    check_that(len(losses) == len(run.steps), "entries of train/loss: one for each step", len(run.steps), len(losses))


def symptom(run: Run, seed: int) -> str:
    """How many of the faults are seen, and what was changed besides."""
    y = spirals(480, seed, 1)[1]
    count = sum(
        (
            min(step.similarity for step in run.steps[1:]) < 0.9,
            unshuffled(run, y),
            is_squashed(run, seed),
            any(training for _, training in run.evaluations) or run.model.training,
            bool(run.left_out()),
        )
    )
    changed = ""
    if sum(p.numel() for p in run.model.parameters()) != 2565:
        changed = ", and the network is another"
    elif run.steps[0].lr != LR:
        changed = ", and lr is another"
    return f"; faults that are left: {count}{changed}" if count else changed


def is_squashed(run: Run, seed: int) -> bool:
    """Whether the loss of the first step is rather that of probabilities taken as logits: no other fault changes it."""
    x, y = spirals(480, seed, 1)
    rows, reported = run.steps[0].rows, run.history["train/loss"][0]
    if (rows < 0).any() or run.beginning is None:
        return False
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        outputs = [as_probabilities(copy.deepcopy(run.beginning)(x[rows])) for _ in range(20)]  # dropout is on
    losses = [(F.nll_loss(p.clamp(min=1e-30).log(), y[rows]), F.cross_entropy(p, y[rows])) for p in outputs]
    right, squashed = torch.tensor(losses).mean(0).tolist()
    return abs(reported - squashed) < abs(reported - right)


@exercise.property("the seed decides")
def seeds(answer: ModuleType, rng: random.Random) -> None:
    check_seed(answer, *spirals(48, 1, 1), *spirals(20, 1, 2))


NAME = "two_faults"
PLANT = {name: changes[0] for name, changes in PLANTS[NAME].items()}
TUNED = (("LR = 0.02\n", "LR = 0.005\n"),)
REPLACED = (("HIDDEN = 32\n", "HIDDEN = 64\n"),)

# Each is said of every pair, whichever of the two is left: no word of how the loss moved, nor of where to look.
WRONG = {
    "As it was: both are in it. Begin with the smallest things: the rows of one batch, one step on it, one evaluation.": (
        *PLANT["zero_grad"],
        *PLANT["softmax"],
    ),
    "One is found, the other is left, and its curve may look worse than before. Look at it as if it were a new training.": (
        PLANT["softmax"]
    ),
    "Another network meets the same fault. Put the old one back: then what you change next is the only change.": (
        *PLANT["no_shuffle"],
        *REPLACED,
    ),
    "The learning rate is tuned around the fault that is left. Put it back: it hides what the curve would show.": (
        *PLANT["zero_grad"],
        *TUNED,
    ),
}
for message, changes in WRONG.items():
    exercise.wrong("train", message)(load_training(NAME, changes).train)

LOG = ("    return F.cross_entropy(model(x), y)", "    return F.nll_loss(model(x).log_softmax(1), y)")
CLEARED = ("            optimizer.zero_grad()\n", "            model.zero_grad(set_to_none=False)\n")
exercise.also_right("train")(load_training(NAME, (LOG, CLEARED)).train)


@exercise.also_right("train")
def by_loader(x, y, val_x, val_y, seed):
    torch.manual_seed(seed)
    layers = [nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5)]
    net = nn.Sequential(*layers)
    opt = torch.optim.Adam(net.parameters(), 0.01)
    data = torch.utils.data.TensorDataset(x, y)
    curves = {"train/loss": [], "val/accuracy": []}
    for _ in range(10):
        for a, b in torch.utils.data.DataLoader(data, 32, shuffle=True):
            opt.zero_grad()
            loss = nn.CrossEntropyLoss()(net(a), b)
            loss.backward()
            opt.step()
            curves["train/loss"].append(loss.item())
        with torch.no_grad():
            curves["val/accuracy"].append((net(val_x).argmax(1) == val_y).float().mean().item())
    return net, curves
