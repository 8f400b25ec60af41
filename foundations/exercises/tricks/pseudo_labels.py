"""Exercise pseudo_labels: confident guesses as training data, and an honest choice."""

import math
import random
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from foundations.comparing import Failure, check_equal, check_gradients, check_that, difference
from foundations.exercise import Exercise

exercise = Exercise(
    title="Pseudo-labels: what a model is sure of becomes training data",
    level="core",
    minutes=25,
    link="projects.bert_sentiment.predict:save_pseudo_labels",
    why="`--save_pseudo_labels` writes the texts that a model is sure of as training data",
    hints=(
        "Keep the rows where the largest probability is high. Train on them and the labeled ones; choose on validation.",
        "loss = mean over rows with max(p) >= threshold of -sum_c p_c log q_c, with p a constant.",
        'targets = teacher_logits.detach().softmax(1); cross_entropy(student_logits, targets, reduction="none")[index]',
    ),
    source="torch.nn.functional:cross_entropy",
    look_at="Its target may be classes or probabilities. By what does it tell one from the other?",
)

Samples = tuple[Tensor, Tensor]
TRAIN, VALIDATION, TEST, UNLABELED = 0, 100, 200, 300  # the input of a sample is its number


def softmax_reference(logits: Tensor) -> list[list[float]]:
    """Probabilities, number by number."""
    rows = []
    for row in logits.tolist():
        terms = [math.exp(value - max(row)) for value in row]
        rows.append([term / sum(terms) for term in terms])
    return rows


def logits_of(probabilities: Sequence[Sequence[float]]) -> Tensor:
    """Logits of the given probabilities, each row with an offset of its own."""
    return torch.tensor(probabilities).log() + torch.arange(len(probabilities))[:, None] - 1.0


@exercise.property("confident rows")
def confident(answer: ModuleType, rng: random.Random) -> None:
    cases = [logits_of([[0.9, 0.1], [0.4, 0.6]]), logits_of([[0.2, 0.7, 0.1], [0.05, 0.05, 0.9]])]
    cases += [2 * torch.randn(n, c) for n, c in [(3, 3), (6, 4), (0, 3)]]
    for logits in cases:
        for threshold in (0.8, 0.5, 0.95, 0.0):
            pairs = [(i, row.index(max(row))) for i, row in enumerate(softmax_reference(logits)) if max(row) >= threshold]
            expected = tuple(torch.tensor([pair[k] for pair in pairs], dtype=torch.int64) for k in (0, 1))
            check_equal(answer.confident_labels, logits, threshold, expected=expected)
    even = torch.zeros(1, 2)  # a probability of exactly one half
    check_equal(answer.confident_labels, even, 0.5, expected=(torch.tensor([0]), torch.tensor([0])))
    graph = torch.tensor([[3.0, 0.0]], requires_grad=True)
    check_equal(answer.confident_labels, graph, 0.5, expected=(torch.tensor([0]), torch.tensor([0])))


def loss_reference(student: Tensor, teacher: Tensor, threshold: float) -> Tensor:
    """Row by row."""
    total, count = (student * 0).sum(), 0
    for row, p in zip(student, softmax_reference(teacher.detach()), strict=True):
        if max(p) >= threshold:
            count += 1
            total = total - sum(weight * (value - row.logsumexp(0)) for weight, value in zip(p, row, strict=True))
    return total / max(count, 1)


@exercise.property("loss against soft labels")
def loss(answer: ModuleType, rng: random.Random) -> None:
    teacher = logits_of([[0.9, 0.1], [0.4, 0.6]])
    for threshold in (0.5, 0.8):
        student = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        check_equal(
            answer.pseudo_label_loss, student, teacher, threshold, expected=loss_reference(student, teacher, threshold)
        )
    for n, c in [(3, 3), (6, 4)]:
        student, teacher = 3 * torch.randn(n, c), 2 * torch.randn(n, c)
        check_equal(
            answer.pseudo_label_loss, student, teacher, 0.6, expected=loss_reference(student, teacher, 0.6), atol=1e-5
        )


@exercise.property("no confident row: 0")
def none(answer: ModuleType, rng: random.Random) -> None:
    student = torch.tensor([[1.0, 0.0]], requires_grad=True)
    value = answer.pseudo_label_loss(student, torch.zeros(1, 2), 0.9)
    reason = difference(value.detach() if isinstance(value, Tensor) else value, torch.tensor(0.0), 0.0, 0.0)
    shown = {"student_logits": student, "teacher_logits": torch.zeros(1, 2), "threshold": 0.9}
    check_that(not reason, f"no row is confident: {reason}", torch.tensor(0.0), value, **shown)
    check_that(value.requires_grad, "the result cannot be differentiated", **shown)
    value.backward()
    check_that(not student.grad.any(), "the gradient", torch.zeros(1, 2), student.grad, **shown)


@exercise.property("gradient, for the student alone")
def gradient(answer: ModuleType, rng: random.Random) -> None:
    student, teacher = torch.randn(3, 3), torch.tensor([[4.0, 0, 0], [0, 0.1, 0], [0, 0, 3.0]])
    fixed = teacher.double()
    check_gradients(
        lambda student: answer.pseudo_label_loss(student, fixed, 0.6), lambda s: loss_reference(s, fixed, 0.6), student
    )
    leaf = teacher.clone().requires_grad_()
    answer.pseudo_label_loss(student.clone().requires_grad_(), leaf * 1.0, 0.6).backward()
    got = leaf.grad
    check_that(got is None or not got.any(), "the teacher gets a gradient", None, got, teacher_logits=teacher)


class Script:
    """Scripted training: what each model predicts follows from the number of pseudo-labels that it was trained on.

    Args:
        scores: Number of pseudo-labels -> correct predictions of the 10 validation and the 10 test samples.
    """

    def __init__(self, scores: dict[int, tuple[int, int]], shown: dict[str, Any]) -> None:
        self.scores, self.shown = scores, shown
        self.train = torch.arange(3.0)[:, None] + TRAIN, torch.tensor([0, 1, 0])
        self.validation = torch.arange(10.0)[:, None] + VALIDATION, torch.arange(10) % 2
        self.test = torch.arange(10.0)[:, None] + TEST, torch.arange(10) % 2
        self.unlabeled = torch.arange(4.0)[:, None] + UNLABELED
        self.confidence = torch.tensor([0.99, 0.6, 0.9, 0.8])
        self.guesses = torch.tensor([1, 0, 0, 1])
        self.seen_test: list[int] = []

    def fit(self, inputs: Tensor, labels: Tensor) -> Callable[[Tensor], Tensor]:
        for name, got, want in (("inputs", inputs, self.train[0]), ("labels", labels, self.train[1])):
            fits = isinstance(got, Tensor) and got.dtype == want.dtype and got.ndim == want.ndim
            check_that(fits and not got.requires_grad, f"fit gets other {name}", want, got, **self.shown)
        numbers = inputs[:, 0].long()
        rows = dict(zip(numbers.tolist(), labels.tolist(), strict=True))
        known = dict(enumerate(self.train[1].tolist()))
        missing = [i for i in known if rows.get(i) != known[i]]
        check_that(not missing, "fit does not get the labeled samples", sorted(known), sorted(rows), **self.shown)
        check_that(
            not any(VALIDATION <= i < UNLABELED for i in rows), "fit gets validation or test", got=sorted(rows), **self.shown
        )
        check_that(len(rows) == len(inputs), "fit gets a sample twice", got=numbers, **self.shown)
        for i in rows.keys() - known.keys():
            want = self.guesses[i - UNLABELED].item()
            check_that(rows[i] == want, f"the label of unlabeled sample {i - UNLABELED}", want, rows[i], **self.shown)
        count = len(rows) - len(known)
        surest = set((self.confidence.argsort(descending=True)[:count] + UNLABELED).tolist())
        check_that(
            surest == rows.keys() - known.keys(), "fit gets other samples than the surest", got=sorted(rows), **self.shown
        )
        check_that(
            count in self.scores, "the number of pseudo-labels of a student", sorted(self.scores), count, **self.shown
        )
        return lambda x: self.predict(count, x)

    def predict(self, count: int, inputs: Tensor) -> Tensor:
        rows = []
        for number in inputs[:, 0].long().tolist():
            kind, i = number // 100 * 100, number % 100
            if kind == TEST:
                self.seen_test.append(count)
            if kind in (VALIDATION, TEST):
                right = i < self.scores[count][kind == TEST]
                label, p = (i % 2 if right else 1 - i % 2), 0.7
            else:
                label = int(self.guesses[i] if kind == UNLABELED else self.train[1][i])
                p = float(self.confidence[i]) if count == 0 and kind == UNLABELED else 0.995
            rows.append([p, 1 - p] if label == 0 else [1 - p, p])
        return torch.tensor(rows).reshape(-1, 2).log() + 1


def check_choice(answer: ModuleType, thresholds: list[float], scores: dict[int, tuple[int, int]], chosen: float) -> None:
    """Runs self_train on a script; `chosen` is the threshold of the best model on validation."""
    counts = {threshold: sum(c >= threshold for c in (0.99, 0.6, 0.9, 0.8)) for threshold in thresholds}
    correct = {"the teacher": scores[0], **{str(t): scores[count] for t, count in counts.items()}}
    shown = {"thresholds": thresholds, "correct of 10 in validation, test": correct}
    script = Script(scores, shown)
    try:
        got = answer.self_train(script.fit, script.train, script.validation, script.test, script.unlabeled, thresholds)
    except (NotImplementedError, Failure):
        raise
    except Exception as error:
        raise Failure(f"raises {type(error).__name__}", shown, got=error) from error
    count = counts.get(chosen, 0)
    expected = (chosen, scores[count][1] / 10)
    reason = difference(got, expected, 1e-5, 1e-6)
    check_that(not reason, f"chosen threshold and test accuracy: {reason}", expected, got, **shown)
    others = sorted(set(script.seen_test) - {count})
    check_that(not others, "models that were not chosen see the test", got=others, **shown)


@exercise.property("choice on validation")
def choice(answer: ModuleType, rng: random.Random) -> None:
    check_choice(answer, [0.95], {0: (5, 5), 1: (7, 6)}, 0.95)
    check_choice(answer, [0.95], {0: (7, 5), 1: (6, 8)}, math.inf)
    check_choice(answer, [0.95, 0.85, 0.7], {0: (6, 6), 1: (8, 6), 2: (9, 7), 3: (8, 9)}, 0.85)
    check_choice(answer, [0.95, 0.5], {0: (3, 6), 1: (5, 5), 4: (4, 4)}, 0.95)
    check_choice(answer, [0.5, 0.7, 0.95], {0: (6, 6), 4: (7, 9), 3: (6, 6), 1: (9, 8)}, 0.95)


@exercise.property("ties, and the teacher")
def ties(answer: ModuleType, rng: random.Random) -> None:
    check_choice(answer, [0.95, 0.7], {0: (6, 7), 1: (6, 8), 3: (5, 9)}, math.inf)
    check_choice(answer, [0.7, 0.95], {0: (5, 7), 1: (6, 8), 3: (6, 5)}, 0.7)
    check_choice(answer, [], {0: (5, 7)}, math.inf)


def blobs(count: int, centers: Tensor, generator: torch.Generator) -> Samples:
    """Classes in equal number, normal around their centers."""
    labels = torch.arange(count) % len(centers)
    return centers[labels] + torch.randn(count, centers.shape[1], generator=generator), labels


def fit_linear(inputs: Tensor, labels: Tensor) -> Callable[[Tensor], Tensor]:
    """Trains a linear classifier of four classes, from zeros."""
    parameters = [torch.zeros(inputs.shape[1], 4, requires_grad=True), torch.zeros(4, requires_grad=True)]
    for _ in range(60):
        loss = nn.functional.cross_entropy(inputs @ parameters[0] + parameters[1], labels)
        grads = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for parameter, grad in zip(parameters, grads, strict=True):
                parameter -= 0.3 * grad
    return lambda x: (x @ parameters[0] + parameters[1]).detach()


@exercise.property("gain on held-out data")
def gain(answer: ModuleType, rng: random.Random) -> str:
    gains = []
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        centers = 0.8 * torch.randn(4, 16, generator=generator)
        train, validation, test, (unlabeled, _) = (blobs(count, centers, generator) for count in (8, 80, 800, 400))
        _, score = answer.self_train(fit_linear, train, validation, test, unlabeled, [0.95, 0.8, 0.6])
        gains.append(score - (fit_linear(*train)(test[0]).argmax(1) == test[1]).float().mean().item())
    values = torch.tensor(gains)
    check_that(values.mean() > 0.02, "the mean gain over the teacher, on four data sets", "more than 0.02", values)
    return f"With 8 labels and 400 unlabeled samples, your students gain {values.mean():.3f} ± {values.std():.3f} (4 seeds)."


def confident_with(fault: str) -> Any:
    """confident_labels with one of the known faults."""

    def confident_labels(logits: Tensor, threshold: float) -> Samples:
        p = logits.softmax(0 if fault == "over_samples" else 1)
        confidence, labels = (logits if fault == "logits" else p).max(1)
        if fault == "no_threshold":
            return torch.arange(len(p)), labels
        index = (confidence >= threshold).nonzero().flatten()
        return index, labels if fault == "all_labels" else labels[index]

    return confident_labels


def loss_with(fault: str) -> Any:
    """pseudo_label_loss with one of the known faults."""

    def pseudo_label_loss(student_logits: Tensor, teacher_logits: Tensor, threshold: float) -> Tensor:
        targets = teacher_logits.softmax(1) if fault == "graph" else teacher_logits.detach().softmax(1)
        counts = targets.max(1).values >= threshold
        if fault == "hard":
            targets = nn.functional.one_hot(targets.argmax(1), targets.shape[1]).to(targets.dtype)
        losses = -(targets * student_logits.log_softmax(1)).sum(1)
        if fault == "nan":
            return losses[counts].mean()
        return (losses * counts).sum() / (len(losses) if fault == "all" else counts.sum().clamp(min=1))

    return pseudo_label_loss


def train_with(fault: str) -> Any:
    """self_train with one of the known faults."""

    def accuracy(model: Any, x: Tensor, y: Tensor) -> float:
        return (model(x).argmax(1) == y).float().mean().item()

    def self_train(fit, train, validation, test, unlabeled, thresholds):
        teacher = fit(*train)
        logits = teacher(unlabeled)
        best = -1.0 if fault == "students_alone" else accuracy(teacher, *(test if fault == "test" else validation))
        chosen, model = math.inf, teacher
        for threshold in thresholds:
            p, guesses = logits.softmax(1).max(1)
            kept = p >= (0.0 if fault == "all_rows" else threshold)
            x, y = torch.cat([train[0], unlabeled[kept]]), torch.cat([train[1], guesses[kept]])
            student = fit(unlabeled[kept], guesses[kept]) if fault == "pseudo_alone" else fit(x, y)
            held_out = test if fault == "test" else validation
            if fault == "leak":
                held_out = torch.cat([held_out[0], unlabeled[kept]]), torch.cat([held_out[1], guesses[kept]])
            score = accuracy(student, *held_out)
            if score >= best if fault == "ties" else score > best:
                best, chosen, model = score, threshold, student
            if fault == "chain":
                logits = student(unlabeled)
        return chosen, (best if fault == "validation_score" else accuracy(model, *test))

    return self_train


exercise.wrong("confident_labels", "No threshold: every guess becomes a label, the wrong ones too.")(
    confident_with("no_threshold")
)
exercise.wrong("confident_labels", "The threshold is for probabilities: take the softmax of the logits first.")(
    confident_with("logits")
)
exercise.wrong("confident_labels", "softmax(0) is over the samples: the classes are dimension 1.")(
    confident_with("over_samples")
)
exercise.wrong("confident_labels", "The labels of all rows: take those of the confident rows, labels[index].")(
    confident_with("all_labels")
)
exercise.wrong("pseudo_label_loss", "The soft labels keep their graph: the loss would also move the teacher. Detach them.")(
    loss_with("graph")
)
exercise.wrong("pseudo_label_loss", "The targets are the teacher's classes; its probabilities are asked for.")(
    loss_with("hard")
)
exercise.wrong("pseudo_label_loss", "The sum is divided by all rows: take the mean over the rows that count.")(
    loss_with("all")
)
exercise.wrong("pseudo_label_loss", "The mean of no rows is 0 / 0: divide by at least 1.")(loss_with("nan"))
exercise.wrong("self_train", "The test chooses the model: its accuracy is then no longer one of data that nobody has seen.")(
    train_with("test")
)
exercise.wrong(
    "self_train", "Every student gets all unlabeled samples: keep those where the teacher is confident, by each threshold."
)(train_with("all_rows"))
exercise.wrong(
    "self_train", "Pseudo-labels are in the validation data: students agree with the guesses that they were trained on."
)(train_with("leak"))
exercise.wrong("self_train", "The teacher is not among the candidates: a student that is worse would be taken.")(
    train_with("students_alone")
)
exercise.wrong("self_train", "Students are trained on pseudo-labels alone: the labeled samples belong to it.")(
    train_with("pseudo_alone")
)
exercise.wrong("self_train", "The accuracy is that of the validation data, on which the model was chosen.")(
    train_with("validation_score")
)
exercise.wrong("self_train", "Of equally good models the first is asked for, the teacher before all: compare with >.")(
    train_with("ties")
)


@exercise.also_right("confident_labels")
def row_by_row(logits, threshold):
    pairs = [(i, int(p.argmax())) for i, p in enumerate(logits.detach().softmax(-1)) if float(p.max()) >= threshold]
    table = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


@exercise.also_right("pseudo_label_loss")
def by_cross_entropy(student_logits, teacher_logits, threshold):
    with torch.no_grad():
        soft = torch.softmax(teacher_logits, dim=-1)
        weight = (soft.amax(-1) >= threshold).to(soft.dtype)
    losses = nn.functional.cross_entropy(student_logits, soft, reduction="none")
    return torch.einsum("n,n->", losses, weight / max(float(weight.sum()), 1.0))


@exercise.also_right("self_train")
def all_candidates_first(fit, train, validation, test, unlabeled, thresholds):
    def correct(model, data):
        return int((model(data[0]).max(1).indices == data[1]).sum())

    models = {math.inf: fit(*train)}
    top = models[math.inf](unlabeled).softmax(1)
    for threshold in thresholds:
        rows = [i for i in range(len(top)) if top[i].max() >= threshold]
        if rows:
            x = torch.vstack([train[0], unlabeled[rows]])
            models[threshold] = fit(x, torch.hstack([train[1], top[rows].argmax(1)]))
    winner = max(models, key=lambda threshold: correct(models[threshold], validation))
    return winner, correct(models[winner], test) / len(test[1])
