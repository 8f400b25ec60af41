"""Pseudo-labels (Lee, "Pseudo-Label", 2013): images saved under their predicted class, and read back as training data."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from common.data.image_decoding import describe_conversions, read_image
from common.data.image_files import describe_passed_over, list_images
from common.data.images import LabeledImages
from common.errors import UserError
from common.io.ranks import print_rank_zero
from projects.cifar10.config import IMAGE_SIZE


def save_pseudo_labels(
    paths: Sequence[Path],
    images: Tensor,
    probabilities: Tensor,
    class_names: Sequence[str],
    folder: Path,
    threshold: float,
) -> tuple[int, int]:
    """Saves each image whose top class reaches `threshold` as `folder/<class name>/<file name>.png`.

    Args:
        paths: File of each image.
        images: (n, 3, height, width) uint8.
        probabilities: (n, classes).
        class_names: Name of each class.
        folder: Made if it is not there.
        threshold: Minimum probability of the top class.

    Raises:
        UserError: A class name is none of a folder, or a file cannot be written.

    Returns:
        How many images reach the threshold, and how many of these are new files.
    """
    for name in class_names:  # those of a stranger's checkpoint may lead anywhere
        if name in ("", ".", "..") or set("/\\\0") & set(name):
            raise UserError(f"--save_pseudo_labels: the checkpoint's class {name[:40]!r} is no name of a folder")
    confidence, labels = probabilities.max(1)
    confident = (confidence >= threshold).nonzero().flatten().tolist()
    new = sum(save_image(images[i], folder / class_names[int(labels[i])], paths[i].stem) for i in confident)
    return len(confident), new


def save_image(image: Tensor, folder: Path, stem: str) -> bool:
    """Writes `image` (3, height, width) as `stem.png`, or `stem-2.png` ... beside others; False if it is there already."""
    for number in itertools.count(1):
        path = folder / (f"{stem}.png" if number == 1 else f"{stem}-{number}.png")
        if not path.exists():
            break
        if torch.equal(read_image(path, image.shape[-1]), image):
            return False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, format="PNG")
    except OSError as error:
        raise UserError(f"--save_pseudo_labels {path}: {error.strerror or error}") from error
    return True


def load_extra(folder: str, class_names: list[str]) -> LabeledImages:
    """Extra training images from `folder/<class name>/`; prints what is passed over or converted.

    Raises:
        UserError: The folder is missing, is empty, or has a class that the data set does not have.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"--data.extra_train_data {folder}: no such folder")
    unknown = sorted(
        p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".") and p.name not in class_names
    )
    if unknown:
        classes = ", ".join(class_names)
        raise UserError(f"--data.extra_train_data {folder}: unknown class {unknown[0]}; the classes are {classes}")
    files, passed_over = list_images(root)
    by_class = {name: [path for path in files if path.relative_to(root).parts[:-1][:1] == (name,)] for name in class_names}
    labeled = [(path, label) for label, name in enumerate(class_names) for path in by_class[name]]
    if not labeled:
        raise UserError(f"--data.extra_train_data {folder}: no image in a folder that is named like a class")
    passed_over["no folder of a class"] = len(files) - len(labeled)
    conversions = Counter[str]()
    images = torch.stack([read_image(path, IMAGE_SIZE, conversions) for path, _ in labeled])
    for message in [*describe_passed_over(passed_over), *describe_conversions(conversions)]:
        print_rank_zero(f"--data.extra_train_data {folder}: {message}")
    return LabeledImages(images, torch.tensor([label for _, label in labeled]), class_names)
