"""Generation command: `python -m projects.gan.generate --checkpoint PATH`.

Images go to one PNG side by side, or one file each; points to a CSV file and a plot.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.cli.command import (
    OneLineParser,
    add_accelerator,
    add_checkpoint,
    positive,
    positive_float,
    report_errors,
    seed_value,
)
from common.errors import UserError
from common.io.files import write_text_atomically

if TYPE_CHECKING:
    from torch import Tensor

    from projects.gan.inference import GeneratorPipeline


def new_parser() -> OneLineParser:
    """Parser of the command's flags; imports no torch, so that `--help` answers at once."""
    parser = OneLineParser(prog="python -m projects.gan.generate", description="Generates samples with a trained GAN.")
    add_checkpoint(parser)
    parser.add_argument("--output", type=Path, default=Path("samples.png"), metavar="PNG", help="Default: samples.png.")
    parser.add_argument("--count", type=positive, default=64, help="Number of samples (default: 64).")
    parser.add_argument("--columns", type=positive, default=8, help="Images in a row (default: 8).")
    parser.add_argument("--seed", type=seed_value, default=0, help="Seed of the latent vectors (default: 0).")
    parser.add_argument(
        "--truncation",
        type=positive_float,
        metavar="T",
        help="Truncation trick: resample |z| > T; 0.5 is cautious, 2 is wild.",
    )
    parser.add_argument("--class_name", metavar="NAME", help="Class, for a conditional generator; unset, all in turn.")
    parser.add_argument("--interpolate", action="store_true", help="Each row interpolates between two samples.")
    parser.add_argument("--each", action="store_true", help="One file per image: samples-0000.png and so on.")
    add_accelerator(parser)
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code (see `common.errors`)."""
    options = new_parser().parse_args(args)
    return report_errors(lambda: run(options))


def run(options: argparse.Namespace) -> None:
    """Generates samples, writes them and prints the files' names."""
    from common.nn.device import choose_device
    from projects.gan.inference import interpolate, load, sample_latents

    pipeline = load(options.checkpoint, choose_device(options.accelerator))
    rows = -(-options.count // options.columns)
    if options.interpolate:
        z = interpolate(rows, options.columns, pipeline.latent_dim, options.seed, options.truncation)
        labels = pipeline.labels(options.class_name, rows).repeat_interleave(options.columns)
    else:
        z = sample_latents(options.count, pipeline.latent_dim, options.seed, options.truncation)
        labels = pipeline.labels(options.class_name, len(z))
    try:
        for path in write(pipeline, pipeline.generate(z, labels), options):
            print(path)
    except (OSError, ValueError) as error:  # no such folder, or a suffix that nothing writes
        raise UserError(f"--output {options.output}: {error}") from error


def write(pipeline: GeneratorPipeline, samples: Tensor, options: argparse.Namespace) -> list[Path]:
    """Writes the samples; returns the files."""
    from PIL import Image

    from projects.gan.data import as_uint8
    from projects.gan.plots import plot_points, save_grid
    from projects.gan.synthetic import MIXTURES

    points = pipeline.data_source in MIXTURES
    output: Path = options.output
    if not output.suffix or (points and output.suffix == ".csv"):
        output = output.with_suffix(".png")
    if points:
        title = f"{len(samples)} generated points, trained on {pipeline.data_source}"
        plot = plot_points(samples, MIXTURES[pipeline.data_source](), title, output)  # first: it refuses an unknown suffix
        table = output.with_suffix(".csv")
        write_text_atomically(table, "x,y\n" + "".join(f"{x:.6g},{y:.6g}\n" for x, y in samples.tolist()))
        return [table, plot]
    images = as_uint8(samples)
    if not options.each:
        return [save_grid(images, output, options.columns)]
    paths = [output.with_name(f"{output.stem}-{i:04d}{output.suffix}") for i in range(len(images))]
    for image, path in zip(images, paths, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return paths


if __name__ == "__main__":
    sys.exit(main())
