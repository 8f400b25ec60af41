"""CIFAR-10 (or any labeled images) as batches, loaded and augmented in bulk on the device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import torch
from jsonargparse.typing import NonNegativeInt, PositiveInt
from torch import Tensor

from common.data.batches import batch_shape, epoch_batches, report_left_out, shard_indices
from common.data.held_out import hold_out
from common.data.image_tables import UNLABELED, Columns
from common.data.images import LabeledImages, load_images
from common.data.sources import SourceDataModule
from common.errors import UserError
from common.io.ranks import print_rank_zero
from common.options import PositiveFraction
from common.trainer import rank_and_world_size, resume_position
from projects.cifar10.augment import augment, reflect_pad, sample_params
from projects.cifar10.config import IMAGE_SIZE, AugmentationConfig
from projects.cifar10.hard_examples import HardExampleSelection
from projects.cifar10.pseudo_labels import load_extra
from projects.cifar10.synthetic import make_splits

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

HUB_ID = "uoft-cs/cifar10"
VAL_SIZE, BATCH_SIZE = 1000, 500  # where unset; of small data sets less


class CIFAR10Data(SourceDataModule):
    """Images (batch, 3, 32, 32) uint8 and labels (batch,) int64; in training also the index (batch,) of each image.

    Args:
        source: `auto` (CIFAR-10 if it is cached or can be downloaded, else the sample), `sample`, a hub id, or a folder.
        batch_size: Images in a training step of each process; unset, 500, or an eighth of an epoch of
            less than 2,000 images.
        eval_batch_size: Images in a validation or test step.
        val_size: Validation images, held out of train unless the source has train, validation and test; 0 for no validation;
            unset, 1,000, or a fifth of train if that is less.
        test_split: `test`, or `validation` to test on the held-out images: for choosing between two recipes by their
            final test metrics, test-time augmentation included, without a look at test.
        loader: `device` keeps the data set on the device and augments there; `dataloader` is a DataLoader with composed
            torchvision v2 transforms.
        subset_fraction: Online hard-example selection: images of an epoch as a fraction of the training set, half of them
            those with the largest losses; 1 trains on all in every epoch.
        augmentation: Augmentation of training images.
        num_workers: Worker processes of the DataLoader; unset, 2, and on a GPU one for each core of this process, up to 8.
        extra_train_data: A folder of further training images, with a folder for each class (see `predict
            --save_pseudo_labels`).
        image_column: Column of images, or of their paths, of a table that has several.
        label_column: Column of class labels of a table that has several.
    """

    HUB_ID = HUB_ID

    def __init__(
        self,
        source: str = "auto",
        batch_size: PositiveInt | None = None,
        eval_batch_size: PositiveInt = 1000,
        val_size: NonNegativeInt | None = None,
        test_split: Literal["test", "validation"] = "test",
        loader: Literal["device", "dataloader"] = "device",
        subset_fraction: PositiveFraction = 0.6,
        augmentation: AugmentationConfig = AugmentationConfig(),
        num_workers: NonNegativeInt | None = None,
        extra_train_data: str | None = None,
        image_column: str | None = None,
        label_column: str | None = None,
    ) -> None:
        super().__init__(source)
        if test_split == "validation" and val_size == 0:
            raise UserError("--data.test_split validation: --data.val_size 0 holds no images out")
        if max(augmentation.pad, augmentation.cutout) >= IMAGE_SIZE:
            raise UserError(f"--data.augmentation.pad and cutout are in pixels of the image: less than {IMAGE_SIZE}")
        self.unset = {name for name, size in (("val_size", val_size), ("batch_size", batch_size)) if size is None}
        self.val_size, self.batch_size = val_size or 0, batch_size or 0  # the unset ones until `load`
        self.eval_batch_size = eval_batch_size
        self.test_split = test_split
        self.loader = loader
        self.subset_fraction = subset_fraction
        self.augmentation = augmentation
        self.num_workers = num_workers
        self.extra_train_data = extra_train_data
        self.columns = Columns(image_column, label_column)
        self.splits: dict[str, LabeledImages] = {}
        self.train: LabeledImages
        self.val: LabeledImages
        self.test: LabeledImages
        self.hard_examples: HardExampleSelection

    @property
    def source_label(self) -> str:
        """Name of the data in results: the source, with the way its pixels were stored as in `cifar10-jpeg75`."""
        split = "validation" if self.test_split == "validation" else ""
        return "-".join(filter(None, [self.resolve().label, self.split("test").encoding, split]))

    @property
    def class_names(self) -> list[str]:
        """Name of each label."""
        return self.split("test").class_names

    @property
    def split_sizes(self) -> dict[str, int]:
        """Number of images."""
        return {name: len(self.split(name)) for name in ("train", "val")}

    @property
    def num_classes(self) -> int:
        """Number of labels."""
        return len(self.class_names)

    @property
    def horizontal_flip(self) -> bool:
        """Whether a flipped image is another of its class: else test-time augmentation has no flips either."""
        return self.augmentation.flip != "none"

    @property
    def has_validation(self) -> bool:
        """Whether images are held out."""
        return self.val_size > 0

    def load(self) -> dict[str, LabeledImages]:
        """Splits "train", "val" (the source's own, else held out of train) and "test", read once; sets unset sizes.

        Raises:
            UserError: There is one class only, or there are not enough training images to hold out `val_size`.
        """
        if not self.splits:
            splits = load_images(self.resolve(), IMAGE_SIZE, make_splits, self.columns)
            train, val = splits["train"], splits.get("validation")
            if len(train.class_names) < 2:
                only = train.class_names[0]
                fault = "has no labels" if only == UNLABELED else f"every image is of the class {only}"
                needed = "classification needs a folder for each class, or a table with a column of labels"
                raise UserError(f"data source {self.resolve().name}: {fault}; {needed}")
            self.set_sizes(len(train), 0 if val is None else len(val))
            if val is None or not self.val_size:
                if self.val_size >= len(train):
                    raise UserError(f"--data.val_size {self.val_size}: the source has {len(train)} training images")
                train, val = hold_out(train, self.val_size)
            elif not self.resolve().test_only:
                print_rank_zero(f"validation: the source's own {len(val)} images, none are held out of train")
            if self.extra_train_data is not None:
                train = train.joined_with(load_extra(self.extra_train_data, train.class_names))
            self.splits = {"train": train, "val": val, "test": splits["test"]}
        return self.splits

    def adapt_to(self, checkpoint: dict[str, Any]) -> None:
        """Labels images by the classes of the checkpoint."""
        names = list(checkpoint["class_names"])
        self.splits = {name: images.relabel(names, self.resolve()) for name, images in self.load().items()}

    def split(self, name: str) -> LabeledImages:
        """Split "train", "val" or "test"; after `setup` the one on the device."""
        return getattr(self, name) if hasattr(self, name) else self.load()[name]

    def set_sizes(self, num_train: int, num_val: int) -> None:
        """Sets `val_size` and `batch_size`, if unset, for a source with so many training and validation images."""
        if "val_size" in self.unset:
            self.val_size = num_val or min(VAL_SIZE, num_train // 5)
        if "batch_size" in self.unset:
            epoch_size = round(self.subset_fraction * (num_train - (0 if num_val else self.val_size)))
            self.batch_size = BATCH_SIZE if epoch_size >= 4 * BATCH_SIZE else max(1, epoch_size // 8)

    def prepare_data(self) -> None:
        """Decodes the images once for all processes, into the cache."""
        if not hasattr(self, "test"):  # else the test after training would read them again
            self.load()

    def setup(self, stage: str) -> None:
        """Moves all images to the device."""
        if hasattr(self, "test"):
            return
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        self.train, self.val, self.test = (self.load()[name].to(device) for name in ("train", "val", "test"))
        self.splits = {}  # a second copy would only take up memory
        # the run's seed; read here because it is the same in every process and after a resume
        self.seed = torch.initial_seed() % 2**31
        self.hard_examples = HardExampleSelection(len(self.train), self.subset_fraction, self.seed, device)
        self.mean_color = self.train.images.float().mean((0, 2, 3)).round().to(torch.uint8).view(3, 1, 1)

    def state_dict(self) -> dict[str, Any]:
        return self.hard_examples.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.hard_examples.load_state_dict(state_dict)

    def train_dataloader(self) -> Any:
        return TrainLoader(self)

    def val_dataloader(self) -> Any:
        return EvalLoader(self.val, self.eval_batch_size, self.trainer) if self.val_size else []

    def test_dataloader(self) -> Any:
        split = self.val if self.test_split == "validation" else self.test
        return EvalLoader(split, self.eval_batch_size, self.trainer)


class TrainLoader:
    """Training batches of an epoch: no image of its subset twice, shuffled and augmented.

    Order and augmentation are functions of seed and epoch. Starts at the trainer's position, also within an epoch.
    """

    def __init__(self, data: CIFAR10Data) -> None:
        self.data = data
        count, formed_for = data.hard_examples.subset_size, data.sharding[2]
        self.shape = batch_shape(count, data.batch_size, formed_for)
        report_left_out(count, *self.shape)
        if data.loader == "device":  # all training images with the padding that crops are taken from
            self.padded = reflect_pad(data.train.images, data.augmentation.pad)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def global_batch_size(self) -> int:
        """Images of a batch, of all processes together."""
        return self.shape[1]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        data = self.data
        epoch, batch_idx = resume_position(data.trainer)
        subset = data.hard_examples.select(epoch)
        order = epoch_batches(len(subset), data.batch_size, epoch, data.seed, *data.sharding)
        batches = [subset[batch] for batch in order[batch_idx:]]
        if data.loader == "device":
            yield from self.device_batches(epoch, batches)
        else:
            from projects.cifar10.dataloader import (  # torchvision imports slowly
                TransformedImages,
                dataloader_batches,
                default_workers,
            )

            dataset = TransformedImages(data.train, data.augmentation, data.mean_color, data.seed, epoch)
            num_workers = default_workers(data.trainer) if data.num_workers is None else data.num_workers
            yield from dataloader_batches(dataset, batches, num_workers)

    def device_batches(self, epoch: int, batches: list[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Augments the images of all `batches` at once on their device; a batch is a view, without workers or copies."""
        data, train, config = self.data, self.data.train, self.data.augmentation
        index = torch.cat(batches)
        params = sample_params(len(train), IMAGE_SIZE, epoch, data.seed, config, data.hard_examples.times_sampled)[index]
        index, params = index.to(train.images.device), params.to(train.images.device)
        images = augment(self.padded, index, params, config, data.mean_color)
        sizes = [len(batch) for batch in batches]
        yield from zip(images.split(sizes), train.labels[index].split(sizes), index.split(sizes), strict=True)


class EvalLoader:
    """Images in order, unchanged; each of several processes evaluates its shard, and no image is counted twice."""

    def __init__(self, data: LabeledImages, batch_size: int, trainer: Trainer | None) -> None:
        self.data = data
        self.batches = shard_indices(len(data), *rank_and_world_size(trainer)).to(data.labels.device).split(batch_size)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for index in self.batches:
            yield self.data.images[index], self.data.labels[index]
