"""Exercise fast_loader: no items, no workers, one index for a batch."""

import itertools
import random
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from foundations.comparing import Note, check_that, describe
from foundations.exercise import Exercise
from foundations.exercises.data.generators import POOR_KEYS, check_keys, global_states_kept

exercise = Exercise(
    title="Fast loader: batches of tensors in memory by one index",
    level="challenge",
    minutes=25,
    link="common.trainer:resume_position",
    why="a run that was stopped within an epoch goes on with the next batch of the same order",
    hints=(
        "Make an order for the epoch, cut it into batches, index both tensors by the same piece, skip the first pieces.",
        "order = permutation by a generator of (seed, epoch); batch k is x[order[k * B : (k + 1) * B]], and y likewise.",
        "for batch in order.split(batch_size)[start:]: yield x[batch], y[batch]",
    ),
    source="torch.utils.data._utils.fetch:_MapDatasetFetcher.fetch",
    look_at="It reads item by item, unless the dataset has __getitems__: what would a fast one for tensors return?",
    barred=("torch.utils.data.DataLoader", "torch.utils.data.BatchSampler"),
)

TIMES = 2  # how much faster than a loop over items: with an order by random.shuffle, 4 to 10 times are usual


def numbered(count: int, shape: tuple[int, ...] = (2,)) -> tuple[Tensor, Tensor]:
    """Inputs that say their sample's number, and the numbers."""
    numbers = torch.arange(count)
    return numbers.float().view(count, *(1 for _ in shape)).expand(count, *shape).clone(), numbers


def read(loader: Any, epoch: int, start: int = 0) -> list[list[int]]:
    """Sample numbers of each batch. Raises Failure if inputs and targets do not belong together."""
    batches = []
    for x, y in loader.batches(epoch, start):
        good = isinstance(x, Tensor) and isinstance(y, Tensor) and x.dtype == torch.float32 and y.dtype == torch.int64
        check_that(good and x.shape == (len(y), *x.shape[1:]), "inputs and targets of a batch", got=(x, y))
        check_that(
            torch.equal(x.flatten(1)[:, 0].long(), y),
            "targets are not those of the inputs",
            Note(f"the same numbers, not {describe(x)} with {describe(y)}"),
        )
        batches.append(y.tolist())
    return batches


@exercise.property("each sample once, with its target")
def complete(answer: ModuleType, rng: random.Random) -> None:
    for count, size in [(2, 1), (3, 2), (4, 2), (5, 5), (2, 3), (0, 2), (13, 4), (100, 7)]:
        x, y = numbered(count)
        before = x.clone(), y.clone()
        loader = answer.FastLoader(x, y, size)
        shown = {"samples": count, "batch_size": size}
        sizes = [len(piece) for piece in y.split(size)] if count else []
        check_that(len(loader) == len(sizes), "len", len(sizes), len(loader), **shown)
        for epoch in range(2):
            got = read(loader, epoch)
            check_that([len(b) for b in got] == sizes, "sizes of the batches", sizes, [len(b) for b in got], **shown)
            same = torch.equal(x, before[0]) and torch.equal(y, before[1])
            check_that(same, "the data that the loader was given has changed", **shown)
            flat = sorted(i for batch in got for i in batch)
            check_that(
                flat == list(range(count)),
                "some samples are missing from an epoch, or come twice",
                Note(f"not {flat}"),
                **shown,
            )


@exercise.property("any shape and dtype")
def shapes(answer: ModuleType, rng: random.Random) -> None:
    for shape, dtype in [((), torch.uint8), ((3,), torch.float64), ((3, 2, 2), torch.float32), ((2, 0), torch.bool)]:
        x, y = torch.randint(2, (6, *shape)).to(dtype), torch.randn(6, 2)
        for inputs, targets in answer.FastLoader(x.transpose(0, -1).contiguous().transpose(0, -1), y, 4).batches(0):
            good = inputs.dtype == dtype and inputs.shape[1:] == x.shape[1:] and targets.shape == (len(inputs), 2)
            check_that(good, "shape or dtype of the inputs of a batch", (dtype, (4, *shape)), inputs)
            rows = [int((y == target).all(1).nonzero()[0]) for target in targets]
            check_that(torch.equal(inputs, x[rows]), "inputs of a batch", x[rows], inputs)


@exercise.property("another order each epoch, the same by seed")
def orders(answer: ModuleType, rng: random.Random) -> None:
    x, y = numbered(24)
    loader = answer.FastLoader(x, y, 5, seed=1)
    epochs = [read(loader, epoch) for epoch in range(3)]
    for a, b in itertools.combinations(epochs, 2):
        check_that(a != b, "two epochs have the same order")
    check_that([i for b in epochs[0] for i in b] != list(range(24)), "not shuffled")
    same = read(answer.FastLoader(x, y, 5), 1) == read(answer.FastLoader(x, y, 5, seed=0), 1)
    check_that(same, "the seed is 0 where it is not said")
    other = read(answer.FastLoader(x, y, 5, seed=2), 0)
    check_that(other != epochs[0], "two seeds give the same order")
    torch.rand(2)
    for epoch in (2, 0, 1, 1):
        for name, one in (
            ("when the same loader reads it again", loader),
            ("in a new loader", answer.FastLoader(x, y, 5, seed=1)),
        ):
            got = read(one, epoch)
            note = Note(f"{epochs[epoch]}, not {got}")
            check_that(got == epochs[epoch], f"the order of an epoch differs {name}", note)
    with global_states_kept("an epoch"):
        read(loader, 1)
    check_keys(lambda seed, epoch: read(answer.FastLoader(x, y, 5, seed), epoch))


@exercise.property("begins at any batch")
def resumes(answer: ModuleType, rng: random.Random) -> None:
    for count, size in [(4, 2), (5, 2), (12, 5)]:
        x, y = numbered(count)
        for epoch in (0, 3):
            whole = read(answer.FastLoader(x, y, size, seed=4), epoch)
            for start in range(len(whole) + 1):
                got = read(answer.FastLoader(x, y, size, seed=4), epoch, start)
                shown = {"samples": count, "batch_size": size, "epoch": epoch, "start": start}
                sizes = [len(batch) for batch in got], [len(batch) for batch in whole[start:]]
                check_that(sizes[0] == sizes[1], "sizes of the batches from `start` on", sizes[1], sizes[0], **shown)
                check_that(got == whole[start:], "batches from `start` on", Note(f"{whole[start:]}, not {got}"), **shown)


@exercise.property("two epochs at once, and changed batches")
def independent(answer: ModuleType, rng: random.Random) -> None:
    x, y = numbered(6)
    before = x.clone(), y.clone()
    loader = answer.FastLoader(x, y, 2)
    expected = read(loader, 0), read(loader, 1)
    pairs = list(zip(loader.batches(0), loader.batches(1), strict=True))
    got = tuple([batch[side][1].tolist() for batch in pairs] for side in (0, 1))
    check_that(got == expected, "two epochs that are read in turn", Note(f"{expected}, not {got}"))
    for inputs, targets in loader.batches(0):
        inputs.mul_(0)
        targets.add_(50)
    check_that(torch.equal(x, before[0]) and torch.equal(y, before[1]), "the data was changed")
    check_that(read(loader, 0) == expected[0], "the epoch, after a batch of it was changed")


def seconds(*runs: Any) -> list[float]:
    """The shortest of several times of each, taken in turn: what else the machine does can only make a run longer."""
    times = []
    for _ in range(7):
        for run in runs:
            begin = time.perf_counter()
            run()
            times.append(time.perf_counter() - begin)
    return [min(times[i :: len(runs)]) for i in range(len(runs))]


@exercise.property("twice as fast as a loop over items")
def fast(answer: ModuleType, rng: random.Random) -> None:
    x, y = numbered(2048, (8,))
    loader = answer.FastLoader(x, y, 256)

    def items() -> None:
        for batch in torch.randperm(len(x)).split(256):
            indices = batch.tolist()
            torch.stack([x[i] for i in indices]), torch.stack([y[i] for i in indices])

    slow, mine = seconds(items, lambda: list(loader.batches(0)))
    note = f"at most {1e3 * slow / TIMES:.1f} ms; the loop takes {1e3 * slow:.1f} ms, yours {1e3 * mine:.1f} ms"
    check_that(mine * TIMES < slow, "not twice as fast as a loop over items", Note(note), samples=len(x), batch_size=256)


def loader_with(fault: str) -> type:
    """FastLoader with one of the known faults."""

    class FastLoader:
        def __init__(self, x: Tensor, y: Tensor, batch_size: int, seed: int = 0) -> None:
            self.x, self.y, self.batch_size, self.seed = x, y, batch_size, seed
            self.rng = torch.Generator().manual_seed(seed)

        def __len__(self) -> int:
            return len(self.x) // self.batch_size if fault == "last" else -(-len(self.x) // self.batch_size)

        def generator(self, epoch: int, start: int) -> torch.Generator | None:
            if fault == "unseeded":
                return None
            if fault == "global":
                torch.manual_seed(1_000_003 * self.seed + epoch)
                return None
            if fault in ("sum", "text"):
                name = self.seed + epoch if fault == "sum" else f"{self.seed}{epoch}"
                return torch.Generator().manual_seed(random.Random(name).getrandbits(60))
            factor = 1000 if fault == "tight" else 1_000_003
            seed = self.seed if fault == "same" else factor * self.seed + epoch
            if fault == "new_order" and start:
                seed += 17 * start
            return self.rng if fault == "kept" else torch.Generator().manual_seed(seed)

        def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
            rng, count, size = self.generator(epoch, start), len(self.x), self.batch_size
            order = torch.randperm(count, generator=rng)
            if fault == "python":
                random.seed(f"{self.seed} {epoch}")
                order = torch.tensor(random.sample(range(count), count), dtype=torch.int64)
            if fault == "start_sample":
                order, start = order[start:], 0
            x, y = self.x, self.y
            if fault == "in_place":
                x[:], y[:] = x[order], y[order]
                order = torch.arange(count)
            targets = torch.randperm(count, generator=rng) if fault == "apart" else order
            for i in range(start, len(self)):
                rows, others = order[i * size : (i + 1) * size], targets[i * size : (i + 1) * size]
                if fault == "items":
                    yield torch.stack([x[j] for j in rows.tolist()]), torch.stack([y[j] for j in others.tolist()])
                elif fault == "views":
                    yield (x[rows], y[others]) if size < count else (x, y)
                else:
                    yield x[rows], y[others]

    return FastLoader


MESSAGES = {
    "apart": "Inputs and targets are permuted by two permutations: draw one order, and index both with it.",
    "in_place": (
        "The data is permuted in place: the caller's tensors change, and the next order starts from this one, so that an "
        "epoch depends on all that were read before."
    ),
    "new_order": "With `start` another order is drawn: samples of the first batches come again, others never.",
    "kept": "The generator lives in the loader: an epoch's order depends on those before it; none can be repeated.",
    "same": "The epoch does not enter the seed: every epoch has the same order.",
    "start_sample": "`start` counts batches, not samples.",
    "last": "The last, short batch is left out.",
    "global": "torch.manual_seed sets the global generator: the model's dropout would repeat with each epoch.",
    "python": "random.seed sets Python's global generator, which others use too: random.Random(key) is one of your own.",
    **POOR_KEYS,
    "unseeded": "The order comes from the global generator: it depends on whatever has drawn before, not on your seed.",
    "items": "Still item by item: x[indices] with a tensor of indices copies all rows of a batch in one call.",
}
for _fault, _message in MESSAGES.items():
    exercise.wrong("FastLoader", _message)(loader_with(_fault))
exercise.also_right("FastLoader")(loader_with(""))


@exercise.also_right("FastLoader")
class PermutedOnce:
    """A permuted copy for the epoch, and slices of it; the order by sorting random numbers."""

    def __init__(self, x: Tensor, y: Tensor, batch_size: int, seed: int = 0) -> None:
        self.tensors, self.size, self.seed = (x, y), batch_size, seed

    def __len__(self) -> int:
        return len(range(0, len(self.tensors[0]), self.size))

    def batches(self, epoch: int, start: int = 0) -> Any:
        seed = random.Random(f"{self.seed}:{epoch}").getrandbits(60)
        keys = torch.rand(len(self.tensors[0]), generator=torch.Generator().manual_seed(seed))
        copies = [tensor.index_select(0, keys.argsort()) for tensor in self.tensors]
        for first in range(start * self.size, len(keys), self.size):
            yield [copy[first : first + self.size] for copy in copies]


@exercise.also_right("FastLoader")
class OfPythonNumbers:
    """An order that random.shuffle makes, and a tensor of indices for each batch."""

    def __init__(self, x: Tensor, y: Tensor, batch_size: int, seed: int = 0) -> None:
        self.x, self.y, self.batch_size, self.seed = x, y, batch_size, seed

    def __len__(self) -> int:
        return (len(self.x) + self.batch_size - 1) // self.batch_size

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        order = list(range(len(self.x)))
        random.Random(f"{self.seed} {epoch}").shuffle(order)
        for first in range(start * self.batch_size, len(order), self.batch_size):
            rows = torch.tensor(order[first : first + self.batch_size])
            yield self.x[rows], self.y[rows]
