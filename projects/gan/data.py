"""Training data of a GAN: points of a Gaussian mixture, sampled anew each epoch, or images of any source, on the device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from jsonargparse.typing import PositiveInt
from torch import Tensor

from common.data.batches import shard_indices
from common.data.held_out import hold_out
from common.data.image_tables import Columns
from common.data.images import LabeledImages, load_images
from common.data.sources import Source, SourceDataModule
from common.data.synthetic_images import render_splits
from common.errors import UserError
from common.options import AtLeastTwo
from common.trainer import rank_and_world_size, resume_position
from projects.gan.synthetic import MIXTURES, GaussianMixture

HUB_ID = "uoft-cs/cifar10"
IMAGE_SIZE = 32
SAMPLE_SIZES = {"train": 5000, "test": 2000}
EVAL_SAMPLES = 2500
EVAL_SEEDS = {"val": 2**32 - 1, "test": 2**32 - 2}  # of the points for validation and test: the generator takes 32 bits


class GANBatch(NamedTuple):
    """Real samples of a training step: enough for all discriminator updates in it."""

    samples: Tensor  # (batch, 2) float32 points, or (batch, 3, 32, 32) float32 images in [-1, 1]
    labels: Tensor  # (batch,) int64: the class, or the mode of a point
    indices: Tensor  # (batch,) int64: index in the split, or in the epoch

    def split(self, count: int) -> list[GANBatch]:
        """`count` batches of the same size, in order."""
        return [GANBatch(*columns) for columns in zip(*(values.chunk(count) for values in self), strict=True)]


class GANData(SourceDataModule):
    """Points in the plane or 32 x 32 images.

    Args:
        source: `ring8` or `grid25` (points), `sample` (rendered images), `auto` (CIFAR-10 if it is cached or can be
            downloaded, else the sample), a hub id, or a folder.
        batch_size: Real samples of a discriminator update of each process, and as many fakes.
        n_critic: Discriminator updates of an iteration; taken from the module.
        iterations_per_step: Iterations of a training step; taken from the module.
        steps_per_epoch: Training steps in an epoch of points, which are without end.
        eval_samples: Points of validation and of test; images held out of train for validation,
            unless the source has train, validation and test. Unset, 2500, and at most a tenth of the images.
        eval_batch_size: Samples in a validation or test step.
        horizontal_flip: Random horizontal flips of training images.
        image_column: Column of images, or of their paths, of a table that has several.
        label_column: Column of class labels of a table that has several.
    """

    HUB_ID = HUB_ID

    def __init__(
        self,
        source: str = "grid25",
        batch_size: PositiveInt = 512,
        n_critic: PositiveInt = 1,
        iterations_per_step: PositiveInt = 1,
        steps_per_epoch: PositiveInt = 25,
        eval_samples: AtLeastTwo | None = None,
        eval_batch_size: PositiveInt = 500,
        horizontal_flip: bool = True,
        image_column: str | None = None,
        label_column: str | None = None,
    ) -> None:
        super().__init__(source)
        self.batch_size = batch_size
        self.updates_per_step = n_critic * iterations_per_step  # of the discriminator
        self.steps_per_epoch = steps_per_epoch
        self.eval_samples = eval_samples
        self.eval_batch_size = eval_batch_size
        self.horizontal_flip = horizontal_flip
        self.columns = Columns(image_column, label_column)
        self.splits: dict[str, LabeledImages] = {}
        self.seed: int

    def resolve(self) -> Source:
        """Source of the data, resolved once; a mixture is a source of its own."""
        if self.source is None and self.source_option in MIXTURES:
            self.source = Source("points", self.source_option)
        return super().resolve()

    @property
    def mixture(self) -> GaussianMixture | None:
        """Mixture that the points come from; None for images."""
        source = self.resolve()
        return MIXTURES[source.name]() if source.kind == "points" else None

    @property
    def data_kind(self) -> Literal["points", "images"]:
        """`points` or `images`."""
        return "images" if self.mixture is None else "points"

    @property
    def class_names(self) -> list[str]:
        """Name of each label."""
        if self.mixture is not None:
            return [f"mode {i}" for i in range(len(self.mixture.modes))]
        return self.load()["test"].class_names

    @property
    def num_classes(self) -> int:
        """Number of labels."""
        return len(self.class_names)

    @property
    def trained_labels(self) -> list[int]:
        """Labels that some training sample has; a source may have classes in other splits alone."""
        labels = torch.arange(self.num_classes) if self.mixture is not None else self.load()["train"].labels.unique()
        return labels.tolist()

    @property
    def data_std(self) -> float:
        """Standard deviation of a point's coordinate; 1 for images, which are in [-1, 1]."""
        return 1.0 if self.mixture is None else self.mixture.data_std

    @property
    def split_sizes(self) -> dict[str, int]:
        """Number of images; points are without end."""
        return {} if self.mixture is not None else {name: len(self.load()[name]) for name in ("train", "val")}

    @property
    def source_label(self) -> str:
        """Source's name beside results, with the way its pixels were stored as in `cifar10-jpeg75`."""
        encoding = "" if self.mixture is not None else self.load()["test"].encoding
        return "-".join(filter(None, [self.resolve().label, encoding]))

    def load(self) -> dict[str, LabeledImages]:
        """Images of the splits "train", "val" (the source's own, else held out of train) and "test", read once.

        Raises:
            UserError: There are not enough training images to hold out `eval_samples`.
        """
        if not self.splits:
            splits = load_images(self.resolve(), IMAGE_SIZE, render_sample, self.columns)
            train, val = splits["train"], splits.get("validation")
            if val is None:
                count = self.eval_samples or max(2, min(EVAL_SAMPLES, len(train) // 10))
                if count >= len(train):
                    raise UserError(f"--data.eval_samples {count}: the source has {len(train)} training images")
                train, val = hold_out(train, count)
            self.splits = {"train": train, "val": val, "test": splits["test"]}
        return self.splits

    def adapt_to(self, checkpoint: dict[str, Any]) -> None:
        """Labels images by the classes of the checkpoint, if it is class-conditional."""
        options = checkpoint["hyper_parameters"]
        if options["data_kind"] != self.data_kind:
            generates = f"the checkpoint generates {options['data_kind']}"
            raise UserError(f"--data.source {self.resolve().name}: these are {self.data_kind}; {generates}")
        if options["conditional"]:
            names = list(checkpoint["class_names"])
            self.splits = {name: images.relabel(names, self.resolve()) for name, images in self.load().items()}

    def prepare_data(self) -> None:
        if self.mixture is None:
            self.load()  # decodes the images once for all processes, into the cache

    def setup(self, stage: str) -> None:
        # the run's seed; read here because it is the same in every process and after a resume
        self.seed = torch.initial_seed() % 2**31
        if self.mixture is None and self.trainer is not None:
            device = self.trainer.strategy.root_device
            self.splits = {name: split.to(device) for name, split in self.load().items()}

    def train_dataloader(self) -> Any:
        return ImageLoader(self) if self.mixture is None else PointLoader(self, self.mixture)

    def val_dataloader(self) -> Any:
        return EvalLoader(self, "val")

    def test_dataloader(self) -> Any:
        return EvalLoader(self, "test")

    def num_eval_samples(self, split: str) -> int:
        """Number of real samples of the split "val" or "test"."""
        return (self.eval_samples or EVAL_SAMPLES) if self.mixture is not None else len(self.load()[split])

    def shard(self, indices: Tensor, steps: int) -> Tensor:
        """This process's indices (steps, samples per step) of an epoch's: N processes see in a step what one would.

        Raises:
            UserError: The batch of a run that is resumed cannot be dealt out to the processes in equal parts.
        """
        rank, world_size, _ = self.sharding
        if self.global_batch_size % world_size:
            raise UserError(f"{world_size} processes for batches of {self.global_batch_size}: use a number that divides it")
        return indices.view(steps, self.updates_per_step, world_size, -1)[:, :, rank].flatten(1)

    @property
    def global_batch_size(self) -> int:
        """Real samples in an update of the discriminator, of all processes together."""
        return self.batch_size * self.sharding[2]


class PointLoader:
    """Batches of points, sampled an epoch at a time; starts at the trainer's position, also within an epoch."""

    def __init__(self, data: GANData, mixture: GaussianMixture) -> None:
        self.data, self.mixture = data, mixture

    def __len__(self) -> int:
        return self.data.steps_per_epoch

    def __iter__(self) -> Iterator[GANBatch]:
        data = self.data
        epoch, batch_idx = resume_position(data.trainer)
        rng = torch.Generator().manual_seed(data.seed * 1_000_003 + epoch)
        points, modes = self.mixture.sample(len(self) * data.updates_per_step * data.global_batch_size, rng)
        for indices in data.shard(torch.arange(len(points)), len(self))[batch_idx:]:
            yield GANBatch(points[indices], modes[indices], indices)


class ImageLoader:
    """Shuffled batches of images from the device, all of one size: an epoch's remainder is dropped."""

    def __init__(self, data: GANData) -> None:
        self.data = data
        self.train = data.load()["train"]

    def __len__(self) -> int:
        size = self.data.global_batch_size * self.data.updates_per_step
        if size > len(self.train):
            raise UserError(
                f"a training step takes {size} images, the source has {len(self.train)}: "
                "use a smaller --data.batch_size, --model.n_critic or --model.iterations_per_step"
            )
        return len(self.train) // size

    def __iter__(self) -> Iterator[GANBatch]:
        data, train = self.data, self.train
        epoch, batch_idx = resume_position(data.trainer)
        rng = torch.Generator().manual_seed(data.seed * 1_000_003 + epoch)
        order = torch.randperm(len(train), generator=rng)
        flipped = torch.rand(len(train), generator=rng) < (0.5 if data.horizontal_flip else 0.0)
        flipped = flipped.to(train.labels.device)
        used = order[: len(self) * data.updates_per_step * data.global_batch_size]
        for indices in data.shard(used, len(self))[batch_idx:].to(train.labels.device):
            images = as_float(train.images[indices])
            flip = flipped[indices].view(-1, 1, 1, 1)
            yield GANBatch(torch.where(flip, images.flip(3), images), train.labels[indices], indices)


class EvalLoader:
    """Real samples in order; each of several processes evaluates its shard, and no sample is counted twice."""

    def __init__(self, data: GANData, split: str) -> None:
        self.samples: Tensor
        if data.mixture is not None:
            rng = torch.Generator().manual_seed(EVAL_SEEDS[split])
            self.samples, self.labels = data.mixture.sample(data.num_eval_samples(split), rng)
        else:
            self.samples, self.labels = data.load()[split].images, data.load()[split].labels
        shard = shard_indices(len(self.labels), *rank_and_world_size(data.trainer))
        self.batches = shard.to(self.labels.device).split(data.eval_batch_size)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[GANBatch]:
        for indices in self.batches:
            samples = self.samples[indices]
            samples = samples if samples.is_floating_point() else as_float(samples)
            yield GANBatch(samples, self.labels[indices], indices)


def as_float(images: Tensor) -> Tensor:
    """Images uint8 as float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def as_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] as uint8, rounded: what a file would hold, and what features are computed of."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def render_sample() -> dict[str, LabeledImages]:
    """Embedded sample: the ten classes of rendered images, the same on every machine."""
    return render_splits(SAMPLE_SIZES)
