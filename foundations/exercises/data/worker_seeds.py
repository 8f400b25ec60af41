"""Exercise worker_seeds: the same noise whatever reads it."""

import multiprocessing
import random
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from foundations.comparing import Note, call, check_that, describe
from foundations.exercise import Exercise
from foundations.exercises.data.generators import global_states_kept

exercise = Exercise(
    title="Random numbers in workers: augmentation that repeats by seed",
    level="core",
    minutes=20,
    link="projects.cifar10.augment:sample_params",
    why="an image's crop and flip depend on seed and epoch alone, however the data is split over processes",
    hints=(
        "Do not keep a generator: make one in __getitem__, whose seed is made of seed, epoch and index.",
        "No two keys may be equal: (seed * P + epoch) * P + index with a large P, or a text of all three as seed.",
        'key = random.Random(f"{seed} {epoch} {index}").getrandbits(63); rng = torch.Generator().manual_seed(key)',
    ),
    source="torch.utils.data._utils.worker:_worker_loop",
    look_at=(
        "Find `seed = base_seed + worker_id`, and which three global generators get it. What happens to a generator that "
        "the dataset itself holds?"
    ),
)


def read(answer: ModuleType, count: int, indices: Any, seed: int = 0, epoch: int = 0, size: int = 2) -> Tensor:
    """The noises of some samples, read one by one."""
    data = answer.NoisyDataset(torch.zeros(count, size), 1.0, seed)
    if epoch:
        data.set_epoch(epoch)
    return torch.stack([data[i] for i in indices])


@exercise.property("length, shape, dtype")
def sizes(answer: ModuleType, rng: random.Random) -> None:
    dtypes = {2: torch.float32, 3: torch.float64, 4: torch.bfloat16}
    for n, shape in [(2, (3,)), (3, (3,)), (4, (2, 1)), (2, ())]:
        x = torch.randn(n, *shape, dtype=dtypes[n])
        for std in (0.0, 0.5):
            data = answer.NoisyDataset(x, std, 0)
            check_that(len(data) == n, "len", n, len(data))
            got = call(data.__getitem__, 1)
            same = isinstance(got, Tensor) and got.shape == x[1].shape and got.dtype == x.dtype
            check_that(same, "shape or dtype of a sample", x[1], got, std=std)
            check_that(torch.equal(got, x[1]) == (std == 0), f"noise for std {std}", x[1] if std == 0 else None, got)


@exercise.property("another noise for each sample, epoch and seed")
def different(answer: ModuleType, rng: random.Random) -> None:
    both = read(answer, 5, [0, 1])
    note = Note(f"two noises, not {describe(both[0])} twice")
    check_that(not torch.equal(both[0], both[1]), "samples 0 and 1 have the same noise", note)
    for name, first, second in [
        ("sample 1 of epoch 1 and sample 0 of epoch 2", {"indices": [1], "epoch": 1}, {"indices": [0], "epoch": 2}),
        ("epochs 0 and 1", {"indices": [0]}, {"indices": [0], "epoch": 1}),
        ("seeds 0 and 1", {"indices": [0]}, {"indices": [0], "seed": 1}),
        ("seeds 1 and 2 in epoch 3", {"indices": [4], "seed": 1, "epoch": 3}, {"indices": [4], "seed": 2, "epoch": 3}),
    ]:
        a, b = read(answer, 5, **first), read(answer, 5, **second)  # type: ignore[arg-type]
        check_that(not torch.equal(a, b), f"{name} have the same noise", Note(f"two noises, not {describe(a)} twice"))


@exercise.property("normal noise of the standard deviation")
def moments(answer: ModuleType, rng: random.Random) -> None:
    x = torch.full((400, 30), 7.0)
    data = answer.NoisyDataset(x, 0.5, 0)
    noise = torch.stack([data[i] for i in range(400)]) - 7
    check_that(abs(noise.mean()) < 0.03, "mean of the noise", Note(f"about 0, not {noise.mean():.3f}"), std=0.5)
    check_that(abs(noise.std() - 0.5) < 0.02, "size of the noise", Note(f"about 0.5, not {noise.std():.3f}"), std=0.5)


@exercise.property("the same, whenever and in whatever order it is read")
def repeated(answer: ModuleType, rng: random.Random) -> None:
    x = torch.zeros(3, 2)
    data = answer.NoisyDataset(x, 1.0, 5)
    first = torch.stack([data[i] for i in (0, 1, 2)])
    torch.rand(2)
    for name, order, other in [
        ("of a second dataset with the same seed", (0, 1, 2), answer.NoisyDataset(x, 1.0, 5)),
        ("read again", (0, 1, 2), data),
        ("read in the order 2, 1, 0", (2, 1, 0), data),
    ]:
        again = {i: other[i] for i in order}
        for i in range(3):
            note = Note(f"{describe(first[i])}, not {describe(again[i])}")
            check_that(torch.equal(again[i], first[i]), f"the noise of a sample differs, {name}", note)
    data.set_epoch(1)
    data[0]
    data.set_epoch(0)
    check_that(torch.equal(data[1], first[1]), "the noise of epoch 0 differs after set_epoch(1) and set_epoch(0)")
    check_that(not x.any(), "the stored data was changed")


@exercise.property("global random states are left alone")
def global_state(answer: ModuleType, rng: random.Random) -> None:
    with global_states_kept("reading a sample"):
        read(answer, 3, range(3), seed=1, epoch=1)


@exercise.property("far samples and epochs")
def far(answer: ModuleType, rng: random.Random) -> None:
    factors = (10_000, 16_384, 32_768, 65_536)
    data, other = (answer.NoisyDataset(torch.zeros(1, 2).expand(70_000, 2), 1.0, seed) for seed in (0, 1))
    noises = [data[index] for index in factors]
    data.set_epoch(1)
    for index, noise in zip(factors, noises, strict=True):
        note = Note(f"two noises, not {describe(noise)} twice")
        reason = "a far sample has the noise of the next epoch's first"
        check_that(not torch.equal(noise, data[0]), reason, note, index=index)
    for epoch in (*factors, 100_000):
        data.set_epoch(epoch)
        note = Note(f"two noises, not {describe(other[0])} twice")
        check_that(not torch.equal(data[0], other[0]), "a far epoch has the noise of the next seed's first", note)


@exercise.property("no two are equal")
def distinct(answer: ModuleType, rng: random.Random) -> None:
    seen: dict[tuple[float, ...], tuple[int, int, int]] = {}
    for seed, epoch, count in [(0, 0, 1100), (0, 1, 1100), (1, 0, 8), (1, 1, 8), (2, 0, 8), (0, 2, 8), (3, 5, 8), (5, 3, 8)]:
        for index, noise in enumerate(read(answer, count, range(count), seed, epoch).tolist()):
            here, other = (seed, epoch, index), seen.setdefault(tuple(noise), (seed, epoch, index))
            check_that(here == other, "(seed, epoch, index) with the same noise", "no two", [other, here])


def method() -> str:
    """How workers are started: by fork where that is possible, since the learner's module is not a file to import."""
    methods = multiprocessing.get_all_start_methods()
    return "fork" if "fork" in methods else methods[0]


@exercise.property("two workers give what none gives")
def workers(answer: ModuleType, rng: random.Random) -> None:
    data = answer.NoisyDataset(torch.zeros(6, 2), 1.0, 3)
    data.set_epoch(2)
    alone = torch.cat(list(DataLoader(data, batch_size=1)))
    loader = DataLoader(data, batch_size=1, num_workers=2, multiprocessing_context=method(), timeout=30)
    shared = torch.cat(list(loader))
    check_that(shared.shape == alone.shape, "shape of all samples", alone, shared, num_workers=2)
    note = Note(f"{describe(alone)}, not {describe(shared)}")
    check_that(torch.equal(shared, alone), "noise with num_workers=2 is not that with 0", note, num_workers=2, epoch=2)


def dataset_with(fault: str) -> type:
    """NoisyDataset with one of the known faults."""

    class NoisyDataset(Dataset):
        def __init__(self, x: Tensor, std: float, seed: int) -> None:
            self.x, self.std, self.seed, self.epoch = x, std, seed, 0
            self.rng = torch.Generator().manual_seed(seed)

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch
            self.rng.manual_seed(self.seed * 1_000_003 + epoch)

        def __len__(self) -> int:
            return len(self.x)

        def key(self, index: int) -> int:
            worker = get_worker_info()
            keys = {
                "same": 1_000_003 * self.seed + index,
                "epoch_only": 1_000_003 * self.seed + self.epoch,
                "sum": self.seed + self.epoch + index,
                "tight": (1000 * self.seed + self.epoch) * 1000 + index,
                "narrow": (10_000 * self.seed + self.epoch) * 10_000 + index,
                "product": (self.seed + 1) * (self.epoch + 1) * (index + 1),
            }
            key = keys.get(fault, (1_000_003 * self.seed + self.epoch) * 1_000_003 + index)
            return key + (10**12 * (worker.id + 1) if fault == "worker" and worker else 0)

        def __getitem__(self, index: int) -> Tensor:
            sample = self.x[index]
            if fault == "global":
                torch.manual_seed(self.key(index))
                return sample + self.std * torch.randn(sample.shape, dtype=sample.dtype)
            if fault == "python":
                random.seed(self.key(index))
                noise = [random.gauss(0.0, self.std) for _ in range(sample.numel())]
                return sample + torch.tensor(noise, dtype=sample.dtype).reshape(sample.shape)
            if fault == "unseeded":
                return sample + self.std * torch.randn(sample.shape, dtype=sample.dtype)
            rng = self.rng if fault == "kept" else torch.Generator().manual_seed(self.key(index))
            draw = torch.rand if fault == "uniform" else torch.randn
            return sample + self.std * draw(sample.shape, generator=rng, dtype=sample.dtype)

    return NoisyDataset


MESSAGES = {
    "kept": (
        "A generator that the dataset keeps gives numbers in the order of reading, and every worker gets a copy of it: two "
        "workers would draw the same noise for different samples."
    ),
    "same": "The epoch does not enter the seed: every epoch has the same noise.",
    "epoch_only": "The index does not enter the seed: all samples of an epoch get the same noise.",
    "sum": "seed + epoch + index is equal for many: sample 1 of epoch 1 has the noise of sample 0 of epoch 2.",
    "tight": "The seeds overlap: with more samples than your factor, an epoch ends with the noise of the next one's start.",
    "narrow": (
        "The seeds overlap: from sample 10,000 on an epoch has the noise of the next one. Take a larger factor, or a text."
    ),
    "product": "A product is equal for many: sample 1 of epoch 0 has the noise of sample 0 of epoch 1. Give weights.",
    "global": "torch.manual_seed sets the global generator: the model's dropout would repeat with each sample.",
    "python": "random.seed sets Python's global generator, which others use too: random.Random(key) is one of your own.",
    "unseeded": "The noise comes from the global generator: it depends on whatever has drawn before, not on your seed.",
    "uniform": "torch.rand is uniform between 0 and 1, with mean 1/2; normal noise is torch.randn.",
    "worker": "The number of the worker enters the seed: another number of workers would give other data.",
}
for _fault, _message in MESSAGES.items():
    exercise.wrong("NoisyDataset", _message)(dataset_with(_fault))
exercise.also_right("NoisyDataset")(dataset_with(""))


@exercise.also_right("NoisyDataset")
class ByPythonsRandom:
    """Python's generator, seeded by a text."""

    def __init__(self, x: Tensor, std: float, seed: int) -> None:
        self.rows, self.std, self.name, self.number = x.unbind(0), std, str(seed), "0"

    def set_epoch(self, epoch: int) -> None:
        self.number = str(epoch)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor:
        row = self.rows[index]
        gauss = random.Random(f"{self.name}/{self.number}/{index}").gauss
        noise = [self.std * gauss(0.0, 1.0) for _ in range(row.numel())]
        return row + torch.tensor(noise, dtype=row.dtype).reshape(row.shape)
