"""Exercise augmentations: flips and crops, and which data they are wrong for."""

import random
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from foundations.comparing import Failure, Note, call, check_equal, check_that, describe
from foundations.exercise import Exercise
from foundations.exercises.data.generators import global_states_kept
from foundations.exercises.data.labeled_shapes import make_images, recognize

exercise = Exercise(
    title="Augmentation: changes that keep the label",
    level="core",
    minutes=30,
    link="projects.cifar10.augment:crop_and_flip",
    why="every training image is flipped and shifted at random, each by parameters of its own",
    hints=(
        "One random number for each sample, the same for image and mask. Of each flip ask: what is the mirrored sample?",
        "flip = rand(B) < p; where(flip[:, None, None, None], flipped, images). Offsets of a crop: 0 … 2 pad inclusive.",
        "torch.randint(2 * pad + 1, (B, 2), generator=rng) gives corners; F.pad(images, (pad,) * 4), then cut H x W there.",
    ),
    source="torch._refs:constant_pad_nd",
    look_at="A negative padding cuts. Which single call pads one side and cuts the other, and so shifts an image?",
)

Batch = tuple[Tensor, Tensor]
FLIPS = {(): "as it is", (-1,): "flipped left to right", (-2,): "flipped top to bottom", (-2, -1): "flipped both ways"}


def generator(seed: int = 0) -> torch.Generator:
    """A random generator of its own."""
    return torch.Generator().manual_seed(seed)


def batch_of(b: int, c: int, h: int, w: int) -> Batch:
    """Images without two equal pixels, and masks of classes from 1 on."""
    return torch.rand(b, c, h, w) + 0.5, torch.randint(1, 9, (b, h, w))


def changed(x: Tensor, flips: tuple[int, ...], dy: int, dx: int) -> Tensor:
    """`x` flipped, then shifted, zeros moving in."""
    return F.pad(x.flip(flips), (dx, -dx, dy, -dy))


def find_changes(images: Tensor, got: Tensor, pad: int, flips: list[tuple[int, ...]]) -> list[tuple[Any, ...] | None]:
    """Flips and shift by which each image became what it is now; None if by no such."""
    found: list[tuple[Any, ...] | None] = [None] * len(images)
    shifts = range(-pad, pad + 1)
    for change in [(dims, dy, dx) for dims in flips for dy in shifts for dx in shifts]:
        same = ((changed(images, *change) - got).abs().flatten(1).amax(1) < 1e-5).tolist()
        found = [change if here and old is None else old for here, old in zip(same, found, strict=True)]
    return found


def run(transform: Any, images: Tensor, masks: Tensor, seed: int = 0) -> Batch:
    """The transform's result. Raises Failure if it is not a pair of the same shapes and dtypes."""
    got = call(transform, images, masks, generator(seed))
    good = isinstance(got, tuple | list) and len(got) == 2 and all(isinstance(part, Tensor) for part in got)
    check_that(good, "a pair (images, masks) is expected", got=got, images=images, masks=masks)
    for name, part, old in (("images", got[0], images), ("masks", got[1], masks)):
        same = part.shape == old.shape and part.dtype == old.dtype
        check_that(same, f"shape or dtype of the {name}", old, part, images=images, masks=masks)
    return got[0], got[1]


def changes_of(transform: Any, batch: Batch, pad: int, flips: list[tuple[int, ...]], seed: int = 0) -> list[tuple[Any, ...]]:
    """How each sample was changed. Raises Failure if an image was changed in no such way, or its mask in another."""
    images, masks = batch
    new_images, new_masks = run(transform, images, masks, seed)
    found: list[tuple[Any, ...]] = []
    for i, change in enumerate(find_changes(images, new_images, pad, flips)):
        note = Note(f"{describe(images[i])} flipped or cropped, not {describe(new_images[i])}")
        check_that(change is not None, "no such flip or crop gives this image", note)
        found.append(change or ())
    for change in dict.fromkeys(found):
        rows = [i for i, other in enumerate(found) if other == change]
        moved = changed(masks[rows], *change)
        for i in (moved != new_masks[rows]).flatten(1).any(1).nonzero()[:1, 0].tolist():
            note = Note(f"{describe(masks[rows][i])} becomes {describe(moved[i])}, not {describe(new_masks[rows][i])}")
            raise Failure("the mask did not move with its image", expected=note)
    return found


@exercise.property("flips with p = 0 and p = 1")
def certain_flips(answer: ModuleType, rng: random.Random) -> None:
    for shape in [(1, 1, 1, 3), (2, 1, 2, 3), (3, 3, 3, 3)]:
        images, masks = batch_of(*shape)
        for dim in (-1, -2):
            expected = images.flip(dim), masks.flip(dim)
            check_equal(answer.RandomFlip(dim, 1.0), images, masks, generator(), expected=expected)
            check_equal(answer.RandomFlip(dim, p=0.0), images, masks, generator(), expected=(images, masks))


@exercise.property("flips: each sample by itself, the mask with it")
def random_flips(answer: ModuleType, rng: random.Random) -> None:
    for dim, p in ((-1, 0.5), (-2, 0.5), (-1, 0.2)):
        flip = answer.RandomFlip(dim) if p == 0.5 else answer.RandomFlip(dim, p)
        found = changes_of(flip, batch_of(100, 1, 2, 3), 0, [(), (dim,)])
        fraction = sum(change[0] == (dim,) for change in found) / len(found)
        check_that(0 < fraction < 1, "all samples of a batch are flipped, or none", dim=dim, p=p)
        check_that(abs(fraction - p) < 0.2, "how many are flipped", Note(f"about {p}, not {fraction}"), dim=dim, p=p)


@exercise.property("crops: each sample by itself, the mask with it")
def crops(answer: ModuleType, rng: random.Random) -> None:
    images, masks = batch_of(2, 1, 2, 3)
    check_equal(answer.RandomCrop(0), images, masks, generator(), expected=(images, masks))
    for shape, pad in [((150, 1, 3, 4), 1), ((3, 3, 3, 3), 1), ((80, 2, 4, 5), 2)]:
        found = changes_of(answer.RandomCrop(pad), batch_of(*shape), pad, [()])
        if len(found) < 80:
            continue
        places = {change[1:] for change in found}
        check_that(len(places) > 1, "all samples of a batch are shifted alike", pad=pad)
        for name, axis in (("rows", 1), ("columns", 2)):
            shifts = sorted({change[axis] for change in found})
            check_that(
                shifts == list(range(-pad, pad + 1)), f"shifts by {name}", list(range(-pad, pad + 1)), shifts, pad=pad
            )
        if len(found) == 150:
            counts = [sum(change[1:] == place for change in found) for place in places]
            check_that(len(places) == 9, "positions of a crop with pad 1, in 150 samples", 9, len(places))
            check_that(
                min(counts) > 0 and max(counts) < 50, "how often each of 9 positions comes", "about 17", sorted(counts)
            )


@exercise.property("one after the other")
def composed(answer: ModuleType, rng: random.Random) -> None:
    def add(images: Tensor, masks: Tensor, rng: torch.Generator) -> Batch:
        return images + 1, masks + 2

    def double(images: Tensor, masks: Tensor, rng: torch.Generator) -> Batch:
        return images * 2, masks * 3

    def noise(images: Tensor, masks: Tensor, rng: torch.Generator) -> Batch:
        return images + torch.rand(images.shape, generator=rng), masks

    images, masks = torch.tensor([[[[1.0]]]]), torch.tensor([[[1]]])
    for transforms, factors in [([], (1, 1)), ([add], (2, 3)), ([add, double], (4, 9)), ([double, add, double], (6, 15))]:
        expected = images * factors[0], masks * factors[1]
        check_equal(answer.Compose(transforms), images, masks, generator(), expected=expected)
    once = torch.rand(2, 1, 1, 1, generator=generator())
    expected = images + once[:1] + once[1:], masks
    check_equal(answer.Compose([noise, noise]), images, masks, generator(), expected=expected)


@exercise.property("all random numbers from the generator")
def generators(answer: ModuleType, rng: random.Random) -> None:
    images, masks = batch_of(20, 1, 2, 3)
    for name, transform in (("RandomFlip(-1)", answer.RandomFlip(-1)), ("RandomCrop(1)", answer.RandomCrop(1))):
        with global_states_kept(name):
            first = run(transform, images, masks, 1)
        check_that(torch.equal(first[0], run(transform, images, masks, 1)[0]), f"{name}: equal generators, unequal results")
        check_that(not torch.equal(first[0], run(transform, images, masks, 2)[0]), f"{name}: each generator gives the same")


@exercise.property("validation stays as it is")
def validation(answer: ModuleType, rng: random.Random) -> None:
    for data in ("digits", "arrows", "photos", "chirps"):
        images, masks, _ = make_images(data, 3, rng)
        got = run(answer.build_augmentation(data, False), images, masks)
        same = torch.equal(got[0], images) and torch.equal(got[1], masks)
        check_that(same, "images for validation are changed", data=data, training=False)


@exercise.property("labels are kept, and no flip is forgotten")
def labels_kept(answer: ModuleType, rng: random.Random) -> None:
    for data, allowed in (("digits", []), ("arrows", [(-2,)]), ("photos", [(-1,)]), ("chirps", [])):
        images, masks, labels = make_images(data, 20 if allowed else 8, rng)
        transform = answer.build_augmentation(data, True)
        found = changes_of(transform, (images, masks), 1, list(FLIPS))
        new_images = run(transform, images, masks)[0]
        for label, new, change in zip(labels, new_images, found, strict=True):
            seen = recognize(data, new)
            note = Note(f"still {label}, not {seen}")
            check_that(seen == label, f"{data}: an image that is {FLIPS[change[0]]} has another label", note)
        for flip in allowed:
            used = any(change[0] == flip for change in found)
            check_that(used, f"{data}: no image is {FLIPS[flip]}, though that keeps every label", data=data)
        check_that(any(change[1:] != (0, 0) for change in found), f"{data}: no image is cropped", data=data)


@exercise.property("flips with probability 1/2")
def half_flipped(answer: ModuleType, rng: random.Random) -> None:
    for data, flip in (("arrows", (-2,)), ("photos", (-1,))):
        images, masks, _ = make_images(data, 200, rng)
        found = changes_of(answer.build_augmentation(data, True), (images, masks), 1, [(), flip])
        fraction = sum(change[0] == flip for change in found) / len(found)
        check_that(fraction < 1, "every image of 200 is flipped", data=data)
        check_that(
            0.3 < fraction < 0.7, "how many of 200 images are flipped", Note(f"about half, not {fraction}"), data=data
        )


def flip_with(fault: str) -> type:
    """RandomFlip with one of the known faults."""

    class RandomFlip:
        def __init__(self, dim: int, p: float = 0.5) -> None:
            self.dim, self.p = dim, 1 - p if fault == "inverted" else p

        def __call__(self, images: Tensor, masks: Tensor, rng: torch.Generator) -> Batch:
            numbers = torch.rand(len(images), generator=None if fault == "global" else rng)
            flip = (numbers[:1].expand(len(images)) if fault == "one" else numbers) < self.p
            other = torch.rand(len(images), generator=rng) < self.p if fault == "twice" else flip
            images = torch.where(flip[:, None, None, None], images.flip(self.dim), images)
            if fault == "image_only":
                return images, masks
            return images, torch.where(other[:, None, None], masks.flip(self.dim), masks)

    return RandomFlip


def crop_with(fault: str) -> type:
    """RandomCrop with one of the known faults."""

    class RandomCrop:
        def __init__(self, pad: int) -> None:
            self.pad = pad

        def __call__(self, images: Tensor, masks: Tensor, rng: torch.Generator) -> Batch:
            high = max(2 * self.pad, 1) if fault == "last" else 2 * self.pad + 1
            shifts = torch.randint(high, (len(images), 2), generator=rng) - self.pad
            if fault == "one":
                shifts = shifts[:1].expand(len(images), 2)
            if fault == "diagonal":
                shifts = shifts[:, :1].expand(len(images), 2)

            def crop(batch: Tensor) -> Tensor:
                pairs = list(zip(batch, shifts.tolist(), strict=True))
                if fault == "rolled":
                    return torch.stack([x.roll((dy, dx), (-2, -1)) for x, (dy, dx) in pairs])
                return torch.stack([changed(x, (), dy, dx) for x, (dy, dx) in pairs])

            return crop(images), masks if fault == "image_only" else crop(masks)

    return RandomCrop


FLIP_MESSAGES = {
    "one": "One random number decides for the whole batch: draw one for each sample, torch.rand(len(images), ...).",
    "image_only": "The image is flipped and its mask is not: the labels of its pixels are mirrored now.",
    "twice": "Image and mask are flipped by random numbers of their own: draw once, use it for both.",
    "inverted": "p is the probability of being flipped, not of being kept.",
    "global": "The random numbers come from torch's global generator: pass generator=rng.",
}
CROP_MESSAGES = {
    "one": "All samples of a batch are shifted alike: draw an offset for each.",
    "image_only": "The crop moves the image and leaves its mask where it was.",
    "last": "randint leaves its upper end out: with randint(2 * pad) the last offset never comes.",
    "diagonal": "Rows and columns get the same offset: only shifts along the diagonal occur.",
    "rolled": "torch.roll lets what leaves on one side come in on the other; zeros are asked for.",
}
for _fault, _message in FLIP_MESSAGES.items():
    exercise.wrong("RandomFlip", _message)(flip_with(_fault))
for _fault, _message in CROP_MESSAGES.items():
    exercise.wrong("RandomCrop", _message)(crop_with(_fault))
exercise.also_right("RandomFlip")(flip_with(""))
exercise.also_right("RandomCrop")(crop_with(""))


def compose_with(fault: str) -> type:
    """Compose with one of the known faults."""

    class Compose:
        def __init__(self, transforms: Any) -> None:
            self.transforms = list(transforms)

        def __call__(self, images: Tensor, masks: Tensor, rng: torch.Generator) -> Batch:
            result = images, masks
            for transform in reversed(self.transforms) if fault == "reversed" else self.transforms:
                result = transform(*((images, masks) if fault == "last" else result), rng)
            return result

    return Compose


exercise.wrong("Compose", "The transforms run from the last to the first.")(compose_with("reversed"))
exercise.wrong("Compose", "Each transform gets the first images: only the last one's change is left.")(compose_with("last"))


def build_with(flips: dict[str, tuple[int, ...]], always: bool = False, p: float = 0.5) -> Callable[[str, bool], Any]:
    """build_augmentation with given flips for each data set."""
    make_flip, make_crop, compose = flip_with(""), crop_with(""), compose_with("")

    def build_augmentation(data: str, training: bool) -> Any:
        parts = [make_flip(dim, p) for dim in flips.get(data, ())] + [make_crop(1)]
        return compose(parts if training or always else [])

    return build_augmentation


RIGHT = {"arrows": (-2,), "photos": (-1,)}
exercise.wrong(
    "build_augmentation",
    "Left and right are flipped everywhere, as is usual for photos: of digits that makes other signs, or none that exist.",
)(build_with(dict.fromkeys(("digits", "arrows", "photos", "chirps"), (-1,))))
exercise.wrong(
    "build_augmentation", "An arrow to the left that is flipped left to right points to the right: another class."
)(build_with({"arrows": (-1,), "photos": (-1,)}))
exercise.wrong("build_augmentation", "A scene upside down shows nothing that a camera sees: no label fits it any more.")(
    build_with({"arrows": (-2,), "photos": (-1, -2)})
)
exercise.wrong("build_augmentation", "A rising tone that is played backward falls: in a spectrogram left to right is time.")(
    build_with({**RIGHT, "chirps": (-1,)})
)
exercise.wrong("build_augmentation", "An arrow to the left that is flipped top to bottom still points to the left: use it.")(
    build_with({"photos": (-1,)})
)
exercise.wrong("build_augmentation", "Validation is augmented: it would measure other images every time, and harder ones.")(
    build_with(RIGHT, always=True)
)
exercise.wrong("build_augmentation", "p = 1 flips every image: the network would never see one as it is. Half of them.")(
    build_with(RIGHT, p=1.0)
)
exercise.wrong("build_augmentation", "Too many images are flipped, or too few: a probability of 1/2 is asked for.")(
    build_with(RIGHT, p=0.2)
)
exercise.also_right("build_augmentation")(build_with(RIGHT))


@exercise.also_right("RandomFlip")
class SampleBySample:
    """A loop, and a Bernoulli draw."""

    def __init__(self, dim: int, p: float = 0.5) -> None:
        self.dim, self.p = dim, p

    def __call__(self, images: Tensor, masks: Tensor, rng: torch.Generator) -> list[Tensor]:
        images, masks = images.clone(), masks.clone()
        for image, mask, yes in zip(images, masks, torch.empty(len(images)).bernoulli_(self.p, generator=rng), strict=True):
            if yes:
                image.copy_(image.flip(self.dim).clone())
                mask.copy_(mask.flip(self.dim).clone())
        return [images, masks]
