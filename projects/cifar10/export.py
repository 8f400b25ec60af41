"""Export command: `python -m projects.cifar10.export --checkpoint PATH --to FOLDER`.

ONNX takes uint8 images as they come from a file and gives calibrated class probabilities: normalization and
temperature are inside, test-time augmentation is not.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from common.cli.command import report_errors
from common.export.command import ONNX, export, new_parser

if TYPE_CHECKING:
    from common.export.graph import Export
    from common.project import Project

BATCH_SIZES = (2, 1, 7)
CALIBRATION_IMAGES = 512


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code (see `common.errors`)."""
    options = new_parser("cifar10", ONNX, int8=True).parse_args(args)
    return report_errors(lambda: export(options, new_export))


def new_export(options: argparse.Namespace) -> tuple[Project, Export]:
    """The classifier of a checkpoint, as it is exported."""
    import torch

    from common.export.graph import Export, Graph
    from common.export.quantize import write_int8_classifier
    from common.export.weights import write_weights
    from common.io.checkpoints import load_module
    from projects.cifar10.config import IMAGE_SIZE
    from projects.cifar10.module import CIFAR10Module
    from projects.cifar10.networks import CalibratedClassifier
    from projects.cifar10.train import PROJECT

    module, checkpoint = load_module(options.checkpoint, CIFAR10Module, "cifar10")
    rng, shape = torch.Generator().manual_seed(0), (3, IMAGE_SIZE, IMAGE_SIZE)
    batches = [{"images": torch.randint(0, 256, (n, *shape), generator=rng).to(torch.uint8)} for n in BATCH_SIZES]
    names = ", ".join(map(str, checkpoint["class_names"]))
    network = CalibratedClassifier(module.net, module.temperature.item()).eval()
    graph = Graph(network, batches, ("probabilities",), metadata={"classes": names})

    def write_int8(folder, data):  # type: ignore[no-untyped-def]
        labeled = (({"images": images}, labels) for images, labels in data.val_dataloader())
        calibration = ({"images": images} for images in data.train.images[:CALIBRATION_IMAGES].split(64))
        return write_int8_classifier(graph, folder, labeled, calibration)

    keys = ("class_names", "horizontal_flip")
    made = Export(
        title=f"Image classifier, {len(checkpoint['class_names'])} classes",
        description=f"Calibrated class probabilities of images of {IMAGE_SIZE} x {IMAGE_SIZE} pixels. Input, as it comes "
        f"from a file: {graph.describe_inputs()[0]}; normalization and temperature are inside the network. "
        f"Classes: {names}. `load` averages over six views of an image (test-time augmentation), "
        "`model(images, tta=0)` and ONNX take the image alone.",
        tags=("image-classification",),
        metrics={"accuracy": "test/accuracy"},
        checkpoint=checkpoint,
        write_weights=functools.partial(write_weights, module, checkpoint, keys, "probabilities = model(images, tta=0)"),
        graph=graph,
        write_int8=write_int8,
    )
    return PROJECT, made


if __name__ == "__main__":
    sys.exit(main())
