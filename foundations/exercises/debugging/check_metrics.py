"""Exercise check_metrics: which of five metrics are wrong, and two of them right."""

import math
import random
from collections import Counter
from collections.abc import Callable
from itertools import product
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from foundations.comparing import Failure, call, check_equal, check_that
from foundations.exercise import Exercise

exercise = Exercise(
    title="Check metrics: a number that nobody has tested is a guess",
    level="core",
    minutes=35,
    link="projects.seq2seq.metrics:bleu_metric",
    why="BLEU counts over the corpus, and comes from sacreBLEU, so that two papers mean the same number",
    hints=(
        "Work small cases out on paper: ties, a class that never occurs, (N, 1) against (N,), a good and a bad sentence.",
        "F1 = 2 TP / (predicted + labeled), left out where both are 0. AUC = (wins + ties / 2) / pairs.",
        "A list of (name, arguments, value); wrong is what raises, or where not abs(got - value) < 1e-5: NaN is not less.",
    ),
)

Metric = Callable[..., float]


def accuracy(logits: Tensor, labels: Tensor, fault: str = "") -> float:
    """Accuracy, or one that is wrong."""
    if fault == "columns":
        return (logits.argmax(0) == labels[: logits.shape[1]]).float().mean().item()
    return (logits.argmax(1) == labels).float().mean().item()


def macro_f1(predictions: Tensor, labels: Tensor, num_classes: int, fault: str = "") -> float:
    """Macro F1, or one that is wrong."""
    scores, weights = [], []
    for c in range(num_classes):
        predicted, labeled = (predictions == c).sum().item(), (labels == c).sum().item()
        hits = ((predictions == c) & (labels == c)).sum().item()
        if fault == "micro":
            hits, predicted, labeled = (predictions == labels).sum().item(), len(labels), len(labels)
        if not predicted + labeled or (fault == "predicted" and not predicted):
            scores += {"nan": [math.nan], "zero": [0.0]}.get(fault, [])
            weights += {"nan": [1.0], "zero": [1.0]}.get(fault, [])
            continue
        scores.append(2 * hits / (predicted + labeled))
        weights.append(labeled if fault == "weighted" else 1.0)
    return sum(a * b for a, b in zip(scores, weights, strict=True)) / sum(weights)


def r2(predictions: Tensor, targets: Tensor, fault: str = "") -> float:
    """R², or one that is wrong."""
    if fault != "broadcast":
        predictions, targets = predictions.reshape(-1), targets.reshape(-1)
    center = {"zero": 0.0, "swapped": predictions.mean().item()}.get(fault, targets.mean().item())
    around = predictions if fault == "swapped" else targets
    return 1 - ((targets - predictions).square().sum() / (around - center).square().sum()).item()


def roc_auc(scores: Tensor, labels: Tensor, fault: str = "") -> float:
    """AUC, or one that is wrong."""
    tie = {"wins": 1.0, "losses": 0.0}.get(fault, 0.5)
    pairs = list(product(scores[labels == 1].tolist(), scores[labels == 0].tolist()))
    if not pairs:
        return math.nan
    value = sum(1.0 if a > b else tie if a == b else 0.0 for a, b in pairs) / len(pairs)
    return 1 - value if fault == "turned" else value


def corpus_bleu(hypotheses: list[list[str]], references: list[list[str]], fault: str = "") -> float:
    """BLEU over the corpus, or one that is wrong."""
    if fault == "sentences" and len(hypotheses) > 1:
        pairs = zip(hypotheses, references, strict=True)
        return sum(corpus_bleu([h], [r]) for h, r in pairs) / len(hypotheses)
    value = 1.0
    for n in range(1, 4 if fault == "trigrams" else 5):
        matched = total = 0
        for hypothesis, reference in zip(hypotheses, references, strict=True):
            ours, theirs = (Counter(tuple(s[i : i + n]) for i in range(len(s) - n + 1)) for s in (hypothesis, reference))
            matched += sum(
                k if fault == "unclipped" and gram in theirs else min(k, theirs[gram]) for gram, k in ours.items()
            )
            total += sum(ours.values())
        if not matched and fault != "zero":
            return 0.0
        value *= matched / total
    c, r = sum(map(len, hypotheses)), sum(map(len, references))
    penalty = 1.0 if fault == "lengths" or (c >= r and fault != "both_ways") else math.exp(1 - r / c)
    return math.exp(math.log(value) / (3 if fault == "trigrams" else 4)) * penalty


RIGHT: dict[str, Metric] = {f.__name__: f for f in (accuracy, macro_f1, r2, roc_auc, corpus_bleu)}
FAULTS = {
    "accuracy": {"columns": "takes the largest logit of each column"},
    "macro_f1": {
        "zero": "counts a class that does not occur as 0",
        "nan": "is NaN where a class does not occur",
        "micro": "is the micro average",
        "weighted": "weights the classes by their labels",
        "predicted": "leaves out a class that is never predicted",
    },
    "r2": {
        "broadcast": "subtracts (N,) from (N, 1)",
        "zero": "does not subtract the mean from the targets",
        "swapped": "has targets and predictions in each other's place",
    },
    "roc_auc": {"wins": "counts ties as wins", "losses": "counts ties as losses", "turned": "is 1 minus the AUC"},
    "corpus_bleu": {
        "sentences": "is the mean over the sentences",
        "lengths": "has no penalty for short translations",
        "unclipped": "counts a repeated n-gram each time",
        "trigrams": "ends with n = 3",
        "both_ways": "rewards translations that are longer than their references",
        "zero": "raises an error where nothing matches (log 0)",
    },
}


def spoiled(name: str, fault: str) -> Metric:
    """Metric with one fault."""
    metric = RIGHT[name]
    return lambda *args: metric(*args, fault=fault)


def check_found(answer: ModuleType, metrics: dict[str, Metric], expected: list[str], about: str) -> None:
    """Checks what `find_wrong` finds among `metrics`."""
    try:
        got = call(answer.find_wrong, metrics)
    except Failure as failure:
        failure.inputs = {"metrics": sorted(metrics), "about": about}
        raise
    if isinstance(got, list | tuple | set | frozenset):
        got = sorted(got)
    reason = "find_wrong misses a metric" if expected else "find_wrong suspects a right metric"
    check_that(got == expected, reason, expected, got, metrics=sorted(metrics), about=about)


@exercise.property("macro_f1: values")
def f1_values(answer: ModuleType, rng: random.Random) -> None:
    for n, c in [(1, 1), (2, 2), (6, 2), (12, 3)]:
        labels = torch.arange(n) % c
        predictions = torch.where(torch.rand(n) < 0.5, labels, torch.randint(c, (n,)))
        check_equal(answer.macro_f1, predictions, labels, c, expected=macro_f1(predictions, labels, c))


@exercise.property("macro_f1: absent classes")
def f1_absent(answer: ModuleType, rng: random.Random) -> None:
    for predictions, labels, c in [([0, 0], [0, 1], 2), ([0, 1], [0, 0], 2), ([0, 0], [0, 1], 3), ([3, 1], [1, 1], 5)]:
        values = torch.tensor(predictions), torch.tensor(labels)
        check_equal(answer.macro_f1, *values, c, expected=macro_f1(*values, c))


@exercise.property("roc_auc")
def auc_values(answer: ModuleType, rng: random.Random) -> None:
    for n in (2, 3, 5, 9):
        labels = torch.arange(n) % 2
        for scores in (torch.randn(n), torch.randint(2, (n,)).float(), torch.zeros(n)):
            check_equal(answer.roc_auc, scores, labels, expected=roc_auc(scores, labels))
    check_equal(answer.roc_auc, torch.rand(3), torch.ones(3, dtype=torch.int64), expected=math.nan)


@exercise.property("right metrics are left alone")
def right(answer: ModuleType, rng: random.Random) -> None:
    for name, metric in RIGHT.items():
        check_found(answer, {name: metric}, [], "this metric is right")
    check_found(answer, RIGHT, [], "these metrics are right")


@exercise.property("far off, or an error")
def easy(answer: ModuleType, rng: random.Random) -> None:
    for name in RIGHT:
        check_found(answer, {**RIGHT, name: lambda *args: -0.5}, [name], f"{name} is always -0.5")
        check_found(answer, {name: lambda *args: args[99]}, [name], f"{name} raises IndexError")


@exercise.property("each fault is found")
def faults(answer: ModuleType, rng: random.Random) -> None:
    for name, kinds in FAULTS.items():
        for fault, about in kinds.items():
            check_found(answer, {name: spoiled(name, fault)}, [name], f"{name} {about}")


@exercise.property("several at once")
def several(answer: ModuleType, rng: random.Random) -> None:
    for _ in range(3):
        names = sorted(rng.sample(sorted(RIGHT), 3))
        wrong = {name: spoiled(name, rng.choice(sorted(FAULTS[name]))) for name in names}
        check_found(answer, {**RIGHT, **wrong}, names, f"{', '.join(names)} are wrong")


def finder(skipped: str) -> Callable[[dict[str, Metric]], list[str]]:
    """`find_wrong` that compares with the right metrics on random inputs, and leaves out one kind of input."""

    def sentences(rng: random.Random, repeats: bool = True) -> tuple[Any, Any]:
        count = 1 if skipped == "one_sentence" else rng.randrange(1, 4)
        references = [[rng.choice("abcdef") for _ in range(rng.randrange(5, 9))] for _ in range(count)]
        hypotheses = [[rng.choice("abcd") if rng.random() < 0.2 else word for word in r] for r in references]
        return [h[: rng.randrange(4, 9)] + ["a"] * rng.randrange(3) for h in hypotheses], references

    def inputs(rng: random.Random) -> dict[str, tuple[Any, ...]]:
        labels = torch.tensor([0, 1, *(rng.randrange(2) for _ in range(3))])
        scores = torch.rand(5) if skipped == "ties" else torch.randint(3, (5,)).float()
        targets = torch.randn(5) if rng.random() < 0.5 or skipped == "columns" else torch.randn(5, 1)
        predictions = torch.randn(5) if skipped == "columns" or rng.random() < 0.5 else torch.randn(5, 1)
        classes = 2 if skipped == "absent" else 4
        return {
            "accuracy": (torch.randn(5, 3), torch.randint(3, (5,))),
            "macro_f1": (torch.tensor([1, 0, *(rng.randrange(2) for _ in range(3))]), labels, classes),
            "r2": (predictions, targets),
            "roc_auc": (scores, labels),
            "corpus_bleu": sentences(rng),
        }

    def find_wrong(metrics: dict[str, Metric]) -> list[str]:
        rng, wrong = random.Random(3), set()
        never_predicted = torch.tensor([0, 0]), torch.tensor([0, 1]), 2
        for round_ in range(6):
            for name, args in inputs(rng).items():
                if name not in metrics:
                    continue
                if name == "macro_f1" and round_ == 0 and skipped != "absent":
                    args = never_predicted
                try:
                    gap = abs(metrics[name](*args) - RIGHT[name](*args))
                except Exception:
                    gap = 0.0 if skipped == "errors" else 1.0
                if gap > 1e-5 or (gap != gap and skipped != "nan"):
                    wrong.add(name)
        return sorted(wrong)

    return find_wrong


def f1(fault: str) -> Metric:
    """Macro F1 with a fault."""
    return lambda predictions, labels, num_classes: macro_f1(predictions, labels, num_classes, fault)


def auc(fault: str) -> Metric:
    """AUC with a fault."""
    return lambda scores, labels: roc_auc(scores, labels, fault)


exercise.wrong("macro_f1", "A class that occurs neither in predictions nor in labels counts as 0 here: leave it out.")(
    f1("zero")
)
exercise.wrong("macro_f1", "0 / 0 for a class that does not occur makes the mean NaN: leave such a class out.")(f1("nan"))
exercise.wrong(
    "macro_f1",
    "A class that is never predicted has an F1 of 0, and is left out here: its precision is 0 / 0, its F1 is not.",
)(f1("predicted"))
exercise.wrong("macro_f1", "This is the micro average, which is the accuracy; macro takes the mean of the classes' F1.")(
    f1("micro")
)
exercise.wrong("roc_auc", "A tie counts as a win here (>=): a network that says the same of all would have an AUC of 1.")(
    auc("wins")
)
exercise.wrong("roc_auc", "A tie counts as lost here (>): a network that says the same of all would have 0, not 1/2.")(
    auc("losses")
)

exercise.wrong(
    "find_wrong",
    "With one sentence, the mean over the sentences is the BLEU of the corpus: test with two, of unlike length or quality.",
)(finder("one_sentence"))
exercise.wrong(
    "find_wrong",
    "Your R² is tested on (N,) alone. (N,) minus (N, 1) is (N, N), without an error: test one of each.",
)(finder("columns"))
exercise.wrong("find_wrong", "No two of your scores are equal: only a tie shows how an AUC counts ties.")(finder("ties"))
exercise.wrong("find_wrong", "A metric that raises is wrong as well: catch the exception, and go on.")(finder("errors"))
exercise.wrong("find_wrong", "abs(nan - value) > 1e-5 is False, as every comparison with NaN: write not (abs(…) < 1e-5).")(
    finder("nan")
)
exercise.wrong(
    "find_wrong", "All classes occur in your test of F1: what a metric does with an absent one is where they differ."
)(finder("absent"))
exercise.also_right("find_wrong")(finder(""))
exercise.also_right("macro_f1")(f1(""))


@exercise.also_right("roc_auc")
def by_ranks(scores: Tensor, labels: Tensor) -> float:
    """Mann–Whitney: the sum of the positives' mean ranks."""
    positives = int(labels.sum())
    pairs = positives * (len(labels) - positives)
    if pairs == 0:
        return float("nan")
    ranks = (scores[:, None] > scores).sum(1) + ((scores[:, None] == scores).sum(1) + 1) / 2
    return (ranks[labels == 1].sum().item() - positives * (positives + 1) / 2) / pairs


@exercise.also_right("macro_f1")
def by_confusion_matrix(predictions: Tensor, labels: Tensor, num_classes: int) -> float:
    """F1 of all classes at once."""
    matrix = torch.zeros(num_classes, num_classes)
    for i, j in zip(labels, predictions, strict=True):
        matrix[i, j] += 1
    total = matrix.sum(0) + matrix.sum(1)
    return (2 * matrix.diagonal() / total)[total > 0].mean().item()
