"""Exercise wont_generalize: three trainings that are of no use on held-out data, each for another reason."""

import copy
import random
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foundations.comparing import Failure, check_that
from foundations.exercise import Exercise
from foundations.faults import PLANTS
from foundations.trainings import Run, Seen, check_curve, check_seed, days, load_training, observe

exercise = Exercise(
    title="A training that does not carry over",
    level="core",
    minutes=40,
    link="common.debug.overfit:overfit_one_batch",
    why="`--debug overfit` asks first whether a network can learn a single batch",
    hints=(
        "Ask in turn: does each input stand beside its own target, does the loss compare them one by one, in which mode?",
        "The loss is the mean of (forecast(x[i]) - y[i + 1])² over i; a forecast does not depend on the rest of its batch.",
        "Print x[0] and targets[0], the shapes of forecast and target inside of the loss, and model.training in validate.",
    ),
    source="torch.nn.functional:mse_loss",
    look_at="What does it do where the sizes differ? expand_expanded... look for broadcast_tensors, and for the warning.",
)

SEEDS = (41, 42)
COUNT = 150


def train(answer: ModuleType, seed: int, count: int = COUNT) -> Run:
    """An observed run on data of its own."""
    x, y = days(count, seed, 1)
    return observe(answer, x, y, seed, rows_of=x)


@exercise.property("the error on days that are held out, and what the training says of it")
def held_out(answer: ModuleType, rng: random.Random) -> None:
    for seed in SEEDS:
        run = train(answer, seed)
        check_that(len(run.steps) > 1, "number of steps of a torch.optim optimizer", "many", len(run.steps))
        mode = run.model.training
        x, y = days(400, seed, 3)
        with torch.no_grad():
            size = copy.deepcopy(run.model)(x[:-1]).numel()
        check_that(size == len(x) - 1, "forecasts of model(x) for 399 days", len(x) - 1, size)
        error = error_of(run.model, x[:-1], y[1:])
        if not error < 1.0:
            raise Failure(f"the error{symptom(run, seed)}", expected=Seen("under 1"), got=Seen(f"{error:.2f}"))
        check_validation(run, seed)
        check_that(not mode, "the model as it is returned is in training mode")
        still = sum(not step.training for step in run.steps)
        text = f"{still} of {len(run.steps)}"
        check_that(not still, "steps in which a part of the model is in evaluation mode", 0, Seen(text))


def error_of(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Mean squared error in evaluation mode."""
    mode = model.training
    with torch.no_grad():
        forecasts = model.eval()(x).reshape(len(x), -1)
    model.train(mode)
    return (forecasts[:, 0] - y).square().mean().item()


def symptom(run: Run, seed: int) -> str:
    """What one sees in a run whose forecasts are bad."""
    x, y = days(COUNT, seed, 1)
    with torch.no_grad():
        spread = run.model.eval()(x).std().item()
    if spread < 0.3 * y.std().item():
        return "; all forecasts are nearly the same"
    rows = torch.cat([rows for rows, _ in run.evaluations]).unique()
    reported = run.history.get("val/loss", [float("nan")])[-1]
    for shift, day in ((0, "the same day"), (2, "the day after the next")):
        pairs = rows[(rows >= 0) & (rows + shift < COUNT)]
        error = error_of(run.model, x[pairs], y[pairs + shift])
        if abs(error - reported) < 0.02 * error:
            regular = ", and weights decay" if run.steps[0].weight_decay > 0 else ""
            return f"; the validation compares with the yield of {day}{regular}"
    return ""


def check_validation(run: Run, seed: int) -> None:
    """Checks that the last `val/loss` is the error of the model in evaluation mode on the days that are held out."""
    x, y = days(COUNT, seed, 1)
    exact = error_of(run.model, x[111:-1], y[112:])
    reported = run.history["val/loss"][-1] if run.history.get("val/loss") else float("nan")
    if abs(reported - exact) > 1e-3 * exact and any(training for _, training in run.evaluations):
        momentum = any(isinstance(part, nn.BatchNorm1d) and part.momentum != 0.1 for part in run.model.modules())
        reason = "the validation runs in training mode" + (", and the momentum of BatchNorm is another" if momentum else "")
        raise Failure(reason, expected=Seen(f"val/loss {exact:.2f}"), got=Seen(f"{reported:.2f}"))
    check_curve(run, "val/loss", exact)


@exercise.property("a last batch of one day")
def one_day(answer: ModuleType, rng: random.Random) -> None:
    run = train(answer, SEEDS[0], 133)
    x, y = days(133, SEEDS[0], 1)
    check_curve(run, "val/loss", error_of(run.model, x[99:-1], y[100:]))
    losses = run.history.get("train/loss", [])
    check_that(len(losses) == len(run.steps), "entries of train/loss: one for each step", len(run.steps), len(losses))


@exercise.property("the seed decides")
def seeds(answer: ModuleType, rng: random.Random) -> None:
    check_seed(answer, *days(49, 1, 1))


NAME = "wont_generalize"
EVAL_MODE, BROADCAST = PLANTS[NAME]["eval_mode"][0], PLANTS[NAME]["broadcast"][0]
SAME_DAY, DAY_BEFORE = PLANTS[NAME]["shift"]
REGULAR = (("lr=LR)", "lr=LR, weight_decay=0.3)"), ("nn.Dropout(0.1)", "nn.Dropout(0.3)"))
MOMENTUM = (("nn.BatchNorm1d(HIDDEN)", "nn.BatchNorm1d(HIDDEN, momentum=0.01)"),)
SQUEEZE = (("    return model(x)[:, 0]", "    return model(x).squeeze()"),)
NEVER_BACK = (
    ("    history: dict[str, list[float]] =", "    model.train()\n    history: dict[str, list[float]] ="),
    ("        model.train()\n        for rows", "        for rows"),
)

WRONG = {
    "As it was: ask for one forecast alone, and for the same one among other days. In which mode is the network?": EVAL_MODE,
    "Another momentum changes the running statistics, and nobody asks for them: the validation uses those of its batches.": (
        *EVAL_MODE,
        *MOMENTUM,
    ),
    "The network stays in evaluation mode after the first validation: dropout is off, and the statistics stand still.": (
        NEVER_BACK
    ),
    "As it was: take one row of the inputs and the target beside it. Of which days are they?": SAME_DAY,
    "More regularization cannot help: input and target do not belong together, so there is nothing to carry over.": (
        *SAME_DAY,
        *REGULAR,
    ),
    "As it was: print the shapes of forecast and target where the loss compares them.": BROADCAST,
    "squeeze() takes away the batch of one as well: the last batch has no dimension left. Name the dimension: squeeze(1).": (
        SQUEEZE
    ),
}
for message, changes in WRONG.items():
    exercise.wrong("train", message)(load_training(NAME, changes).train)

COLUMN = ("    return F.mse_loss(predict(model, x), y)", "    return F.mse_loss(model(x), y[:, None])")
TRAIN_FALSE = ("    model.eval()\n", "    model.train(False)\n")
exercise.also_right("train")(load_training(NAME, (COLUMN, TRAIN_FALSE)).train)


@exercise.also_right("train")
def with_layer_norm(x, y, seed):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(x.shape[1], 48), nn.LayerNorm(48), nn.ReLU(), nn.Linear(48, 1))
    opt = torch.optim.Adam(net.parameters(), 0.01)
    today, tomorrow = x[: len(x) - 1], y[1:].unsqueeze(1)
    first = 3 * (len(x) - 1) // 4
    curves = {"train/loss": [], "val/loss": []}
    for _ in range(14):
        net.train()
        for rows in torch.randperm(first).split(16):
            opt.zero_grad()
            loss = (net(today[rows]) - tomorrow[rows]).pow(2).mean()
            loss.backward()
            opt.step()
            curves["train/loss"].append(loss.item())
        net.eval()
        with torch.no_grad():
            curves["val/loss"].append(F.mse_loss(net(today[first:]), tomorrow[first:]).item())
    return net, curves
