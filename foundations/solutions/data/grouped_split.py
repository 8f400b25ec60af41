"""Grouped split: validation data that training has not seen

Rows of one patient, or one row twice, on both sides of a split make a validation that measures memory. Statistics of all
rows leak, too.
"""

import torch
from torch import Tensor


def linked_groups(x: Tensor, groups: Tensor) -> Tensor:
    """Groups after those that hold an equal row of `x` are joined, also through others: a with b, and b with c.

    Args:
        x: (N, D) float.
        groups: (N,) int64, such as the patient of each row.

    Returns:
        (N,) int64, of each row the smallest number among the groups that its group is joined with.

    Example:
        x [[1], [2], [2], [3]] and groups [7, 7, 4, 5] give [4, 4, 4, 5]
    """
    linked, before = groups.clone(), None
    while before is None or not torch.equal(linked, before):
        before = linked.clone()
        for row in range(len(x)):
            together = (x == x[row]).all(1) | (groups == groups[row])
            linked[together] = linked[together].min()
    return linked


def grouped_split(x: Tensor, labels: Tensor, groups: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Random split into training and validation rows, by linked groups, with the classes in proportion.

    Of each class, validation holds `fraction` of the rows, up to less than one linked group. A class of two linked groups or
    more stands on both sides; one of a single group is for training alone. Other seeds give other splits.

    Args:
        x: (N, D) float.
        labels: (N,) int64. All rows of a linked group have the same.
        groups: (N,) int64.
        fraction: Fraction of the rows for validation, between 0 and 1.
        seed: Random seed; the global random states are neither used nor changed.

    Returns:
        Indices of the training rows and of the validation rows, int64, in any order.

    Example:
        Of four patients with five rows each, two of them ill, fraction 0.5 puts one ill and one healthy into validation.
    """
    linked, rng = linked_groups(x, groups), torch.Generator().manual_seed(seed)
    in_validation = torch.zeros(len(x), dtype=torch.bool)
    for label in labels.unique():
        of_class = labels == label
        members = linked[of_class].unique()
        members = members[torch.randperm(len(members), generator=rng)]
        for group in members[1:]:  # one group stays in training
            if in_validation[of_class].sum() < fraction * of_class.sum():
                in_validation |= linked == group
    return (~in_validation).nonzero()[:, 0], in_validation.nonzero()[:, 0]


def standardize(train: Tensor, validation: Tensor) -> tuple[Tensor, Tensor]:
    """Both with the statistics of the training rows: each feature of `train` gets mean 0 and standard deviation 1.

    A feature that is constant in training, all rows equal, is divided by 1. The standard deviation is the biased one.

    Args:
        train: (N, D) float.
        validation: (M, D) float; M may be 0.

    Returns:
        (N, D) and (M, D).

    Example:
        train [[1], [3]] and validation [[5]] give [[-1], [1]] and [[3]]
    """
    mean, std = train.mean(0), train.std(0, correction=0)
    constant = (train == train[:1]).all(0)  # std is not always 0 there: the mean of seven times 0.1 is rounded
    std = torch.where(constant, 1.0, std)
    return (train - mean) / std, (validation - mean) / std
