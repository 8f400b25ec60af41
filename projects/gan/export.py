"""Export command: `python -m projects.gan.export --checkpoint PATH --to FOLDER`.

ONNX takes latent vectors, and labels if the generator is class-conditional, and gives samples of the EMA generator, its
batch-norm statistics up to date.
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


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code (see `common.errors`)."""
    options = new_parser("gan", ONNX).parse_args(args)
    return report_errors(lambda: export(options, new_export))


def new_export(options: argparse.Namespace) -> tuple[Project, Export]:
    """The generator of a checkpoint, as it is exported."""
    from common.export.graph import Export, Graph
    from common.export.weights import write_weights
    from common.io.checkpoints import read_checkpoint
    from projects.gan.inference import load, sample_latents
    from projects.gan.synthetic import MIXTURES
    from projects.gan.train import PROJECT

    checkpoint, pipeline = read_checkpoint(options.checkpoint), load(options.checkpoint)
    module = pipeline.module
    generator = module.generator if module.ema_generator is None else module.ema_generator.module
    batches = [{"z": sample_latents(n, pipeline.latent_dim, seed=n)} for n in (2, 1, 7)]
    if pipeline.classes:
        batches = [{**batch, "labels": pipeline.labels(None, len(batch["z"]))} for batch in batches]
    graph = Graph(generator.eval(), batches, ("samples",), metadata={"classes": ", ".join(pipeline.classes)})
    points = pipeline.data_source in MIXTURES
    samples = "points (n, 2)" if points else "images (n, 3, 32, 32) in [-1, 1]"
    classes = (
        f" Labels: {', '.join(f'{label} {name}' for name, label in pipeline.classes.items())}." if pipeline.classes else ""
    )
    made = Export(
        title="Generator of points" if points else "Generator of images",
        description=f"Samples, {samples}, of a generative adversarial network. Inputs, z from a standard normal "
        f"distribution: {'; '.join(graph.describe_inputs())}.{classes} The weights of `model.safetensors` are those of the "
        "discriminator too, for `evaluate`; ONNX has the generator alone (its exponential moving average, if there is one).",
        tags=("unconditional-image-generation", "gan"),
        metrics={},
        checkpoint=checkpoint,
        write_weights=functools.partial(
            write_weights,
            module,
            checkpoint,
            ("class_names", "trained_labels", "data_source"),
            "samples = model(16, seed=0)",
        ),
        graph=graph,
        data=f"Trained on `{pipeline.data_source}`, a mixture of Gaussians in the plane, which code makes."
        if points
        else None,
    )
    return PROJECT, made


if __name__ == "__main__":
    sys.exit(main())
