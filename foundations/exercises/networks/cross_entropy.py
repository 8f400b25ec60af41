"""Exercise cross_entropy: from logits, with weights and ignored labels, at any size of the logits."""

import random
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from foundations.comparing import check_equal, check_gradients
from foundations.exercise import Exercise

exercise = Exercise(
    title="Cross-entropy: how surprised the logits are by the label",
    level="core",
    minutes=20,
    link="projects.seq2seq.losses:linear_cross_entropy",
    why="the loss of every token, computed together with the output layer to save memory",
    hints=(
        "log softmax(z)[y] = z[y] - log(sum exp(z)); subtract the largest logit first, which changes nothing.",
        "Mean = sum(weight[y] * loss) / sum(weight[y]) over the samples that count; without weights each weighs 1.",
        "log_probs = z - z.max(1, keepdim=True).values; log_probs = log_probs - log_probs.exp().sum(1, keepdim=True).log()",
    ),
    source="torch._decomp.decompositions:nll_loss_forward",
    look_at="The weighted and the unweighted mean are two branches. What divides in each?",
    barred=(
        "cross_entropy",
        "log_softmax",
        "softmax",
        "nll_loss",
        "logsumexp",
        "torch.nn.CrossEntropyLoss",
        "torch.nn.LogSoftmax",
    ),
)


@exercise.property("values")
def values(answer: ModuleType, rng: random.Random) -> None:
    for n, c in [(1, 2), (2, 3), (3, 3), (5, 4)]:
        logits, labels = torch.randn(n, c), torch.randint(c, (n,))
        check_equal(answer.cross_entropy, logits, labels, expected=F.cross_entropy(logits, labels))


@exercise.property("large logits")
def large(answer: ModuleType, rng: random.Random) -> None:
    for logits in (torch.tensor([[1e4, 0.0, -1e4]]), torch.tensor([[-200.0, -210.0, -205.0]])):
        for label in range(3):
            labels = torch.tensor([label])
            check_equal(answer.cross_entropy, logits, labels, expected=F.cross_entropy(logits, labels))


@exercise.property("ignored labels")
def ignored(answer: ModuleType, rng: random.Random) -> None:
    logits, labels = torch.randn(4, 3), torch.tensor([0, -100, 2, -100])
    check_equal(answer.cross_entropy, logits, labels, expected=F.cross_entropy(logits, labels))
    logits_of_one, labels_of_one = torch.randn(2, 1), torch.tensor([0, -100])  # the only class has label 0
    expected = F.cross_entropy(logits_of_one, labels_of_one)
    check_equal(answer.cross_entropy, logits_of_one, labels_of_one, expected=expected)
    other = torch.tensor([0, 1, 1, 2])
    check_equal(answer.cross_entropy, logits, other, None, 1, expected=F.cross_entropy(logits, other, ignore_index=1))


@exercise.property("class weights")
def weighted(answer: ModuleType, rng: random.Random) -> None:
    logits, labels, weight = torch.randn(4, 3), torch.tensor([0, 2, 2, 1]), torch.tensor([0.5, 1.0, 4.0])
    check_equal(answer.cross_entropy, logits, labels, weight, expected=F.cross_entropy(logits, labels, weight))
    labels = torch.tensor([0, -100, 2, 1])
    check_equal(answer.cross_entropy, logits, labels, weight, expected=F.cross_entropy(logits, labels, weight))


@exercise.property("gradient")
def gradient(answer: ModuleType, rng: random.Random) -> None:
    check_gradients(answer.cross_entropy, F.cross_entropy, torch.randn(4, 3), torch.tensor([0, -100, 2, 1]))
    check_gradients(answer.cross_entropy, F.cross_entropy, torch.tensor([[1e4, 0.0, -1e4]]), torch.tensor([1]))


def loss(logits: Tensor, labels: Tensor, weight: Tensor | None, ignore_index: int, fault: str) -> Tensor:
    """Cross-entropy with one of the known faults."""
    counts = labels != ignore_index
    target = torch.where(counts, labels, 0)
    if fault == "twice":
        logits = logits.exp() / logits.exp().sum(1, keepdim=True) if logits.abs().max() < 50 else logits
    shifted = logits if fault == "overflow" else logits - logits.max(1, keepdim=True).values
    if fault == "log_of_softmax":
        log_probs = (shifted.exp() / shifted.exp().sum(1, keepdim=True)).log()
    else:
        log_probs = shifted - shifted.exp().sum(1, keepdim=True).log()
    losses = -log_probs[torch.arange(len(labels)), target]
    weights = counts.to(logits.dtype) if weight is None else weight[target] * counts
    divisor = weights.sum()
    if fault == "mean_over_all":
        divisor = torch.tensor(float(len(labels)), dtype=logits.dtype)
    if fault == "weights_not_summed" and weight is not None:
        divisor = counts.sum().to(logits.dtype)
    if fault == "sum":
        divisor = torch.ones((), dtype=logits.dtype)
    return (losses * weights).sum() / divisor


@exercise.wrong(
    "cross_entropy", "The logarithm of a softmax that has become 0 is -inf: compute log softmax in one, z - log(sum exp z)."
)
def log_of_softmax(logits: Tensor, labels: Tensor, weight: Tensor | None = None, ignore_index: int = -100) -> Tensor:
    return loss(logits, labels, weight, ignore_index, "log_of_softmax")


@exercise.wrong("cross_entropy", "exp(1e4) is inf: subtract the largest logit of each row first.")
def overflow(logits: Tensor, labels: Tensor, weight: Tensor | None = None, ignore_index: int = -100) -> Tensor:
    return loss(logits, labels, weight, ignore_index, "overflow")


@exercise.wrong("cross_entropy", "With weights, the mean divides by the sum of the weights, not by the number of samples.")
def weights_not_summed(logits: Tensor, labels: Tensor, weight: Tensor | None = None, ignore_index: int = -100) -> Tensor:
    return loss(logits, labels, weight, ignore_index, "weights_not_summed")


@exercise.wrong("cross_entropy", "The inputs are logits: a softmax before the loss is taken twice, and the gradients fade.")
def softmax_first(logits: Tensor, labels: Tensor, weight: Tensor | None = None, ignore_index: int = -100) -> Tensor:
    return loss(logits, labels, weight, ignore_index, "twice")


@exercise.wrong("cross_entropy", "Ignored samples are counted in the mean: divide by those that count.")
def ignored_counted(logits: Tensor, labels: Tensor, weight: Tensor | None = None, ignore_index: int = -100) -> Tensor:
    return loss(logits, labels, weight, ignore_index, "mean_over_all")


@exercise.wrong("cross_entropy", "This is the sum over the samples; the mean is asked for.")
def summed(logits: Tensor, labels: Tensor, weight: Tensor | None = None, ignore_index: int = -100) -> Tensor:
    return loss(logits, labels, weight, ignore_index, "sum")


@exercise.also_right("cross_entropy")
def by_selection(logits: Tensor, labels: Tensor, weight: Tensor | None = None, ignore_index: int = -100) -> Tensor:
    keep = labels != ignore_index
    z, y = logits[keep], labels[keep]
    z = z - z.amax(dim=1, keepdim=True)
    nll = torch.log(torch.exp(z).sum(dim=1)) - z[torch.arange(y.numel()), y]
    w = torch.ones_like(nll) if weight is None else weight[y]
    return (w * nll).sum() / w.sum()


@exercise.also_right("cross_entropy")
def by_logaddexp(logits: Tensor, labels: Tensor, weight: Tensor | None = None, ignore_index: int = -100) -> Tensor:
    total, divisor = logits.new_zeros(()), logits.new_zeros(())
    for row, label in zip(logits, labels.tolist(), strict=True):
        if label == ignore_index:
            continue
        normalizer = row[0]
        for value in row[1:]:
            normalizer = torch.logaddexp(normalizer, value)
        w = logits.new_ones(()) if weight is None else weight[label].to(logits.dtype)
        total, divisor = total + w * (normalizer - row[label]), divisor + w
    return total / divisor
