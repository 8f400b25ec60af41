"""CIFAR-10 (or any labelled pictures) as batches: on the device in bulk, or through the classic DataLoader."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from common.data.batches import count_batches, epoch_batches, shard_indices
from common.data.images import LabeledImages, load_images
from common.data.sources import SourceDataModule
from common.data.synthetic_images import render_splits
from common.errors import UserError
from common.trainer import rank_and_world_size, resume_position
from projects.cifar10.augment import Augmentation, augment, draw, reflect_pad
from projects.cifar10.selection import Selection

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

HUB_ID = "uoft-cs/cifar10"
SIZE = 32
SAMPLE_SIZES = {"train": 5000, "test": 1000}
VAL_SPLIT_SEED = 1234  # the held-out pictures are the same for every run, whatever its seed


class CIFAR10Data(SourceDataModule):
    """Pictures as uint8 (batch, 3, 32, 32) with int64 labels (batch,); in training also each one's index (batch,).

    Args:
        source: `auto` (CIFAR-10 if it is cached or can be downloaded, else the sample), `sample`, a hub id, or a folder.
        batch_size: pictures in a training step of each process.
        eval_batch_size: pictures in a validation or test step.
        val_size: pictures held out of train for validation; 0 trains on all of them, without validation.
        test_on: `test`, or `validation` to put the held-out pictures in its place: for choosing between two recipes by
            what they reach in the end, test-time augmentation and all, without a look at test.
        loader: `device` keeps the data set on the device and augments there; `classic` is a DataLoader with composed
            torchvision v2 transforms.
        share: pictures of an epoch as a share of the training set; below 1 the hardest and some others (`Selection`).
        flip: `alternating`, `random` or `none` (with the classic loader alternating means random).
        pad: pixels of reflected border that random crops are taken from.
        cutout: side in pixels of the square that is blanked; 0 for none.
        num_workers: processes of the classic loader.
        extra: a folder of further training pictures, in a folder for each class (see `predict --save_pseudo_labels`).
    """

    HUB_ID = HUB_ID

    def __init__(
        self,
        source: str = "auto",
        batch_size: int = 500,
        eval_batch_size: int = 1000,
        val_size: int = 1000,
        test_on: str = "test",
        loader: str = "device",
        share: float = 1.0,
        flip: str = "alternating",
        pad: int = 2,
        cutout: int = 0,
        num_workers: int = 2,
        extra: str | None = None,
    ) -> None:
        super().__init__(source)
        if loader not in ("device", "classic"):
            raise UserError(f"--data.loader {loader}: use device or classic")
        if test_on not in ("test", "validation"):
            raise UserError(f"--data.test_on {test_on}: use test or validation")
        if test_on == "validation" and not val_size:
            raise UserError("--data.test_on validation: --data.val_size 0 holds no pictures out")
        if batch_size < 1 or eval_batch_size < 1 or val_size < 0:
            raise UserError("--data.batch_size and eval_batch_size are at least 1, val_size at least 0")
        if not 0 < share <= 1:
            raise UserError(f"--data.share {share}: a share of the training pictures is above 0 and at most 1")
        if pad >= SIZE or cutout >= SIZE:
            raise UserError(f"--data.pad and cutout are pixels of a picture of {SIZE} x {SIZE}: less than {SIZE}")
        try:
            self.augmentation = Augmentation(flip, pad, cutout)
        except ValueError as error:
            raise UserError(f"--data: {error}") from error
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.val_size = val_size
        self.test_on = test_on
        self.loader = loader
        self.share = share
        self.num_workers = num_workers
        self.extra = extra
        self.splits: dict[str, LabeledImages] = {}
        self.train: LabeledImages
        self.val: LabeledImages
        self.test: LabeledImages
        self.selection: Selection

    @property
    def source_label(self) -> str:
        """What figures call the data: the source, with the way its pixels were stored as in `cifar10-jpeg75`."""
        pictures = self.test if hasattr(self, "test") else self.load()["test"]
        split = "validation" if self.test_on == "validation" else ""
        return "-".join(filter(None, [self.resolve().label, pictures.encoding, split]))

    @property
    def class_names(self) -> list[str]:
        """The name of each label; available after `setup`."""
        return self.test.class_names

    @property
    def has_validation(self) -> bool:
        """Whether pictures are held out."""
        return self.val_size > 0

    def load(self) -> dict[str, LabeledImages]:
        """The splits "train" and "test" as the source has them, read once."""
        if not self.splits:
            self.splits = load_images(self.resolve(), SIZE, render_sample)
        return self.splits

    def prepare_data(self) -> None:
        """Decodes the pictures once for all processes, into the cache."""
        if not hasattr(self, "test"):  # else the test after training would read them again
            self.load()

    def setup(self, stage: str) -> None:
        """Splits off the validation pictures and moves everything to the device."""
        if hasattr(self, "test"):
            return
        splits = self.load()
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        full = splits["train"]
        if self.val_size >= len(full):
            raise UserError(f"--data.val_size {self.val_size}: the source has {len(full)} training pictures")
        order = torch.randperm(len(full), generator=torch.Generator().manual_seed(VAL_SPLIT_SEED))
        self.val = full[order[: self.val_size]].to(device)
        self.train = full[order[self.val_size :]].to(device)
        self.test = splits["test"].to(device)
        self.splits = {}  # a second copy would only take up memory
        if self.extra is not None:
            self.train = self.train.joined_with(load_extra(self.extra, full.class_names).to(device))
        # the run's seed; asked for here because it is the same in every process and after a resume
        self.seed = torch.initial_seed() % 2**31
        self.selection = Selection(len(self.train), self.share, self.seed, device)
        self.mean_color = self.train.images.float().mean((0, 2, 3)).round().to(torch.uint8).view(3, 1, 1)

    def input_sample(self) -> Tensor:
        """Training pictures, as they are, from which a network takes its input statistics: (n, 3, 32, 32) uint8."""
        return self.train.images

    def batches_left(self) -> tuple[int, list[Tensor]]:
        """The epoch that training is in, and the indices of the pictures of each batch that this process still has in it."""
        epoch, done = resume_position(self.trainer)
        chosen = self.selection.choose(epoch)
        batches = epoch_batches(len(chosen), self.batch_size, epoch, self.seed, *rank_and_world_size(self.trainer))
        return epoch, [chosen[batch] for batch in batches[done:]]

    def state_dict(self) -> dict[str, Any]:
        """What the checkpoint keeps of the data: which pictures are hard, if that is asked for."""
        return self.selection.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes it back."""
        self.selection.load_state_dict(state_dict)

    def train_dataloader(self) -> Any:
        """Every training picture that the epoch shows, exactly once, shuffled and augmented."""
        return DeviceLoader(self) if self.loader == "device" else ClassicLoader(self)

    def val_dataloader(self) -> Any:
        """The held-out pictures, as they are."""
        return EvalLoader(self.val, self.eval_batch_size, self.trainer) if self.val_size else []

    def test_dataloader(self) -> Any:
        """The pictures that the end is measured on, as they are."""
        return EvalLoader(self.val if self.test_on == "validation" else self.test, self.eval_batch_size, self.trainer)


class DeviceLoader:
    """One epoch at a time: permutes, augments and slices the whole data set on its device, without workers or copies.

    A batch is a view into the epoch's augmented pictures, so what a step costs for its data is next to nothing.
    """

    def __init__(self, data: CIFAR10Data) -> None:
        self.data = data

    @cached_property
    def padded(self) -> Tensor:
        """All training pictures with the border that crops are taken from; made once, as it never changes."""
        return reflect_pad(self.data.train.images, self.data.augmentation.pad)

    def __len__(self) -> int:
        _, world_size = rank_and_world_size(self.data.trainer)
        return count_batches(self.data.selection.size, self.data.batch_size, world_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        data, train = self.data, self.data.train
        epoch, batches = data.batches_left()
        order = torch.cat(batches)
        draws = draw(len(train), SIZE, epoch, data.seed, data.augmentation, data.selection.shown)
        draws = draws[order].to(train.images.device)
        order = order.to(train.images.device)
        images = augment(self.padded, order, draws, data.augmentation, data.mean_color)
        labels = train.labels[order]
        sizes = [len(batch) for batch in batches]
        yield from zip(images.split(sizes), labels.split(sizes), order.split(sizes), strict=True)


class EvalLoader:
    """Pictures in order, unchanged; under several processes each takes its share, and no picture is counted twice."""

    def __init__(self, data: LabeledImages, batch_size: int, trainer: Trainer | None) -> None:
        self.share = shard_indices(len(data), *rank_and_world_size(trainer)).to(data.labels.device)
        self.data = data
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.share) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for index in self.share.split(self.batch_size):
            yield self.data.images[index], self.data.labels[index]


class ClassicDataset(Dataset[tuple[Tensor, Tensor, int]]):
    """The textbook path: one picture at a time through composed torchvision v2 transforms."""

    def __init__(self, data: CIFAR10Data) -> None:
        from torchvision.transforms import v2

        self.images, self.labels = data.train.images.cpu(), data.train.labels.cpu()
        self.seed = data.seed
        steps: list[Any] = [v2.RandomHorizontalFlip()] if data.augmentation.flip != "none" else []
        if pad := data.augmentation.pad:
            steps.append(v2.RandomCrop(SIZE, padding=pad, padding_mode="reflect"))
        if side := data.augmentation.cutout:
            share = side**2 / SIZE**2
            color = data.mean_color.flatten().tolist()
            steps.append(v2.RandomErasing(p=1.0, scale=(share, share), ratio=(1.0, 1.0), value=color))
        self.transform = v2.Compose(steps) if steps else v2.Identity()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor, int]:
        """The picture `key = (epoch, index)`: its own random state makes it the same in any worker and after a resume."""
        epoch, index = key
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(((self.seed * 1_000_003 + epoch) * 1_000_003 + index) % 2**63)
            return self.transform(self.images[index]), self.labels[index], index


class ClassicBatches(Sampler[list[tuple[int, int]]]):
    """The same batches as `DeviceLoader`'s, as lists of (epoch, index) for a DataLoader's `batch_sampler`."""

    def __init__(self, data: CIFAR10Data) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(DeviceLoader(self.data))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, batches = self.data.batches_left()
        for batch in batches:
            yield [(epoch, index) for index in batch.tolist()]


class ClassicLoader:
    """A plain DataLoader over `ClassicDataset`; its batches come out on the CPU.

    Workers ask for their first batches as soon as the DataLoader is iterated, and Lightning does that before a resumed
    run's position is restored; this iterator opens it only when the first batch is asked for.
    """

    def __init__(self, data: CIFAR10Data) -> None:
        self.loader: DataLoader[Any] = DataLoader(
            ClassicDataset(data),
            batch_sampler=ClassicBatches(data),
            num_workers=data.num_workers,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # of the workers' seeds, which nothing depends on; else it would be the run's
        )

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        yield from self.loader


def render_sample() -> dict[str, LabeledImages]:
    """The embedded sample: ten classes of rendered pictures, the same on every machine."""
    return render_splits(SAMPLE_SIZES)


def load_extra(folder: str, class_names: list[str]) -> LabeledImages:
    """Further training pictures from `folder/<class name>/*.png`.

    Raises:
        UserError: the folder is missing, is empty, or has a class that the data set does not know.
    """
    from pathlib import Path

    from common.data.images import read_image

    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"--data.extra {folder}: no such folder")
    unknown = sorted(p.name for p in root.iterdir() if p.is_dir() and p.name not in class_names)
    if unknown:
        raise UserError(f"--data.extra {folder}: unknown class {unknown[0]}; the classes are {', '.join(class_names)}")
    files = [(path, label) for label, name in enumerate(class_names) for path in sorted((root / name).glob("*.png"))]
    if not files:
        raise UserError(f"--data.extra {folder}: no PNG in a folder that is named like a class")
    images = torch.stack([read_image(path, SIZE) for path, _ in files])
    return LabeledImages(images, torch.tensor([label for _, label in files]), class_names)
