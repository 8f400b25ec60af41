"""Exercise dataset: a length, and an item for each index."""

import csv
import itertools
import random
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from foundations.comparing import Failure, check_equal, check_that, difference
from foundations.exercise import Exercise

exercise = Exercise(
    title="Dataset: images of an array, labels of a CSV file",
    level="warm-up",
    minutes=15,
    link="projects.cifar10.data:CIFAR10Data",
    why="folders, tables and archives of images all become an array of images and their labels",
    hints=(
        "Read the file once, in __init__, into a list of (row, label). The image is made in __getitem__, anew each time.",
        "image = images[row] / 255 with the channels first; label = position of the class in the sorted names.",
        "csv.DictReader(lines) gives a dict for each line; images[row].permute(2, 0, 1).float() / 255; a list ends.",
    ),
    source="torch.utils.data.dataset:TensorDataset",
    look_at="The whole of it is three methods. What raises the IndexError here?",
)

LINES = [(2, "dog"), (0, "cat"), (3, "dog"), (1, "ant")]


def make(answer: ModuleType, lines: list[tuple[int, str]], images: Tensor, transform: Any = None) -> Any:
    """The learner's dataset of lines and images."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "labels.csv"
        path.write_text("image,label\n" + "".join(f"{row},{label}\n" for row, label in lines))
        return answer.ImageDataset(images, path, transform)


def small_images(count: int = 4) -> Tensor:
    """Images of 1 x 2 pixels."""
    return torch.randint(256, (count, 1, 2, 3), dtype=torch.uint8)


def expected_image(images: Tensor, row: int) -> Tensor:
    """What the sample of a row holds."""
    return torch.stack([images[row, :, :, channel].float() / 255 for channel in range(3)])


def check_sample(dataset: Any, index: int, image: Tensor, label: int, **inputs: Any) -> None:
    """Compares a sample; the label may be a number or a tensor without dimensions."""
    sample = dataset[index]
    good = isinstance(sample, tuple | list) and len(sample) == 2
    check_that(good, "a sample is a pair of image and label", expected="(image, label)", got=sample, index=index, **inputs)
    reason = difference(sample[0], image, 1e-5, 1e-6)
    check_that(not reason, f"image: {reason}", image, sample[0], index=index, **inputs)
    labels = default_collate([sample[1], sample[1]])
    same = isinstance(labels, Tensor) and labels.dtype == torch.int64 and labels.shape == (2,)
    check_that(same, "labels of two such samples do not collate to int64 (2,)", label, sample[1], index=index, **inputs)
    check_that(int(sample[1]) == label, "label", label, sample[1], index=index, **inputs)


@exercise.property("length and classes")
def sizes(answer: ModuleType, rng: random.Random) -> None:
    images = small_images()
    for lines in (LINES, LINES[:2], LINES[2:], []):
        dataset, classes = make(answer, lines, images), sorted({label for _, label in lines})
        check_that(len(dataset) == len(lines), "len", len(lines), len(dataset), lines=lines, rows=len(images))
        check_that(list(dataset.classes) == classes, "classes", classes, list(dataset.classes), lines=lines)


@exercise.property("samples")
def samples(answer: ModuleType, rng: random.Random) -> None:
    for h, w in [(1, 2), (2, 1), (3, 3), (2, 4)]:
        images = torch.randint(256, (4, h, w, 3), dtype=torch.uint8)
        before = images.clone()
        for lines in ([(0, "cat"), (1, "dog")], LINES, [*LINES, (2, "cat")]):
            dataset, classes = make(answer, lines, images), sorted({label for _, label in lines})
            for index, (row, label) in enumerate(lines):
                check_sample(dataset, index, expected_image(images, row), classes.index(label), lines=lines)
        check_that(torch.equal(images, before), "the images were changed")


@exercise.property("a loop over it ends")
def loops(answer: ModuleType, rng: random.Random) -> None:
    dataset = make(answer, LINES[:2], small_images())
    try:
        seen = len(list(itertools.islice(iter(dataset), 5)))
    except Exception as error:
        raise Failure(f"`for sample in dataset` raises {type(error).__name__} at the end", {"len": 2}, got=error) from error
    check_that(seen == 2, "samples that `for sample in dataset` gives, at least", 2, seen)
    check_equal(lambda: len(list(torch.utils.data.DataLoader(dataset, batch_size=2))), expected=1)


@exercise.property("transform, at each access")
def transforms(answer: ModuleType, rng: random.Random) -> None:
    images, calls = small_images(), []

    def shift(image: Tensor) -> Tensor:
        calls.append(image)
        return image + len(calls)

    dataset = make(answer, LINES, images, shift)
    for access in range(1, 4):
        calls[:] = calls[: access - 1]
        check_sample(dataset, 1, expected_image(images, 0) + access, 1, accesses=access)


@exercise.property("a transform may change its argument")
def in_place(answer: ModuleType, rng: random.Random) -> None:
    images = small_images()
    dataset, before = make(answer, LINES, images, lambda image: image.mul_(0.5)), images.clone()
    for access in (1, 2):
        check_sample(dataset, 1, expected_image(before, 0) / 2, 1, accesses=access)
    check_that(torch.equal(images, before), "the images were changed", before[0], images[0])


def dataset_with(fault: str) -> type:
    """ImageDataset with one of the known faults."""

    class ImageDataset(torch.utils.data.Dataset):
        def __init__(self, images: Tensor, csv_path: Path, transform: Any = None) -> None:
            self.transform = transform
            with Path(csv_path).open(newline="") as file:
                lines = [(int(line["image"]), line["label"]) for line in csv.DictReader(file)]
            names = dict.fromkeys(label for _, label in lines)
            self.classes = list(names) if fault == "unsorted" else sorted(names)
            if fault == "file_order":
                lines = [(i, label) for i, (_, label) in enumerate(lines)]
            self.samples: Any = [(row, self.classes.index(label)) for row, label in lines]
            if fault == "dict":
                self.samples = dict(enumerate(self.samples))
            self.images = images.permute(0, 3, 1, 2).float() / 255
            if fault == "reshape":
                self.images = (images.float() / 255).reshape(len(images), 3, *images.shape[1:3])
            self.frozen = [transform(image) for image in self.images] if fault == "frozen" and transform else []

        def __len__(self) -> int:
            return len(self.images) if fault == "rows" else len(self.samples)

        def __getitem__(self, index: int) -> tuple[Tensor, Any]:
            row, label = self.samples[index % len(self.samples) if fault == "wraps" else index]
            image = self.images[row] if fault == "view" else self.images[row].clone()
            if self.frozen:
                return self.frozen[row], label
            label = {"list": torch.tensor([label]), "float": float(label)}.get(fault, label)
            return (image if self.transform is None else self.transform(image)), label

    return ImageDataset


exercise.wrong(
    "ImageDataset",
    "index % len never raises IndexError, so `for sample in dataset` does not end: Python stops at that error.",
)(dataset_with("wraps"))
exercise.wrong(
    "ImageDataset", "A dict raises KeyError at the end; the loop over a dataset ends at an IndexError alone: keep a list."
)(dataset_with("dict"))
exercise.wrong(
    "ImageDataset",
    "The transform gets a view of what you store and writes into it: the second epoch sees other images. Hand it a copy.",
)(dataset_with("view"))
exercise.wrong(
    "ImageDataset", "The transform runs once, in __init__: a random one would give the same image in every epoch."
)(dataset_with("frozen"))
exercise.wrong(
    "ImageDataset", "A label of shape (1,) makes batches of (B, 1), which a loss broadcasts or refuses: a number."
)(dataset_with("list"))
exercise.wrong("ImageDataset", "A label as float becomes float64 in the batch; cross-entropy wants whole numbers, int64.")(
    dataset_with("float")
)
exercise.wrong("ImageDataset", "The lines of the file need not be in the array's order: the column `image` says the row.")(
    dataset_with("file_order")
)
exercise.wrong(
    "ImageDataset", "Classes in order of appearance: another file of the same classes would number them differently. Sort."
)(dataset_with("unsorted"))
exercise.wrong("ImageDataset", "len counts the samples, which are the lines of the file, not the rows of the array.")(
    dataset_with("rows")
)
exercise.wrong("ImageDataset", "reshape cuts (H, W, 3) into other pieces: the channels come to the front by permute.")(
    dataset_with("reshape")
)
exercise.also_right("ImageDataset")(dataset_with(""))


@exercise.also_right("ImageDataset")
class WithoutDataset:
    """No base class, a file read by hand, labels as tensors."""

    def __init__(self, images: Tensor, csv_path: Path, transform: Any = None) -> None:
        table = [line.split(",") for line in Path(csv_path).read_text().splitlines()[1:]]
        self.rows = torch.tensor([int(row) for row, _ in table], dtype=torch.int64)
        self.classes = tuple(sorted({label for _, label in table}))
        self.labels = torch.tensor([self.classes.index(label) for _, label in table], dtype=torch.int64)
        self.pixels, self.transform = images.clone(), transform or (lambda image: image)

    def __len__(self) -> int:
        return self.rows.numel()

    def __getitem__(self, index: int) -> list[Tensor]:
        if index >= len(self):
            raise IndexError(index)
        image = torch.einsum("hwc->chw", self.pixels[self.rows[index]]).to(torch.float32).div(255)
        return [self.transform(image), self.labels[index]]
