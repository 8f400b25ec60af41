"""Exercise data_parallel: shards of ranks, and the gradient that they agree on."""

import random
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from foundations.comparing import call, check_equal, check_that, difference
from foundations.exercise import Exercise

exercise = Exercise(
    title="Data parallelism: many processes, each with a shard, and the gradient of the whole batch",
    level="core",
    minutes=15,
    link="common.nn.distributed:average_gradients",
    why="the networks of several processes stay equal because their steps are",
    hints=(
        "All ranks make the same permutation, from seed and epoch, and each takes its own part of it.",
        "The mean over all samples is the sum over ranks of (n_r / N) times the mean of rank r.",
        "torch.randperm(count, generator=...)[rank::world_size], and sum(g * n for ...) / sum(counts), without ranks of 0",
    ),
    source="torch.utils.data.distributed:DistributedSampler",
    look_at="It repeats samples until all ranks have equally many. Where does the epoch enter, and who calls set_epoch?",
    barred=("torch.utils.data.distributed.DistributedSampler",),
)

SIZES = [(2, 1), (5, 2), (2, 2), (4, 3), (7, 4), (2, 3), (0, 2), (64, 4)]


def shards(answer: ModuleType, count: int, world_size: int, epoch: int = 0, seed: int = 0) -> list[list[int]]:
    """Samples of each rank."""
    parts = []
    for rank in range(world_size):
        part = call(answer.shard_indices, count, rank, world_size, epoch, seed)
        shown = {"count": count, "rank": rank, "world_size": world_size, "epoch": epoch, "seed": seed}
        is_index = isinstance(part, Tensor) and part.ndim == 1 and part.dtype == torch.int64
        check_that(is_index, "a tensor (n,) int64 is expected", got=part, **shown)
        parts.append(part.tolist())
    return parts


@exercise.property("each sample belongs to one rank")
def partition(answer: ModuleType, rng: random.Random) -> None:
    for count, world_size in SIZES:
        for epoch in (0, 3):
            parts = shards(answer, count, world_size, epoch)
            shown = {"count": count, "world_size": world_size, "epoch": epoch}
            together = sorted(index for part in parts for index in part)
            check_that(
                together == list(range(count)), "the samples of all ranks together", list(range(count)), parts, **shown
            )
            lengths = [len(part) for part in parts]
            check_that(max(lengths) - min(lengths) <= 1, "the sizes differ by more than 1", got=lengths, **shown)


@exercise.property("shuffled by seed and epoch")
def shuffled(answer: ModuleType, rng: random.Random) -> None:
    before = torch.random.get_rng_state()
    first, again = (shards(answer, 64, 4, epoch=1, seed=5) for _ in range(2))
    check_that(first == again, "the same arguments give other shards", first[0][:8], again[0][:8])
    unchanged = torch.equal(before, torch.random.get_rng_state())
    check_that(unchanged, "torch's global generator has moved: dropout would differ")
    check_that(first[0] != sorted(first[0]), "the samples of a rank are in order", got=first[0][:8])
    check_that({i // 16 for i in first[0]} != {first[0][0] // 16}, "a rank gets samples that lie beside each other")
    for name, epoch, seed in (("epoch", 2, 5), ("seed", 1, 6)):
        other = shards(answer, 64, 4, epoch, seed)
        check_that(
            [sorted(part) for part in other] != [sorted(part) for part in first], f"another {name} gives the same shards"
        )
        check_that(other[0] != first[0], f"another {name} gives the same order")


class Partly(nn.Module):
    """A network with a parameter that the loss does not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.unused, self.layer = nn.Parameter(torch.ones(2)), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).tanh()


def make_model() -> nn.Module:
    """A small network with fixed weights."""
    torch.manual_seed(0)
    return Partly()


@exercise.property("gradients of a rank")
def of_a_rank(answer: ModuleType, rng: random.Random) -> None:
    for n in (1, 3):
        model, x, y = make_model(), torch.randn(n, 2), torch.randint(3, (n,))
        nn.functional.cross_entropy(model(x), y).backward()
        expected = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]
        for old in (None, 1.0):
            for p in model.parameters():
                p.grad = None if old is None else torch.full_like(p, old)
            got = call(answer.rank_gradients, model, nn.functional.cross_entropy, x, y)
            reason = difference([g.detach() if isinstance(g, Tensor) else g for g in got], expected, 1e-5, 1e-6)
            check_that(
                not reason, f"gradients{reason}", expected, got, inputs=x, targets=y, **{"old gradients": old or "none"}
            )
            kept = all(
                p.grad is None if old is None else torch.equal(p.grad, torch.full_like(p, old)) for p in model.parameters()
            )
            check_that(kept, "the parameters' .grad have changed", got=[p.grad for p in model.parameters()])


@exercise.property("all-reduce")
def reduced(answer: ModuleType, rng: random.Random) -> None:
    one, five = torch.tensor([1.0]), torch.tensor([5.0])
    check_equal(answer.all_reduce, [[one], [five]], [2, 2], expected=[torch.tensor([3.0])])
    check_equal(answer.all_reduce, [[one], [five]], [3, 1], expected=[torch.tensor([2.0])])
    check_equal(answer.all_reduce, [[one]], [4], expected=[one])
    nan = torch.tensor([float("nan")])
    check_equal(answer.all_reduce, [[one], [nan], [five]], [1, 0, 3], expected=[torch.tensor([4.0])])
    gradients = [[torch.randn(2, 3), torch.randn(3)] for _ in range(3)]
    before = [[g.clone() for g in rank] for rank in gradients]
    expected = [(2 * a + 5 * b + c) / 8 for a, b, c in zip(*gradients, strict=True)]
    check_equal(answer.all_reduce, gradients, [2, 5, 1], expected=expected)
    check_that(not difference(gradients, before, 0.0, 0.0), "all_reduce changes the gradients of a rank")


@exercise.property("the gradient of the whole batch")
def whole(answer: ModuleType, rng: random.Random) -> None:
    for count, world_size in [(5, 2), (7, 3), (2, 3)]:
        model, x, y = make_model(), torch.randn(count, 2), torch.randint(3, (count,))
        parts = shards(answer, count, world_size)
        gradients = [answer.rank_gradients(model, nn.functional.cross_entropy, x[i], y[i]) if i else None for i in parts]
        some = next(g for g in gradients if g is not None)
        gradients = [[torch.full_like(p, float("nan")) for p in some] if g is None else g for g in gradients]
        got = answer.all_reduce(gradients, [len(part) for part in parts])
        nn.functional.cross_entropy(model(x), y).backward()
        expected = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
        reason = difference([g.detach() for g in got], expected, 1e-4, 1e-6)
        check_that(not reason, f"gradients{reason}", expected, got, count=count, world_size=world_size)


def shard_with(fault: str) -> Any:
    """shard_indices with one of the known faults."""

    def shard_indices(count: int, rank: int, world_size: int, epoch: int, seed: int) -> Tensor:
        mixed = {"no_epoch": seed, "own": 1_000_003 * seed + epoch + 7919 * rank}
        rng = torch.Generator().manual_seed(mixed.get(fault, 1_000_003 * seed + epoch))
        if fault == "global":
            torch.manual_seed(1_000_003 * seed + epoch)
            return torch.randperm(count)[rank::world_size]
        order = torch.randperm(count, generator=rng)
        if fault == "same":
            return order[: count // world_size + (rank < count % world_size)]
        if fault == "dropped":
            size = count // world_size
            return order[rank * size : (rank + 1) * size]
        if fault == "repeated":
            return order.repeat(world_size)[rank : -(-count // world_size) * world_size : world_size]
        return order[rank::world_size]

    return shard_indices


def reduce_with(fault: str) -> Any:
    """all_reduce with one of the known faults."""

    def all_reduce(gradients: Any, counts: Any) -> list[Tensor]:
        if fault == "mean":
            return [torch.stack(parts).mean(0) for parts in zip(*gradients, strict=True)]
        if fault == "sum":
            return [torch.stack(parts).sum(0) for parts in zip(*gradients, strict=True)]
        weighted = [[g * n for g in rank] for rank, n in zip(gradients, counts, strict=True)]
        return [torch.stack(parts).sum(0) / sum(counts) for parts in zip(*weighted, strict=True)]

    return all_reduce


exercise.wrong("shard_indices", "Every rank gets the same samples: more processes, and nothing is learned faster.")(
    shard_with("same")
)
exercise.wrong("shard_indices", "Each rank shuffles with a seed of its own: some samples come twice, others never.")(
    shard_with("own")
)
exercise.wrong("shard_indices", "The rest of the division is dropped: some samples are not seen in this epoch.")(
    shard_with("dropped")
)
exercise.wrong(
    "shard_indices", "Samples are repeated to make the shards equal, as DistributedSampler does: here each counts once."
)(shard_with("repeated"))
exercise.wrong(
    "shard_indices",
    "The epoch does not enter: every epoch has the same order, as with a DistributedSampler without set_epoch.",
)(shard_with("no_epoch"))
exercise.wrong("shard_indices", "torch.manual_seed makes all ranks' dropout equal, too: use a torch.Generator.")(
    shard_with("global")
)
exercise.wrong("all_reduce", "The mean of the ranks' means: a rank with few samples counts too much.")(reduce_with("mean"))
exercise.wrong("all_reduce", "The gradients are added up, not averaged: more ranks would mean larger steps.")(
    reduce_with("sum")
)
exercise.wrong("all_reduce", "0 * nan is nan: leave a rank without samples out.")(reduce_with("zero_times_nan"))


@exercise.wrong(
    "rank_gradients", "backward() adds to .grad: what was there before is in your result. Use torch.autograd.grad."
)
def by_backward(model, loss_fn, inputs, targets):
    loss_fn(model(inputs), targets).backward()
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]


@exercise.wrong("rank_gradients", "A parameter that the loss does not depend on: allow_unused=True, and zeros for it.")
def every_parameter_used(model, loss_fn, inputs, targets):
    return list(torch.autograd.grad(loss_fn(model(inputs), targets), list(model.parameters())))


@exercise.also_right("shard_indices")
def by_chunks(count, rank, world_size, epoch, seed):
    import random as python_random

    order = list(range(count))
    python_random.Random(f"{seed}/{epoch}").shuffle(order)
    return torch.tensor_split(torch.tensor(order, dtype=torch.int64), world_size)[rank]


@exercise.also_right("rank_gradients")
def on_a_copy(model, loss_fn, inputs, targets):
    import copy

    replica = copy.deepcopy(model)
    replica.zero_grad(set_to_none=False)
    for p in replica.parameters():
        p.grad = torch.zeros_like(p)
    loss_fn(replica(inputs), targets).backward()
    return [p.grad for p in replica.parameters()]


@exercise.also_right("all_reduce")
def by_tensordot(gradients, counts):
    n = torch.tensor(counts, dtype=torch.float64)
    kept = [r for r in range(len(counts)) if counts[r] > 0]
    weights = (n[kept] / n.sum()).float()
    return [torch.tensordot(weights, torch.stack([gradients[r][k] for r in kept]), 1) for k in range(len(gradients[0]))]
