"""Exercise too_good: three trainings whose validation promises too much, each for another reason."""

import random
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foundations.comparing import Failure, check_that
from foundations.exercise import Exercise
from foundations.faults import PLANTS
from foundations.trainings import Run, Seen, check_seed, load_training, observe, patients

exercise = Exercise(
    title="A validation that is too good",
    level="core",
    minutes=40,
    link="common.debug.shapes:layer_shapes",
    why="`--debug shapes` shows what each layer does to which dimension, before a training is paid for",
    hints=(
        "Three things make a number too good: the data it is computed from, what the model sees besides it, the arithmetic.",
        "No patient on both sides; model(x)[i] = model(x[i : i + 1])[0]; accuracy = right answers / samples.",
        "Compute each of the three by hand for the last epoch, and compare with what the training says.",
    ),
    source="torch.nn.functional:softmax",
    look_at="What does softmax do if dim is not given? _get_softmax_dim still guesses one, by the number of dimensions.",
)

SEEDS = (31, 32)
COUNT = 52


def train(answer: ModuleType, seed: int) -> Run:
    """An observed run on data of its own."""
    x, y, names = patients(COUNT, seed, 1)
    return observe(answer, x, y, names, seed, rows_of=x)


@exercise.property("what the validation is computed from, and how")
def validation(answer: ModuleType, rng: random.Random) -> None:
    for seed in SEEDS:
        run = train(answer, seed)
        check_that(len(run.steps) > 1, "number of steps of a torch.optim optimizer", "many", len(run.steps))
        check_that(len(run.evaluations) > 0, "forward passes without gradients", "some", 0)
        x, y, names = patients(COUNT, seed, 1)
        check_split(run, names, y)
        check_independence(run, x)
        check_accuracy(run, x, y)


def trained_rows(run: Run) -> Tensor:
    """Rows of the training's batches."""
    return torch.cat([step.rows for step in run.steps]).unique()


def held_out_rows(run: Run) -> Tensor:
    """Rows that are evaluated and never trained on; who logs the accuracy of the training, too, evaluates others besides."""
    rows = torch.cat([rows for rows, _ in run.evaluations]).unique()
    return rows[(rows >= 0) & ~torch.isin(rows, trained_rows(run))]


def check_split(run: Run, names: Tensor, y: Tensor) -> None:
    """Checks that no patient is in training and validation, and that the validation is no single class."""
    trained, rows = names[trained_rows(run)].unique(), held_out_rows(run)
    check_that(len(rows) > 0, "samples that are evaluated, and not trained on", "some", 0)
    held_out = names[rows].unique()
    both = held_out[torch.isin(held_out, trained)]
    if len(both):
        drops = any(isinstance(part, nn.Dropout) and part.p > 0 for part in run.model.modules())
        reason = "patients of the training are in the validation" + (", and there is dropout" if drops else "")
        raise Failure(reason, got=Seen(f"{len(both)} of {len(held_out)} patients of the validation"))
    check_that(12 <= len(held_out) <= 14, "patients that are held out", "13 of 52", len(held_out))
    classes = torch.bincount(torch.stack([y[names == name][0] for name in held_out]), minlength=3)
    if classes.max() > 0.9 * len(held_out):  # about one of a million draws
        got = Seen(f"patients of each class: {classes.tolist()}")
        raise Failure("nearly all patients that are held out have the same class", got=got)


def check_independence(run: Run, x: Tensor) -> None:
    """Checks that a sample's answer does not depend on the others of its batch."""
    run.model.eval()
    with torch.no_grad():
        together, alone = run.model(x[:8]), torch.cat([run.model(row) for row in x[:8].split(1)])
    if not torch.allclose(together, alone, rtol=1e-3, atol=1e-4):
        held_out = held_out_rows(run)
        single = all(len(rows) == 1 for rows, _ in run.evaluations if torch.isin(rows, held_out).any())
        reason = "a sample's answer depends on its batch" + (", and the validation's batches are of one" if single else "")
        text = f"first logit of a sample: {together[0, 0]:.3f} in a batch of 8, {alone[0, 0]:.3f} alone"
        raise Failure(reason, got=Seen(text))


def check_accuracy(run: Run, x: Tensor, y: Tensor) -> None:
    """Checks that the last accuracy is that of the model on all samples that the training does not use."""
    used = set(trained_rows(run).tolist())
    held_out = torch.tensor([row for row in range(len(x)) if row not in used])
    with torch.no_grad():
        exact = (run.model(x[held_out]).argmax(1) == y[held_out]).float().mean().item()
    accuracies = run.history.get("val/accuracy") or [float("nan")]
    left = len(held_out) - len(held_out_rows(run))
    if left > 0:
        raise Failure("samples that neither training nor validation uses", expected=0, got=Seen(str(left)))
    text = f"{accuracies[-1]:.3f}"
    asked = torch.cat([rows for rows, _ in run.evaluations]).unique().clamp(min=0)
    with torch.no_grad():
        of_all = (run.model(x[asked]).argmax(1) == y[asked]).float().mean().item()
    if len(asked) > len(held_out) and abs(accuracies[-1] - of_all) < 1e-4 < abs(of_all - exact):
        reason = "the last val/accuracy is that of samples of the training, too"
        raise Failure(reason, expected=Seen(f"{exact:.3f}"), got=Seen(text))
    if not abs(accuracies[-1] - exact) < 1e-4:
        raise Failure(
            "the last val/accuracy, and that of all held-out samples", expected=Seen(f"{exact:.3f}"), got=Seen(text)
        )


@exercise.property("the model works for new patients")
def new_patients(answer: ModuleType, rng: random.Random) -> None:
    for seed in SEEDS:
        run = train(answer, seed)
        x, y, _ = patients(120, seed, 3, each=2)
        with torch.no_grad():
            logits = run.model.eval()(x)
        check_that(logits.shape == (len(x), 3), "shape of model(x)", (len(x), 3), tuple(logits.shape))
        accuracy = (logits.argmax(1) == y).float().mean().item()
        check_that(accuracy > 0.55, "accuracy for new patients", "over 0.55", Seen(f"{accuracy:.2f}"))
        losses = run.history.get("train/loss", [])
        check_that(len(losses) == len(run.steps), "entries of train/loss: one for each step", len(run.steps), len(losses))
        check_that(losses[-1] < losses[0], "the loss of the training falls")
        lowest = min(step.similarity for step in run.steps)
        check_that(lowest > 0.9, "cosine between a step's gradient and its batch's", 1, Seen(f"{lowest:.2f}"))


@exercise.property("the seed decides")
def seeds(answer: ModuleType, rng: random.Random) -> None:
    check_seed(answer, *patients(12, 1, 1))


NAME = "too_good"
LEAK, AXIS, METRIC = (PLANTS[NAME][name][0] for name in ("leak", "axis", "metric"))
HEAD = "        self.head = nn.Linear(HIDDEN, num_classes)"
DROPOUT = ((HEAD, "        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(HIDDEN, num_classes))"),)
BY_ONE = (("torch.arange(len(x)).split(BATCH_SIZE)", "torch.arange(len(x)).split(1)"),)
DROP_LAST = (
    (
        "        accuracies.append((model(x[rows]).argmax(1) == y[rows]).float().mean().item())\n",
        "        if len(rows) == BATCH_SIZE:\n"
        "            accuracies.append((model(x[rows]).argmax(1) == y[rows]).float().mean().item())\n",
    ),
)

WRONG = {
    "As it was: whose measurements are in the training, and whose in the validation?": LEAK,
    "Dropout makes memorizing harder. The validation still asks about patients that the training knows.": (*LEAK, *DROPOUT),
    "The patients lie in the order of their classes: the last quarter of them is one class. Draw those that are held out.": (
        ("held_out = names[torch.randperm(len(names))[: len(names) // 4]]", "held_out = names[-(len(names) // 4) :]"),
    ),
    "The validation asks about samples of the training, too: only what it has never seen tells what it has learned.": (
        ("accuracy(model, x[val_rows], y[val_rows])", "accuracy(model, x, y)"),
    ),
    "As it was: ask the model for one sample alone, and for the same sample among others.": AXIS,
    "A validation in batches of one hides it: in training the weights still sum to one over the batch, not the tokens.": (
        *AXIS,
        *BY_ONE,
    ),
    "As it was: count the right answers of the last epoch and divide by the samples. It is another number.": METRIC,
    "The short batch is left out: now the mean of means is exact, and of fewer samples than were held out.": (
        (METRIC[0][0], METRIC[0][1].replace(DROP_LAST[0][0], DROP_LAST[0][1])),
    ),
}
for message, changes in WRONG.items():
    exercise.wrong("train", message)(load_training(NAME, changes).train)


WEIGHTED = METRIC[0][1].replace(".float().mean().item())", ".float().mean().item() * len(rows) / len(x))")
exercise.also_right("train")(
    load_training(NAME, ((METRIC[0][0], WEIGHTED.replace("sum(accuracies) / len(accuracies)", "sum(accuracies)")),)).train
)

LOGGED = '            history["val/accuracy"].append('  # the accuracy of the training, too
BOTH = (
    f'            history.setdefault("train/accuracy", []).append(accuracy(model, x[train_rows], y[train_rows]))\n{LOGGED}'
)
exercise.also_right("train")(load_training(NAME, ((LOGGED, BOTH),)).train)


class MaxPooling(nn.Module):
    """The largest of each feature over the tokens."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(12, 32), nn.Linear(32, 3)

    def forward(self, x):
        return self.last(torch.amax(F.gelu(self.first(x)), dim=-2))


@exercise.also_right("train")
def with_groups(x, y, patients, seed):
    rng = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    people = sorted(set(patients.tolist()))
    mine = {people[i] for i in torch.randperm(len(people), generator=rng)[: len(people) // 4].tolist()}
    is_val = torch.tensor([p in mine for p in patients.tolist()])
    net = MaxPooling()
    opt = torch.optim.Adam(net.parameters(), lr=0.01)
    curves = {"train/loss": [], "val/accuracy": []}
    for _ in range(10):
        for i in torch.randperm(int((~is_val).sum())).split(16):
            opt.zero_grad()
            loss = F.cross_entropy(net(x[~is_val][i]), y[~is_val][i])
            loss.backward()
            opt.step()
            curves["train/loss"].append(loss.item())
        with torch.no_grad():
            curves["val/accuracy"].append((net(x[is_val]).argmax(-1) == y[is_val]).double().mean().item())
    return net, curves
