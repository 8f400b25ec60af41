"""Exercise imbalanced_loop: few positives, and every choice made on purpose."""

import copy
import random
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from foundations.comparing import Note, check_equal, check_that, difference
from foundations.exercise import Exercise
from foundations.instrumented import PlainSGD, Recorder
from foundations.loop_checks import Data, Loop, add_loop_properties, record

exercise = Exercise(
    title="Imbalanced loop: three positives in a hundred",
    level="core",
    minutes=40,
    link="projects.bert_sentiment.module:BertSentimentModule.compute_loss",
    why="each text has a weight in the loss, which says how much it counts",
    hints=(
        "Three choices: a loss in which positives count as much as negatives, a metric that sees them, a threshold.",
        "pos_weight = negatives / positives. F1 = 2 TP / (2 TP + FP + FN), with every validation probability as threshold.",
        "F.binary_cross_entropy_with_logits(logits[:, 0], y.float(), pos_weight=w); evaluate takes its threshold.",
    ),
    source="torch.utils.data.sampler:WeightedRandomSampler",
    look_at="It wants one weight for each sample and draws with replacement. Which samples does it draw, given two weights?",
)

Result = tuple[list[float], float]


def f1_of(scores: Tensor, labels: Tensor, threshold: float) -> float:
    """F1, sample by sample."""
    pairs = list(zip((scores >= threshold).tolist(), (labels == 1).tolist(), strict=True))
    right, wrong = pairs.count((True, True)), pairs.count((True, False)) + pairs.count((False, True))
    return 2 * right / (2 * right + wrong) if right + wrong else 0.0


def highest_f1(scores: Tensor, labels: Tensor) -> float:
    """F1 at the best threshold."""
    return max(f1_of(scores, labels, score) for score in scores.tolist())


def samples(count: int, one_in: int = 4) -> tuple[Tensor, Tensor]:
    """Inputs (count, 2) and labels, of which every `one_in`-th is 1; the classes overlap."""
    labels = (torch.arange(count) % one_in == 1).long()
    return torch.randn(count, 2) + 1.5 * labels[:, None], labels


def case(n: int, n_val: int) -> tuple[nn.Module, Data]:
    """Linear model behind batch normalization, and data."""
    return nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1)), (*samples(n), *samples(n_val))


def metric(outputs: list[Tensor], targets: Tensor, train_targets: Tensor) -> float:
    """Highest F1."""
    return highest_f1(torch.stack(outputs)[:, 0].sigmoid(), targets)


LOOP = Loop("train_imbalanced", case, metric, None, lr=1.0, history=lambda result: result[0])


def check_float(what: str, value: Any) -> None:
    """Checks that a number is Python's: a tensor is handed on, and fails elsewhere."""
    python = isinstance(value, float | int) and not isinstance(value, bool)
    check_that(python, f"{what} is to be a Python float", "float", type(value).__name__)


@exercise.property("F1")
def f1(answer: ModuleType, rng: random.Random) -> None:
    for scores, labels, threshold in [
        ([0.1, 0.6, 0.9], [0, 0, 1], 0.5),
        ([0.1, 0.5, 0.9], [1, 1, 0], 0.5),
        ([0.1, 0.2], [0, 1], 0.5),
        ([0.1, 0.2], [0, 0], 0.5),
    ]:
        arguments = torch.tensor(scores), torch.tensor(labels), threshold
        check_float("f1_score", check_equal(answer.f1_score, *arguments, expected=f1_of(*arguments)))
    for n in (1, 7, 30):
        arguments = torch.rand(n), torch.randint(2, (n,)), 0.4
        check_equal(answer.f1_score, *arguments, expected=f1_of(*arguments))


@exercise.property("the best threshold")
def threshold_property(answer: ModuleType, rng: random.Random) -> None:
    for n in (3, 5, 12, 40):
        scores, labels = torch.rand(n), (torch.arange(n) % 3 == 1).long()
        threshold, value = answer.best_threshold(scores, labels)
        best = highest_f1(scores, labels)
        shown = {"scores": scores, "labels": labels}
        check_that(not difference(value, best, 1e-5, 1e-6), "F1 at the best threshold", best, value, **shown)
        reached = f1_of(scores, labels, float(threshold))
        check_that(abs(reached - best) < 1e-6, "F1 that the threshold gives", best, reached, threshold=threshold, **shown)
        check_float("the threshold of best_threshold", threshold)
        check_float("the F1 of best_threshold", value)


@exercise.property("both classes weigh the same")
def balance(answer: ModuleType, rng: random.Random) -> None:
    recording = record(LOOP, answer, 64, 8, 3, 16)
    labels, weights, seen = recording.data[1], torch.zeros(64), set()
    for step in (step for epoch in recording.epochs for step in epoch.steps):
        check_that(len(step.ids) <= 16, "a step has more than batch_size samples", 16, len(step.ids), **recording.shown)
        seen |= set(step.ids)
        for forward in step.forwards:
            logits, grads = torch.stack(forward.outputs)[:, 0], torch.stack(forward.grads)[:, 0]
            weights.index_add_(0, torch.tensor(forward.ids), grads / (logits.sigmoid() - labels[forward.ids]))
    what = "how many of 64 samples are seen in three epochs"
    check_that(len(seen) > 40, what, "most", "at most one of each class" if len(seen) < 3 else "few", **recording.shown)
    drawn = [int(labels[i]) for epoch in recording.epochs for step in epoch.steps for i in step.ids]
    ratio = (weights[labels == 1].sum() / weights[labels == 0].sum()).item()
    names = {(0.5, 2.0): "about 1", (0.25, 0.45): "about 1/3", (2.0, float("inf")): "more than 2"}
    says = next((name for (low, high), name in names.items() if low <= ratio < high), "less")
    how = "positives drawn more often" if sum(drawn) > 0.38 * len(drawn) else "samples drawn as they come"
    what = "weight of all positives (16 of 64) in the loss, over that of all negatives"
    check_that(says == "about 1", what, "about 1", Note(f"{says}, {how}"), **recording.shown)


add_loop_properties(exercise, LOOP)


@exercise.property("the threshold is on the probability")
def on_the_probability(answer: ModuleType, rng: random.Random) -> None:
    for n_val in (6, 12, 40):
        recording = record(LOOP, answer, 16, n_val, 1, 16)
        threshold, targets = float(recording.result[1]), recording.data[3]
        logits = torch.stack(recording.epochs[0].outputs())[:, 0]
        best = highest_f1(logits.sigmoid(), targets)
        right, wrong = (abs(f1_of(scores, targets, threshold) - best) < 1e-5 for scores in (logits.sigmoid(), logits))
        what = "the threshold, which is compared with probabilities"
        check_that(right or not wrong, what, "one of the probabilities", "one of the logits", **recording.shown)


@exercise.property("the threshold is that of the best epoch")
def chosen(answer: ModuleType, rng: random.Random) -> None:
    for rises_at in (100, 1, 2):
        recording = record(LOOP, answer, 16, 12, 3, 16, rises_at=rises_at)
        history, threshold = recording.result
        targets = recording.data[3]
        scores = [torch.stack(epoch.outputs())[:, 0].sigmoid() for epoch in recording.epochs]
        best = max(history)
        reached = [f1_of(scores[i], targets, float(threshold)) for i, value in enumerate(history) if value == best]
        check_that(abs(max(reached) - best) < 1e-5, "F1 of the best epoch at the threshold", best, max(reached))


@exercise.property("evaluation at a threshold that is given")
def evaluation(answer: ModuleType, rng: random.Random) -> None:
    for threshold in (0.5, 0.7, 0.3):
        torch.manual_seed(1)
        net, data = case(4, 20)
        recorder = Recorder(net, data[0], data[2])
        got = answer.evaluate(recorder.model.train(), data[2], data[3], threshold)
        for forward in recorder.events:
            check_that(forward.mode == "evaluation", "mode in the evaluation", "evaluation", forward.mode)
            check_that(not forward.graph, "the evaluation builds a graph")
        with torch.no_grad():
            scores = net.eval()(data[2])[:, 0].sigmoid()
        expected = f1_of(scores, data[3], threshold)
        shown = {"probabilities": scores, "labels": data[3], "threshold": threshold}
        check_that(not difference(got, expected, 1e-5, 1e-6), "F1 at this threshold", expected, got, **shown)


@exercise.property("three in a hundred, on data that it has not seen")
def unseen(answer: ModuleType, rng: random.Random) -> None:
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    optimizer = PlainSGD(model.parameters(), lr=0.1)
    _, threshold = answer.train_imbalanced(model, optimizer, *samples(600, 33), *samples(400, 33), 3, 32, 0)
    inputs, labels = samples(2000, 33)
    score = answer.evaluate(model, inputs, labels, threshold)
    always = f1_of(torch.ones(2000), labels, 0.5)
    check_that(score > 3 * always, "F1 on other data", f"over {3 * always:.2f}: three times that of always yes", score)


def train_with(fault: str) -> Any:
    """The loop with one of the known faults."""

    def train_imbalanced(
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        inputs: Tensor,
        labels: Tensor,
        val_inputs: Tensor,
        val_labels: Tensor,
        epochs: int,
        batch_size: int,
        seed: int,
    ) -> Result:
        rng, history, best, chosen = torch.Generator().manual_seed(seed), [], {}, 0.5
        counts = torch.bincount(labels, minlength=2)
        pos_weight = counts[0] / counts[1]
        pos_weight = {"upside_down": 1 / pos_weight, "unweighted": torch.tensor(1.0)}.get(fault, pos_weight)
        weights = (1 / counts) if fault == "weights_of_classes" else (1 / counts)[labels]
        for _ in range(epochs):
            model.train()
            order = torch.randperm(len(inputs), generator=rng)
            if fault in ("weights_of_classes", "both"):
                order = torch.multinomial(weights, len(inputs), True, generator=rng)
            if fault == "thrown_away":
                positives, negatives = (labels == 1).nonzero()[:, 0], (labels == 0).nonzero()[:, 0]
                kept = torch.cat([positives, negatives[: len(positives)]])
                order = kept[torch.randperm(len(kept), generator=rng)]
                pos_weight = torch.tensor(1.0)
            for index in order.split(batch_size):
                logits, targets = model(inputs[index])[:, 0], labels[index].float()
                loss = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=pos_weight)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            model.eval()
            rows = torch.arange(len(val_inputs))
            if fault == "validation_resampled":
                rows = torch.multinomial((1 / torch.bincount(val_labels))[val_labels], len(rows), True, generator=rng)
            with torch.no_grad():
                scores = model(val_inputs[rows])[:, 0]
            scores = scores if fault == "logits" else scores.sigmoid()
            y = val_labels[rows]
            if fault == "accuracy":
                value, threshold = max((((scores >= s) == (y == 1)).float().mean().item(), s) for s in scores.tolist())
            elif fault == "half":
                value, threshold = f1_of(scores, y, 0.5), 0.5
            else:
                value, threshold = max((f1_of(scores, y, s), s) for s in scores.tolist())
            history.append(value)
            if value == max(history):
                best = model.state_dict() if fault == "moving" else copy.deepcopy(model.state_dict())
                chosen = threshold
            chosen = threshold if fault == "last_threshold" else chosen
        model.load_state_dict(best)
        return history, chosen

    return train_imbalanced


exercise.wrong("train_imbalanced", "Every sample weighs the same: the few positives hardly count in the loss.")(
    train_with("unweighted")
)
exercise.wrong("train_imbalanced", "The weight is upside down: it is negatives / positives, more than 1.")(
    train_with("upside_down")
)
exercise.wrong(
    "train_imbalanced", "The sampler wants one weight for each sample; two weights make it draw samples 0 and 1 only."
)(train_with("weights_of_classes"))
exercise.wrong(
    "train_imbalanced", "Most negatives are never seen: as few as there are positives were kept, the others thrown away."
)(train_with("thrown_away"))
exercise.wrong("train_imbalanced", "Weighted loss and weighted draw at once: the positives are counted twice.")(
    train_with("both")
)
exercise.wrong("train_imbalanced", "The metric is the accuracy: always saying no has 97 % of it. Take F1.")(
    train_with("accuracy")
)
exercise.wrong("train_imbalanced", "F1 is taken at 0.5: find the threshold that the validation data asks for.")(
    train_with("half")
)
exercise.wrong("train_imbalanced", "The validation data is resampled too: it is to be as imbalanced as what comes later.")(
    train_with("validation_resampled")
)
exercise.wrong(
    "train_imbalanced", "The threshold is one of the logits, and `evaluate` compares it with probabilities: sigmoid() first."
)(train_with("logits"))
exercise.wrong(
    "train_imbalanced", "The threshold is the last epoch's, the weights are the best epoch's: keep them together."
)(train_with("last_threshold"))
exercise.wrong(
    "train_imbalanced", "The weights at the end are the last epoch's: keep a copy of the best state dict, and load it."
)(train_with("moving"))


@exercise.wrong("f1_score", "The result is a tensor, and a float is promised: item() makes one of it.")
def f1_as_tensor(scores: Tensor, labels: Tensor, threshold: float) -> Any:
    predicted, actual = scores >= threshold, labels == 1
    return 2 * (predicted & actual).sum() / (predicted.sum() + actual.sum()).clamp(min=1)


@exercise.wrong("best_threshold", "The threshold is a tensor, and a float is promised: tolist() or item() makes floats.")
def threshold_as_tensor(scores: Tensor, labels: Tensor) -> Any:
    values = [f1_of(scores, labels, score) for score in scores.tolist()]
    return scores[values.index(max(values))], max(values)


@exercise.wrong("f1_score", "A score equal to the threshold is a positive prediction: >=, not >.")
def f1_above(scores: Tensor, labels: Tensor, threshold: float) -> float:
    predicted, actual = scores > threshold, labels == 1
    positives = (predicted.sum() + actual.sum()).item()
    return 2 * (predicted & actual).sum().item() / positives if positives else 0.0


@exercise.wrong("evaluate", "The evaluation runs in the mode in which the model comes: call eval().")
def evaluated_in_training(model: nn.Module, inputs: Tensor, labels: Tensor, threshold: float) -> float:
    with torch.no_grad():
        return f1_of(model(inputs)[:, 0].sigmoid(), labels, threshold)


@exercise.wrong(
    "evaluate", "The threshold is chosen on the very data that is evaluated: the result is too good. Take the one given."
)
def threshold_from_test(model: nn.Module, inputs: Tensor, labels: Tensor, threshold: float) -> float:
    model.eval()
    with torch.no_grad():
        return highest_f1(model(inputs).squeeze(1).sigmoid(), labels)


@exercise.wrong("evaluate", "The threshold is for probabilities, and is compared with logits: apply the sigmoid first.")
def threshold_on_logits(model: nn.Module, inputs: Tensor, labels: Tensor, threshold: float) -> float:
    model.eval()
    with torch.no_grad():
        return f1_of(model(inputs).squeeze(1), labels, threshold)


@exercise.also_right("train_imbalanced")
def by_weighted_sampler(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    labels: Tensor,
    val_inputs: Tensor,
    val_labels: Tensor,
    epochs: int,
    batch_size: int,
    seed: int,
) -> Result:
    rng = torch.Generator().manual_seed(seed)
    weights = torch.where(labels == 1, 1 / labels.sum(), 1 / (1 - labels).sum())
    sampler = WeightedRandomSampler(weights, len(labels), generator=rng)
    loader = DataLoader(TensorDataset(inputs, labels.float()), batch_size, sampler=sampler)
    history, kept = [], []
    for _ in range(epochs):
        for x, y in loader:
            loss = nn.BCEWithLogitsLoss()(model.train()(x), y[:, None])
            model.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            scores = model.eval()(val_inputs).flatten().sigmoid()
        order = scores.argsort(descending=True)
        right = (val_labels[order] == 1).cumsum(0).double()
        values = 2 * right / (torch.arange(1, len(order) + 1) + val_labels.sum())
        last = torch.cat([scores[order][1:] != scores[order][:-1], torch.tensor([True])])
        values = values.where(last, -1)
        history.append(values.max().item())
        kept.append((copy.deepcopy(model.state_dict()), scores[order][values.argmax()].item()))
    state, threshold = kept[history.index(max(history))]
    model.load_state_dict(state)
    return history, threshold


@exercise.also_right("train_imbalanced")
def by_weights_of_samples(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    labels: Tensor,
    val_inputs: Tensor,
    val_labels: Tensor,
    epochs: int,
    batch_size: int,
    seed: int,
) -> Result:
    rng, rows, history, kept = random.Random(seed), list(range(len(labels))), [], (-1.0, {}, 0.5)
    frequency = labels.float().mean()
    weights = torch.where(labels == 1, 0.5 / frequency, 0.5 / (1 - frequency))
    for _ in range(epochs):
        rng.shuffle(rows)
        model.train()
        for start in range(0, len(rows), batch_size):
            part = rows[start : start + batch_size]
            z, y = model(inputs[part]).view(-1), labels[part]
            optimizer.zero_grad()
            (weights[part] * (F.softplus(z) - y * z)).mean().backward()
            optimizer.step()
        model.eval()
        with torch.inference_mode():
            scores = torch.cat([torch.sigmoid(model(x[None]))[0] for x in val_inputs]).clone()
        found = [(f1_of(scores, val_labels, s), s) for s in sorted(set(scores.tolist()))]
        value, threshold = max(found)
        history.append(value)
        if value > kept[0]:
            kept = value, {k: v.clone() for k, v in model.state_dict().items()}, threshold
    model.load_state_dict(kept[1])
    return history, kept[2]
