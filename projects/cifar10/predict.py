"""What is in a picture: `python -m projects.cifar10.predict IMAGE ... --checkpoint PATH ...`; `--help` lists the flags.

Several checkpoints make an ensemble, whose probabilities are the mean of theirs. With `--save_pseudo_labels FOLDER` the
pictures that it is sure of are filed under the class it takes them for (pseudo-labels: Lee, "Pseudo-Label", 2013), in the
layout that `train --data.extra FOLDER` reads.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.cli.command import OneLineParser, add_accelerator, add_pseudo_labels
from common.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

BATCH = 500  # pictures that are float at once
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}


def new_parser() -> OneLineParser:
    """The command line's flags; needs no torch, so `--help` answers at once."""
    parser = OneLineParser(
        prog="python -m projects.cifar10.predict",
        description="Prints what each picture shows, with probabilities, from one checkpoint or an ensemble of several.",
        epilog="Pseudo-labels are the network's own opinion: check a few before you train on them.",
    )
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="A picture file, or a folder of them.")
    parser.add_argument(
        "--checkpoint",
        nargs="+",
        action="extend",
        required=True,
        type=Path,
        metavar="PATH",
        help="A checkpoint of a run; of several the probabilities are averaged.",
    )
    parser.add_argument(
        "--tta",
        type=int,
        choices=(0, 1, 2),
        default=2,
        help="Views of each picture: 0 itself, 1 with its mirror image, 2 with shifts too, six in all (default: 2).",
    )
    parser.add_argument("--top", type=int, default=3, metavar="K", help="Classes printed for each picture (default: 3).")
    add_accelerator(parser)
    add_pseudo_labels(
        parser,
        "FOLDER",
        "Copy each picture that is sure enough to FOLDER/CLASS/NAME.png, for train --data.extra FOLDER.",
    )
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code (see `common.errors`)."""
    parser = new_parser()
    options = parser.parse_args(args)
    if options.top < 1:
        parser.error(f"argument --top: {options.top} classes; print at least 1")
    from common.cli.command import report_errors  # after the parser has answered --help

    return report_errors(lambda: predict(options))


def predict(options: argparse.Namespace) -> None:
    """Does what the parsed command line asks for: reads everything first, so that a bad file stops it before any output."""
    import torch

    from common.data.images import read_image
    from common.nn.device import choose_device
    from projects.cifar10.data import SIZE
    from projects.cifar10.inference import ensemble_probabilities

    device = choose_device(options.accelerator)
    paths = list_pictures(options.images)
    nets, class_names = load_ensemble(options.checkpoint, device)
    images = torch.stack([read_image(path, SIZE) for path in paths])  # (pictures, 3, SIZE, SIZE) uint8
    batches = images.split(BATCH)
    probabilities = torch.cat([ensemble_probabilities(nets, batch.to(device), options.tta).cpu() for batch in batches])
    for path, row in zip(paths, probabilities, strict=True):
        print(describe(path, row, class_names, options.top))
    if options.save_pseudo_labels is not None:
        print(save_pseudo_labels(paths, images, probabilities, class_names, options.save_pseudo_labels, options.threshold))


def list_pictures(given: Sequence[Path]) -> list[Path]:
    """The files of `given`, and the pictures in and below the folders of `given` in order of name.

    Raises:
        UserError: there is no such file, or no picture in a folder.
    """
    found: list[Path] = []
    for path in given:
        if path.is_dir():
            below = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            if not below:
                raise UserError(f"{path}: no picture in this folder ({', '.join(sorted(SUFFIXES))})")
            found += below
        elif path.exists():
            found.append(path)
        else:
            raise UserError(f"{path}: no such file")
    return found


def load_ensemble(checkpoints: Sequence[Path], device: torch.device) -> tuple[list[nn.Module], list[str]]:
    """The networks of `checkpoints`, ready to predict on `device`, and the names of the classes that they know.

    Raises:
        UserError: a file is not a good checkpoint of this project, or they were trained on different classes.
    """
    nets: list[nn.Module] = []
    all_names: list[list[str]] = []
    for path in checkpoints:
        net, names = load_network(path)
        nets.append(net.to(device))
        all_names.append(names)
        if names != all_names[0]:
            raise UserError(f"checkpoint {path}: its classes are {', '.join(names)}; {checkpoints[0]} has others")
    return nets, all_names[0]


def load_network(path: Path) -> tuple[nn.Module, list[str]]:
    """The network of a checkpoint, in evaluation mode on the CPU, and its class names. Raises UserError if it is bad."""
    from common.io.checkpoints import check_project, read_checkpoint
    from projects.cifar10.module import CIFAR10Module

    checkpoint = read_checkpoint(path)
    check_project(checkpoint, "cifar10", path)
    try:
        module = CIFAR10Module(**checkpoint["hyper_parameters"])
        module.load_state_dict(checkpoint["state_dict"])
        return module.net.eval(), checkpoint["class_names"]
    except (KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"checkpoint {path}: written by another version of this project ({reason})") from error


def load_features(path: str) -> nn.Module:
    """A checkpoint's network up to its last layer: maps pictures (batch, 3, 32, 32) uint8 to features (batch, width).

    For the Fréchet distances of other projects. Raises UserError if the file is bad.
    """
    from projects.cifar10.networks import FeatureNet

    return FeatureNet(load_network(Path(path))[0])  # type: ignore[arg-type]


def describe(path: Path, probabilities: Tensor, class_names: Sequence[str], top: int) -> str:
    """The block of lines that is printed for a picture: its path, then the `top` likeliest of (classes,)."""
    width = max(map(len, class_names))
    best = probabilities.argsort(descending=True)[:top].tolist()
    lines = [f"  {class_names[label]:<{width}}  {100 * probabilities[label].item():5.1f} %" for label in best]
    return "\n".join([str(path), *lines])


def save_pseudo_labels(
    paths: Sequence[Path],
    images: Tensor,
    probabilities: Tensor,
    class_names: Sequence[str],
    folder: Path,
    threshold: float,
) -> str:
    """Copies each picture of a class probability of at least `threshold` to `folder/<class name>/<its name>.png`.

    A name that another picture has already gets a number; a picture that is there already is not copied again. Returns
    the sentence that says how many were copied.

    Args:
        paths: (pictures,) where they came from.
        images: (pictures, 3, height, width) uint8, as the networks saw them.
        probabilities: (pictures, classes).
        class_names: the name of each class.
        folder: made if it is not there.
        threshold: the least probability.
    """
    confidence, labels = probabilities.max(1)
    copied = known = 0
    for path, image, sure, label in zip(paths, images, confidence >= threshold, labels.tolist(), strict=True):
        if sure:
            new = save_new(image, folder / class_names[label], path.stem)
            copied, known = copied + new, known + (not new)
    there = f" ({known} were there already)" if known else ""
    return f"{copied + known} of {len(paths)} pictures reach {threshold:g}: {copied} copied to {folder}{there}"


def save_new(image: Tensor, folder: Path, stem: str) -> bool:
    """Writes `image` (3, height, width) as `stem.png`, or `stem-2.png` ... beside others; False if it is there already."""
    import torch
    from PIL import Image

    from common.data.images import read_image

    for number in itertools.count(1):
        target = folder / (f"{stem}.png" if number == 1 else f"{stem}-{number}.png")
        if not target.exists():
            break
        if torch.equal(read_image(target, image.shape[-1]), image):
            return False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, format="PNG")
    except OSError as error:
        raise UserError(f"--save_pseudo_labels {target}: {error.strerror or error}") from error
    return True


if __name__ == "__main__":
    sys.exit(main())
