"""Exercise dataloader: what a DataLoader does, without workers."""

import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from foundations.comparing import Note, call, check_equal, check_that
from foundations.exercise import Exercise
from foundations.exercises.data.generators import POOR_KEYS, check_keys, global_states_kept

exercise = Exercise(
    title="DataLoader: batches of a dataset, written by hand",
    level="core",
    minutes=20,
    link="common.data.batches:epoch_batches",
    why="every capstone's order of batches is a function of seed and epoch, so that a run can be resumed anywhere",
    hints=(
        "First the order of the indices, then pieces of batch_size of it, then of each piece the samples, collated.",
        "order = permutation of 0 … len - 1 by a generator of its own, whose seed is made of seed and epoch.",
        'order = list(range(n)); random.Random(f"{seed} {epoch}").shuffle(order); after the loop yield what is left.',
    ),
    source="torch.utils.data.sampler:RandomSampler.__iter__",
    look_at=(
        "Without a generator it draws its seed from torch's global one: what does a model that draws random numbers between "
        "two epochs do to the order of the second?"
    ),
    barred=("torch.utils.data.DataLoader", "torch.utils.data.BatchSampler"),
)


class Numbers:
    """Dataset whose sample i is ([i, -i], i); it counts what is read."""

    def __init__(self, count: int) -> None:
        self.count, self.read = count, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        self.read += 1
        return torch.tensor([float(index), -float(index)]), int(index)


def read_batches(answer: ModuleType, count: int, size: int, **options: Any) -> list[list[int]]:
    """The samples of each batch, as numbers."""
    options = {"collate": lambda samples: [label for _, label in samples], **options}
    return [list(batch) for batch in answer.dataloader(Numbers(count), size, **options)]


def in_order(indices: Iterable[int], size: int) -> list[list[int]]:
    """Indices cut into batches."""
    listed = list(indices)
    return [listed[i : i + size] for i in range(0, len(listed), size)]


def check_batches(answer: ModuleType, expected: list[list[int]], count: int, size: int, **options: Any) -> None:
    """Compares the batches' samples, in order."""
    got = call(lambda dataset, batch_size: read_batches(answer, dataset, batch_size, **options), count, size)
    check_that(got == expected, "the samples of the batches", expected, got, len_dataset=count, batch_size=size, **options)


@exercise.property("collate function")
def collating(answer: ModuleType, rng: random.Random) -> None:
    for b, shape in [(1, (1,)), (2, (3,)), (3, (3,)), (2, (1, 2)), (3, ())]:
        samples = [(torch.randn(shape), label) for label in range(b)]
        expected = torch.stack([x for x, _ in samples]), torch.arange(b)
        check_equal(answer.stack_samples, samples, expected=expected)


@exercise.property("in order, with the last short batch")
def ordered(answer: ModuleType, rng: random.Random) -> None:
    for count, size in [(2, 1), (3, 2), (4, 2), (2, 3), (7, 3), (0, 2), (3, 3)]:
        check_batches(answer, in_order(range(count), size), count, size, shuffle=False)


@exercise.property("shuffled: each sample once")
def complete(answer: ModuleType, rng: random.Random) -> None:
    for count, size in [(8, 4), (3, 2), (4, 2), (5, 9), (0, 2), (33, 8)]:
        got = call(lambda n, b: read_batches(answer, n, b), count, size)
        sizes = [len(batch) for batch in in_order(range(count), size)]
        check_that([len(b) for b in got] == sizes, "sizes of the batches", sizes, list(map(len, got)), len_dataset=count)
        flat = sorted(i for batch in got for i in batch)
        note = Note(f"each of {count} once; read were {flat}")
        check_that(flat == list(range(count)), "some samples are missing from an epoch, or come twice", note)


@exercise.property("another order each epoch, the same for the same seed")
def orders(answer: ModuleType, rng: random.Random) -> None:
    first = read_batches(answer, 12, 4, seed=0, epoch=0)
    flat = [i for batch in first for i in batch]
    check_that(flat != list(range(12)), "the order of the dataset, though shuffle is on")
    torch.rand(3)
    random.random()
    again = read_batches(answer, 12, 4, seed=0, epoch=0)
    check_that(first == again, "the same seed and epoch give another order the second time", Note(f"{first}, not {again}"))
    for options in ({"seed": 0, "epoch": 1}, {"seed": 0, "epoch": 7}, {"seed": 1, "epoch": 0}, {"seed": 2, "epoch": 0}):
        other = read_batches(answer, 12, 4, **options)
        check_that(other != first, "the same order as with seed 0 in epoch 0", **options)
    check_that(read_batches(answer, 12, 4) == first, "seed and epoch are 0 where they are not said")
    check_keys(lambda seed, epoch: read_batches(answer, 12, 4, seed=seed, epoch=epoch))


@exercise.property("samples are shuffled, not batches")
def mixed(answer: ModuleType, rng: random.Random) -> None:
    partners: set[int] = set()
    for epoch in range(60):
        for batch in read_batches(answer, 6, 2, epoch=epoch):
            partners |= set(batch) if 0 in batch else set()
    expected = list(range(6))
    check_that(sorted(partners) == expected, "samples that share a batch with 0, in 60 epochs", expected, sorted(partners))


@exercise.property("global random states are left alone")
def global_state(answer: ModuleType, rng: random.Random) -> None:
    with global_states_kept("an epoch"):
        for epoch in range(2):
            read_batches(answer, 5, 2, epoch=epoch)


@exercise.property("sampler")
def samplers(answer: ModuleType, rng: random.Random) -> None:
    for indices, size in [([1, 0], 1), ([2, 0, 1], 2), ([3, 3, 3, 0], 2), ([], 2), ([4, 1], 8)]:
        check_batches(answer, in_order(indices, size), 5, size, sampler=list(indices))
    check_that(
        read_batches(answer, 5, 2, sampler=iter([2, 0, 1])) == [[2, 0], [1]], "a sampler that is an iterator, without len"
    )


@exercise.property("samples are read when their batch is asked for")
def lazy(answer: ModuleType, rng: random.Random) -> None:
    for options in ({}, {"shuffle": False}, {"sampler": range(40)}):
        dataset = Numbers(40)
        x, labels = next(iter(answer.dataloader(dataset, 4, **options)))
        check_that(dataset.read <= 12, "samples that are read for the first batch of 4", 4, dataset.read, **options)
        check_that(torch.equal(x[:, 0].long(), labels), "inputs and labels do not belong together", got=(x, labels))


Collate = Callable[[list[Any]], Any]


def own_stack(samples: list[Any]) -> Any:
    """The solution's collate function."""
    return torch.stack([x for x, _ in samples]), torch.tensor([int(label) for _, label in samples])


def loader_with(fault: str) -> Callable[..., Iterator[Any]]:
    """The loader with one of the known faults."""

    def order(count: int, seed: int, epoch: int) -> list[int]:
        if fault == "global":
            torch.manual_seed(1_000_003 * seed + epoch)
            return torch.randperm(count).tolist()
        if fault == "unseeded":
            return torch.randperm(count).tolist()
        if fault in ("sum", "text", "python"):
            keys = {"sum": seed + epoch, "text": f"{seed}{epoch}", "python": f"{seed} {epoch}"}
            if fault == "python":
                random.seed(keys[fault])
            draw = random if fault == "python" else random.Random(keys[fault])
            return draw.sample(range(count), count)  # type: ignore[attr-defined]
        factor = 1000 if fault == "tight" else 1_000_003
        rng = torch.Generator().manual_seed(seed if fault == "same" else factor * seed + epoch)
        if fault == "replaced":
            return torch.randint(max(count, 1), (count,), generator=rng).tolist()
        return torch.randperm(count, generator=rng).tolist()

    def dataloader(
        dataset: Any,
        batch_size: int,
        seed: int = 0,
        epoch: int = 0,
        shuffle: bool = True,
        sampler: Any = None,
        collate: Collate = own_stack,
    ) -> Iterator[Any]:
        if sampler is None or fault == "no_sampler":
            sampler = order(len(dataset), seed, epoch) if shuffle and fault != "batches" else range(len(dataset))
        indices = list(dict.fromkeys(sampler)) if fault == "unique" else list(sampler)
        batches = [indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]
        if fault == "last":
            batches = [batch for batch in batches if len(batch) == batch_size]
        if fault == "batches" and shuffle:
            batches = [batches[i] for i in order(len(batches), seed, epoch)]
        if fault == "eager":
            samples = [[dataset[i] for i in batch] for batch in batches]
            return (collate(batch) for batch in samples)
        return (collate([dataset[i] for i in batch]) for batch in batches)

    return dataloader


MESSAGES = {
    "same": "The epoch does not enter the seed: every epoch has the same order, so the same samples always meet.",
    "last": "The last batch is left out where it is short: its samples would be missing from validation.",
    "replaced": "Indices drawn with replacement: a third of the samples is missing from each epoch. Use a permutation.",
    "global": (
        "torch.manual_seed sets the generator that dropout and initialization use: they would repeat as well. "
        "Give the order a torch.Generator of its own."
    ),
    "python": ("random.seed sets Python's global generator, which others use too: random.Random(key) is one of your own."),
    **POOR_KEYS,
    "unseeded": "The order is drawn from torch's global generator: it depends on whatever else has drawn before.",
    "no_sampler": "The sampler is not used.",
    "unique": "A sampler may repeat an index; here each comes once: a weighted sampler relies on repeats.",
    "eager": "All samples are read before the first batch: a data set that does not fit into memory could not be used.",
}
for _fault, _message in MESSAGES.items():
    exercise.wrong("dataloader", _message)(loader_with(_fault))
exercise.wrong("dataloader", "Whole batches are put into random order: the same samples share a batch in every epoch.")(
    loader_with("batches")
)


@exercise.wrong("stack_samples", "Labels as floats: a class is a whole number, int64.")
def float_labels(samples: list[Any]) -> Any:
    return torch.stack([x for x, _ in samples]), torch.tensor([float(label) for _, label in samples])


@exercise.wrong("stack_samples", "cat joins along a dimension that is there already; stack makes the one of the batch.")
def concatenated(samples: list[Any]) -> Any:
    return torch.cat([x for x, _ in samples]), torch.tensor([int(label) for _, label in samples])


exercise.also_right("dataloader")(loader_with(""))


@exercise.also_right("dataloader")
class ByPythonsRandom:
    """An iterator class, with a generator of Python's."""

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        seed: int = 0,
        epoch: int = 0,
        shuffle: bool = True,
        sampler: Any = None,
        collate: Collate = own_stack,
    ) -> None:
        indices = list(range(len(dataset)))
        if shuffle:
            random.Random(f"{seed} {epoch}").shuffle(indices)
        self.indices = iter(indices if sampler is None else sampler)
        self.dataset, self.batch_size, self.collate = dataset, batch_size, collate

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        batch = [self.dataset[i] for i in itertools.islice(self.indices, self.batch_size)]
        if not batch:
            raise StopIteration
        return self.collate(batch)
