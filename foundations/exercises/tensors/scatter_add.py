"""Exercise scatter_add: indices that meet."""

import random
from types import ModuleType

import torch
from torch import Tensor

from foundations.comparing import check_device, check_equal, check_gradients
from foundations.exercise import Exercise

exercise = Exercise(
    title="Scatter-add: sums by index",
    level="core",
    minutes=10,
    link="projects.gan.metrics:mode_counts",
    why="how many generated points each mode of the mixture gets",
    hints=(
        "Begin with zeros; each weight is added at its index. Assigning through an index keeps only one of those that meet.",
        "sums[k] = sum of weights[i] over all i with index[i] = k.",
        "torch.zeros(size, dtype=weights.dtype).scatter_add(0, index, weights); index_add does the same.",
    ),
    source="torch._refs:index_add",
    look_at="index_add is index_put with accumulate=True, and without it the last value wins. Where is the difference?",
    barred=("bincount", "histc", "histogram"),
)


def reference(index: Tensor, weights: Tensor, size: int) -> Tensor:
    """One sum after the other."""
    return torch.stack([weights[index == k].sum() for k in range(size)])


@exercise.property("values")
def values(answer: ModuleType, rng: random.Random) -> None:
    for n, size in [(2, 3), (4, 4), (5, 8)]:
        index, weights = torch.randperm(size)[:n], torch.randn(n)
        check_equal(answer.sum_by_index, index, weights, size, expected=reference(index, weights, size))


@exercise.property("indices that repeat")
def repeated(answer: ModuleType, rng: random.Random) -> None:
    index, weights = torch.tensor([0, 0]), torch.tensor([1.0, 2.0])
    check_equal(answer.sum_by_index, index, weights, 1, expected=torch.tensor([3.0]))
    index, weights = torch.tensor([1, 1, 0, 1]), torch.tensor([1.0, 2.0, 4.0, 8.0])
    check_equal(answer.sum_by_index, index, weights, 2, expected=torch.tensor([4.0, 11.0]))
    index, weights = torch.randperm(7) % 3, torch.randn(7)
    check_equal(answer.sum_by_index, index, weights, 3, expected=reference(index, weights, 3))


@exercise.property("indices that do not occur")
def missing(answer: ModuleType, rng: random.Random) -> None:
    index, weights = torch.tensor([1, 1]), torch.tensor([1.0, 2.0])
    check_equal(answer.sum_by_index, index, weights, 4, expected=torch.tensor([0.0, 3.0, 0.0, 0.0]))
    check_equal(answer.sum_by_index, index[:0], weights[:0], 2, expected=torch.zeros(2))


@exercise.property("dtype of the weights")
def dtypes(answer: ModuleType, rng: random.Random) -> None:
    index, weights = torch.tensor([1, 1]), torch.tensor([0.1, 0.2], dtype=torch.float64)
    check_equal(answer.sum_by_index, index, weights, 2, expected=torch.tensor([0.0, 0.3], dtype=torch.float64), atol=1e-15)


@exercise.property("gradient")
def gradient(answer: ModuleType, rng: random.Random) -> None:
    check_gradients(answer.sum_by_index, reference, torch.tensor([2, 0, 2]), torch.randn(3), 4)


@exercise.property("any device")
def device(answer: ModuleType, rng: random.Random) -> None:
    check_device(answer.sum_by_index, torch.tensor([1, 1]), torch.ones(2), 3)


ONE_KEPT = (
    "Of equal indices only the last is kept: scatter and sums[index] += weights write once to each place; scatter_add adds."
)
FLOAT32 = "A helper tensor is float32, as torch.zeros and float() make it: give it the dtype of the weights."
ON_THE_CPU = "torch.zeros and torch.arange are on the CPU unless you say so: give them device=weights.device for a GPU."


@exercise.wrong("sum_by_index", ONE_KEPT)
def duplicates_dropped(index: Tensor, weights: Tensor, size: int) -> Tensor:
    sums = torch.zeros(size, dtype=weights.dtype, device=weights.device)
    sums[index] += weights
    return sums


@exercise.wrong("sum_by_index", ONE_KEPT)
def overwritten(index: Tensor, weights: Tensor, size: int) -> Tensor:
    return torch.zeros(size, dtype=weights.dtype, device=weights.device).scatter(0, index, weights)


@exercise.wrong(
    "sum_by_index", "The result has as many entries as the largest index says: the size is given, some indices never occur."
)
def size_from_the_data(index: Tensor, weights: Tensor, size: int) -> Tensor:
    length = int(index.max()) + 1 if len(index) else 0
    return torch.zeros(length, dtype=weights.dtype).scatter_add(0, index, weights)


@exercise.wrong("sum_by_index", FLOAT32)
def float32_always(index: Tensor, weights: Tensor, size: int) -> Tensor:
    return torch.zeros(size, device=weights.device).scatter_add(0, index, weights.float())


@exercise.wrong("sum_by_index", FLOAT32)
def zeros_of_float32(index: Tensor, weights: Tensor, size: int) -> Tensor:
    return torch.zeros(size, device=weights.device).scatter_add(0, index, weights)


@exercise.wrong("sum_by_index", FLOAT32)
def zeros_of_float32_by_index_add(index: Tensor, weights: Tensor, size: int) -> Tensor:
    return torch.zeros(size, device=weights.device).index_add(0, index, weights)


@exercise.wrong("sum_by_index", FLOAT32)
def put_into_float32(index: Tensor, weights: Tensor, size: int) -> Tensor:
    return torch.zeros(size, device=weights.device).index_put((index,), weights, accumulate=True)


@exercise.wrong("sum_by_index", FLOAT32)
def one_hot_of_float32(index: Tensor, weights: Tensor, size: int) -> Tensor:
    return weights @ (index[:, None] == torch.arange(size, device=index.device)).float()


@exercise.wrong("sum_by_index", ON_THE_CPU)
def zeros_on_the_cpu(index: Tensor, weights: Tensor, size: int) -> Tensor:
    return torch.zeros(size, dtype=weights.dtype).scatter_add(0, index, weights)


@exercise.wrong("sum_by_index", ON_THE_CPU)
def zeros_on_the_cpu_by_index_add(index: Tensor, weights: Tensor, size: int) -> Tensor:
    return torch.zeros(size, dtype=weights.dtype).index_add(0, index, weights)


@exercise.wrong("sum_by_index", ON_THE_CPU)
def arange_on_the_cpu(index: Tensor, weights: Tensor, size: int) -> Tensor:
    return weights @ (index[:, None] == torch.arange(size)).to(weights.dtype)


@exercise.also_right("sum_by_index")
def by_one_hot(index: Tensor, weights: Tensor, size: int) -> Tensor:
    return weights @ (index[:, None] == torch.arange(size, device=index.device)).to(weights.dtype)


@exercise.also_right("sum_by_index")
def by_loop(index: Tensor, weights: Tensor, size: int) -> Tensor:
    sums = [weights.new_zeros(()) for _ in range(size)]
    for place, weight in zip(index.tolist(), weights, strict=True):
        sums[place] = sums[place] + weight
    return torch.stack(sums)
