"""Real samples: points from a mixture, drawn anew each epoch, or pictures from any data source, kept on the device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from common.data.batches import shard_indices
from common.data.images import LabeledImages, load_images
from common.data.sources import Source, SourceDataModule
from common.data.synthetic_images import render_splits
from common.errors import UserError
from common.trainer import rank_and_world_size, resume_position
from projects.gan.points import MIXTURES, Mixture

HUB_ID = "uoft-cs/cifar10"
SIZE = 32
SAMPLE_SIZES = {"train": 5000, "test": 2000}
VAL_SPLIT_SEED = 1234  # the held-out pictures are the same for every run, whatever its seed
EVAL_SEEDS = {"val": 2**32 - 1, "test": 2**32 - 2}  # of the points for validation and test: the generator takes 32 bits


class Batch(NamedTuple):
    """Real samples for a step of training: enough for all steps that the discriminator makes in it."""

    samples: Tensor  # (batch, 2) float32 points, or (batch, 3, 32, 32) float32 pictures from -1 to 1
    labels: Tensor  # (batch,) int64: the class, or the mode of a point
    number: Tensor  # (batch,) int64: which sample of its split, or of the epoch

    def parts(self, count: int) -> list[Batch]:
        """`count` batches of the same size, in order."""
        return [Batch(*columns) for columns in zip(*(values.chunk(count) for values in self), strict=True)]


class GANData(SourceDataModule):
    """Points in the plane or 32 x 32 pictures.

    Args:
        source: `ring8` or `grid25` (points), `sample` (rendered pictures), `auto` (CIFAR-10 if it is cached or can be
            downloaded, else the sample), a hub id, or a folder.
        batch_size: samples that the discriminator sees in a step of each process, and as many fakes.
        d_steps: steps of the discriminator for one of the generator; the module's.
        rounds: of that in a step of training; the module's.
        epoch_steps: steps of training in an epoch of points, which have no end.
        eval_samples: points of validation and of test; pictures held out of train for validation.
        eval_batch_size: samples in a validation or test step.
        flip: whether a training picture is mirrored every other time.
    """

    HUB_ID = HUB_ID

    def __init__(
        self,
        source: str = "auto",
        batch_size: int = 64,
        d_steps: int = 1,
        rounds: int = 1,
        epoch_steps: int = 500,
        eval_samples: int = 2500,
        eval_batch_size: int = 500,
        flip: bool = True,
    ) -> None:
        super().__init__(source)
        if min(batch_size, d_steps, rounds, epoch_steps, eval_batch_size) < 1 or eval_samples < 2:
            raise UserError(
                "--data.batch_size, epoch_steps, eval_batch_size, --model.d_steps and rounds are at least 1, "
                "--data.eval_samples at least 2"
            )
        self.batch_size = batch_size
        self.d_steps = d_steps * rounds  # of the discriminator, in a step of training
        self.epoch_steps = epoch_steps
        self.eval_samples = eval_samples
        self.eval_batch_size = eval_batch_size
        self.flip = flip
        self.splits: dict[str, LabeledImages] = {}
        self.seed: int

    def resolve(self) -> Source:
        """Finds out, once, where the data comes from; a mixture is a source of its own."""
        if self.source is None and self.source_option in MIXTURES:
            self.source = Source("points", self.source_option)
        return super().resolve()

    @property
    def mixture(self) -> Mixture | None:
        """What the points come from; None for pictures."""
        source = self.resolve()
        return MIXTURES[source.name]() if source.kind == "points" else None

    @property
    def sample_kind(self) -> str:
        """`points` or `pictures`."""
        return "pictures" if self.mixture is None else "points"

    @property
    def class_names(self) -> list[str]:
        """The name of each label."""
        if self.mixture is not None:
            return [f"mode {i}" for i in range(len(self.mixture.modes))]
        return self.load()["test"].class_names

    @property
    def class_count(self) -> int:
        """How many labels there are."""
        return len(self.class_names)

    @property
    def scale(self) -> float:
        """The standard deviation of a point's coordinate; 1 for pictures, which go from -1 to 1."""
        return 1.0 if self.mixture is None else self.mixture.scale

    @property
    def source_label(self) -> str:
        """What figures call the data: the source, with the way its pixels were stored as in `cifar10-jpeg75`."""
        encoding = "" if self.mixture is not None else self.load()["test"].encoding
        return "-".join(filter(None, [self.resolve().label, encoding]))

    def load(self) -> dict[str, LabeledImages]:
        """The pictures' splits "train", "val" (held out of train) and "test", on the CPU, read once."""
        if not self.splits:
            splits = load_images(self.resolve(), SIZE, render_sample)
            full = splits["train"]
            if self.eval_samples >= len(full):
                raise UserError(f"--data.eval_samples {self.eval_samples}: the source has {len(full)} training pictures")
            order = torch.randperm(len(full), generator=torch.Generator().manual_seed(VAL_SPLIT_SEED))
            held_out, rest = order[: self.eval_samples], order[self.eval_samples :]
            self.splits = {"train": full[rest], "val": full[held_out], "test": splits["test"]}
        return self.splits

    def prepare_data(self) -> None:
        """Decodes the pictures once for all processes, into the cache."""
        if self.mixture is None:
            self.load()

    def setup(self, stage: str) -> None:
        """Moves pictures to the device."""
        # the run's seed; asked for here because it is the same in every process and after a resume
        self.seed = torch.initial_seed() % 2**31
        if self.mixture is None and self.trainer is not None:
            device = self.trainer.strategy.root_device
            self.splits = {name: split.to(device) for name, split in self.load().items()}

    def train_dataloader(self) -> Any:
        """Batches for as many steps of training as an epoch has."""
        return PointLoader(self) if self.mixture is not None else PictureLoader(self)

    def val_dataloader(self) -> Any:
        """Real samples that training does not see."""
        return EvalLoader(self, "val")

    def test_dataloader(self) -> Any:
        """The test pictures, or more points."""
        return EvalLoader(self, "test")

    def eval_count(self, split: str) -> int:
        """How many real samples the split "val" or "test" has."""
        return self.eval_samples if self.mixture is not None else len(self.load()[split])

    def eval_batch(self, split: str) -> Batch:
        """All real samples of the split "val" or "test"."""
        if self.mixture is not None:
            generator = torch.Generator().manual_seed(EVAL_SEEDS[split])
            points, modes = self.mixture.draw(self.eval_samples, generator)
            return Batch(points, modes, torch.arange(len(points)))
        images = self.load()[split]
        number = torch.arange(len(images), device=images.labels.device)
        return Batch(images.images, images.labels, number)  # uint8; a loader's batch is float


class PointLoader:
    """Endless points, an epoch of them drawn at a time; begins where the trainer is, also within an epoch."""

    def __init__(self, data: GANData) -> None:
        self.data = data

    def __len__(self) -> int:
        return self.data.epoch_steps

    def __iter__(self) -> Iterator[Batch]:
        data, mixture = self.data, self.data.mixture
        assert mixture is not None
        rank, world_size = rank_and_world_size(data.trainer)
        epoch, done = resume_position(data.trainer)
        generator = torch.Generator().manual_seed(data.seed * 1_000_003 + epoch)
        size = data.batch_size * data.d_steps
        points, modes = mixture.draw(len(self) * size * world_size, generator)
        # (steps, d_steps, processes, batch): what one process would see in a step with all their samples is shared out
        shape = (len(self), data.d_steps, world_size, data.batch_size)
        number = torch.arange(len(points)).view(shape)[:, :, rank].reshape(len(self), size)
        for step in range(done, len(self)):
            yield Batch(points[number[step]], modes[number[step]], number[step])


class PictureLoader:
    """Shuffled pictures from the device, in batches of one size: the few left over at an epoch's end wait for the next."""

    def __init__(self, data: GANData) -> None:
        self.data = data
        self.train = data.load()["train"]

    def __len__(self) -> int:
        _, world_size = rank_and_world_size(self.data.trainer)
        size = self.data.batch_size * self.data.d_steps * world_size
        if size > len(self.train):
            raise UserError(
                f"a step takes {size} pictures, the source has {len(self.train)}: "
                "use a smaller --data.batch_size, --model.d_steps or --model.rounds"
            )
        return len(self.train) // size

    def __iter__(self) -> Iterator[Batch]:
        data, train = self.data, self.train
        rank, world_size = rank_and_world_size(data.trainer)
        epoch, done = resume_position(data.trainer)
        generator = torch.Generator().manual_seed(data.seed * 1_000_003 + epoch)
        order = torch.randperm(len(train), generator=generator)
        mirrored = torch.rand(len(train), generator=generator) < (0.5 if data.flip else 0.0)
        used = len(self) * data.d_steps * world_size * data.batch_size
        share = order[:used].view(len(self), data.d_steps, world_size, data.batch_size)[:, :, rank].flatten(1)
        mirrored = mirrored.to(train.labels.device)
        for number in share[done:].to(train.labels.device):
            images = as_float(train.images[number])
            flips = mirrored[number].view(-1, 1, 1, 1)
            yield Batch(torch.where(flips, images.flip(3), images), train.labels[number], number)


class EvalLoader:
    """Real samples in order; under several processes each takes its share, and none is counted twice."""

    def __init__(self, data: GANData, split: str) -> None:
        self.batch = data.eval_batch(split)
        rank, world_size = rank_and_world_size(data.trainer)
        self.share = shard_indices(len(self.batch.labels), rank, world_size).to(self.batch.labels.device)
        self.size = data.eval_batch_size

    def __len__(self) -> int:
        return -(-len(self.share) // self.size)

    def __iter__(self) -> Iterator[Batch]:
        for index in self.share.split(self.size):
            batch = Batch(*(values[index] for values in self.batch))
            yield batch if batch.samples.is_floating_point() else batch._replace(samples=as_float(batch.samples))


def as_float(images: Tensor) -> Tensor:
    """uint8 pictures as float32 from -1 to 1."""
    return images.float() / 127.5 - 1


def as_bytes(images: Tensor) -> Tensor:
    """Pictures from -1 to 1 as uint8, rounded: what a file would hold, and what features are taken of."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def render_sample() -> dict[str, LabeledImages]:
    """The embedded sample: the ten classes of rendered pictures, the same on every machine."""
    return render_splits(SAMPLE_SIZES)
