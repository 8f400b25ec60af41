"""Prediction command: `python -m projects.cifar10.predict IMAGE ... --checkpoint PATH ...`."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.cli.command import OneLineParser, add_accelerator, add_checkpoint, add_pseudo_labels, positive, report_errors
from common.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


def new_parser() -> OneLineParser:
    """Parser of the command's flags; imports no torch, so that `--help` answers at once."""
    parser = OneLineParser(
        prog="python -m projects.cifar10.predict",
        description="Prints the top classes of each image with probabilities, from a checkpoint or an ensemble.",
        epilog="Pseudo-labels are predictions: check a few before you train on them.",
    )
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="An image file, or a folder of them.")
    add_checkpoint(parser, "A checkpoint of a run; of several the probabilities are averaged.", several=True)
    parser.add_argument(
        "--tta",
        type=int,
        choices=(0, 1, 2),
        default=2,
        help="Test-time augmentation: 0 the image, 1 with its horizontal flip, 2 with shifts too, six views (default: 2).",
    )
    parser.add_argument("--top", type=positive, default=3, metavar="K", help="Classes printed per image (default: 3).")
    add_accelerator(parser)
    add_pseudo_labels(
        parser,
        "FOLDER",
        "Save each confidently classified image as FOLDER/CLASS/NAME.png, for train --data.extra_train_data FOLDER.",
    )
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code (see `common.errors`)."""
    options = new_parser().parse_args(args)
    return report_errors(lambda: predict(options))


def predict(options: argparse.Namespace) -> None:
    """Prints predictions; reads everything first, so that a bad file stops it before any output."""
    import torch

    from common.data.image_decoding import describe_conversions, read_image
    from common.nn.device import choose_device
    from projects.cifar10.config import IMAGE_SIZE
    from projects.cifar10.inference import load
    from projects.cifar10.pseudo_labels import save_pseudo_labels

    device = choose_device(options.accelerator)
    paths = list_images(options.images)
    pipeline = load(options.checkpoint, device)
    conversions = Counter[str]()
    images = torch.stack([read_image(path, IMAGE_SIZE, conversions) for path in paths])  # (n, 3, size, size) uint8
    for message in describe_conversions(conversions):
        print(message, file=sys.stderr)
    probabilities = pipeline(images, options.tta)
    for path, row in zip(paths, probabilities, strict=True):
        print(describe(path, row, pipeline.class_names, options.top))
    if folder := options.save_pseudo_labels:
        count, new = save_pseudo_labels(paths, images, probabilities, pipeline.class_names, folder, options.threshold)
        known = f" ({count - new} were there already)" if new < count else ""
        print(f"{count} of {len(paths)} images reach {options.threshold:g}: {new} copied to {folder}{known}")


def list_images(paths: Sequence[Path]) -> list[Path]:
    """`paths`, a folder replaced by the image files in and below it, sorted. Prints how many of its files are passed over.

    Raises UserError if a folder has no image.
    """
    from common.data.image_files import describe_passed_over, list_images

    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            below, passed_over = list_images(path)
            described = "; ".join(describe_passed_over(passed_over))
            if not below:
                raise UserError(f"{path}: no image in this folder (PNG, JPEG, WebP ...) {described}".strip())
            if described:
                print(f"{path}: {described}", file=sys.stderr)
            files += below
        else:
            files.append(path)
    return files


def describe(path: Path, probabilities: Tensor, class_names: Sequence[str], top: int) -> str:
    """Printed lines of an image: its path, then the `top` most probable of (classes,)."""
    width = max(map(len, class_names))
    best = probabilities.argsort(descending=True)[:top].tolist()
    lines = [f"  {class_names[label]:<{width}}  {100 * probabilities[label].item():5.1f} %" for label in best]
    return "\n".join([str(path), *lines])


if __name__ == "__main__":
    sys.exit(main())
