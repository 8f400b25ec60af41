"""Check metrics: a number that nobody has tested is a guess

Five metrics are handed to you. Find out which are wrong by inputs whose result you know, and write two of them right.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def find_wrong(metrics: dict[str, Callable[..., float]]) -> list[str]:
    """Names of the metrics that do not give what is defined here, on some input of your own; also those that raise.

    Args:
        metrics: Some or all of these five, by name:
            accuracy(logits, labels): (N, C) and (N,); fraction of rows whose largest logit is that of the label.
            macro_f1(predictions, labels, num_classes): as below.
            r2(predictions, targets): 1 - sum of (target - prediction)^2 / sum of (target - mean target)^2. Each of the two
                is (N,) or (N, 1), also one of each.
            roc_auc(scores, labels): as below.
            corpus_bleu(hypotheses, references): lists of lists of words, one reference each. For n = 1 … 4: of all n-grams
                of all hypotheses the fraction that is matched in its own reference, each no more often than it is there;
                then the fourth root of the product of the four. If the hypotheses have c words in all and the references
                r > c, it is multiplied by exp(1 - r / c). 0.0 if nothing is matched for some n.

    Returns:
        Sorted.

    Example:
        find_wrong({"accuracy": lambda logits, labels: 0.5}) is ["accuracy"]
    """
    labels, targets = torch.tensor([0, 0, 1, 1]), torch.tensor([1.0, 2.0, 3.0])
    guess = torch.tensor([1.0, 2.0, 4.0])  # squared error 1, of a variance of 2
    good, bad, best = list("abcde"), list("fghix"), list("fghij")
    long, short = list("abcde"), list("abcd")
    cases: list[tuple[str, tuple[object, ...], float]] = [
        ("accuracy", (torch.eye(3)[:, :2], torch.tensor([0, 0, 0])), 2 / 3),
        ("macro_f1", (torch.tensor([0, 0, 1, 3]), labels, 4), (1 + 2 / 3) / 3),  # class 3 is never right, 2 is absent
        ("macro_f1", (torch.tensor([0, 0, 0, 0]), labels, 2), 1 / 3),
        *[("r2", (a, b), 1 / 2) for a in (guess, guess[:, None]) for b in (targets, targets[:, None])],
        ("roc_auc", (torch.tensor([0.1, 0.4, 0.4, 0.8]), labels), 7 / 8),
        ("corpus_bleu", ([good, bad], [good, best]), (9 / 10 * 7 / 8 * 5 / 6 * 3 / 4) ** 0.25),
        ("corpus_bleu", ([list("aaaabcde")], [list("abcdefgh")]), (5 / 8 * 4 / 7 * 3 / 6 * 2 / 5) ** 0.25),
        ("corpus_bleu", ([short], [long]), math.exp(-1 / 4)),
        ("corpus_bleu", ([long], [short]), (1 / 5) ** 0.25),
        ("corpus_bleu", ([short], [list("wxyz")]), 0.0),
    ]
    return sorted({name for name, args, value in cases if name in metrics and not _gives(metrics[name], args, value)})


def _gives(metric: Callable[..., float], args: tuple[object, ...], value: float) -> bool:
    try:
        return abs(metric(*args) - value) < 1e-5  # False for NaN, unlike `not abs(…) > 1e-5`
    except Exception:
        return False


def macro_f1(predictions: Tensor, labels: Tensor, num_classes: int) -> float:
    """Mean of the classes' F1 = 2 TP / (2 TP + FP + FN), over the classes that occur in `predictions` or `labels`.

    Args:
        predictions: (N,) int64, from 0 to num_classes - 1.
        labels: (N,) int64, likewise; N is at least 1.

    Example:
        macro_f1([0, 0], [0, 1], 3) is 1/3: 2/3 for class 0, 0 for class 1, and class 2 does not occur
    """
    scores = []
    for label in range(num_classes):
        hits = ((predictions == label) & (labels == label)).sum().item()
        total = (predictions == label).sum().item() + (labels == label).sum().item()
        if total:
            scores.append(2 * hits / total)
    return sum(scores) / len(scores)


def roc_auc(scores: Tensor, labels: Tensor) -> float:
    """Area under the ROC curve: how often a positive sample has a higher score than a negative one; a tie counts a half.

    Args:
        scores: (N,) float.
        labels: (N,) int64, 1 for positive and 0 for negative samples.

    Returns:
        Mean over all pairs of a positive and a negative sample; NaN if there are none.

    Example:
        roc_auc([0.2, 0.2, 0.9], [0, 1, 1]) is 0.75: one win, one tie
    """
    gaps = scores[labels == 1][:, None] - scores[labels == 0]  # every pair
    return (gaps.sign() + 1).mean().item() / 2
