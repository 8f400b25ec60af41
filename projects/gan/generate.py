"""What a generator makes: `python -m projects.gan.sample --checkpoint PATH`; `--help` lists the flags.

Pictures go to one PNG side by side, or one file each; points to a CSV file and a picture of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.cli.command import OneLineParser, add_accelerator, positive
from common.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from projects.gan.inference import Sampler


def new_parser() -> OneLineParser:
    """The command line's flags; needs no torch, so `--help` answers at once."""
    parser = OneLineParser(prog="python -m projects.gan.sample", description="Makes samples with a trained generator.")
    parser.add_argument("--checkpoint", required=True, type=Path, metavar="PATH", help="A checkpoint of a run.")
    parser.add_argument("--output", type=Path, default=Path("samples.png"), metavar="PNG", help="Default: samples.png.")
    parser.add_argument("--count", type=positive, default=64, help="How many samples (default: 64).")
    parser.add_argument("--columns", type=positive, default=8, help="Pictures in a row (default: 8).")
    parser.add_argument("--seed", type=int, default=0, help="Of the noise (default: 0).")
    parser.add_argument(
        "--truncation", type=above_zero, metavar="T", help="Draw noise beyond T again: 0.5 is tame, 2 is wild."
    )
    parser.add_argument("--class_name", metavar="NAME", help="Of a conditional generator; unset, all in turn.")
    parser.add_argument("--interpolate", action="store_true", help="Each row leads from one sample to another.")
    parser.add_argument("--each", action="store_true", help="One file a picture: samples-0000.png and so on.")
    add_accelerator(parser)
    return parser


def above_zero(text: str) -> float:
    """A number above 0."""
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{value} is not above 0")
    return value


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code (see `common.errors`)."""
    options = new_parser().parse_args(args)
    from common.cli.command import report_errors  # after the parser has answered --help

    return report_errors(lambda: sample(options))


def sample(options: argparse.Namespace) -> None:
    """Does what the parsed command line asks for."""
    from common.nn.device import choose_device
    from projects.gan.inference import asked_labels, load_sampler, make_samples

    device = choose_device(options.accelerator)
    sampler = load_sampler(options.checkpoint, device)
    noise = asked_noise(options, sampler.noise).to(device)
    labels = asked_labels(sampler.class_names, options.class_name, len(noise), device)
    if options.interpolate and options.class_name is None:
        labels = labels[: -(-len(noise) // options.columns)].repeat_interleave(options.columns)[: len(noise)]
    samples = make_samples(sampler.net, noise, labels).cpu()
    try:
        for path in write(sampler, samples, options):
            print(path)
    except (OSError, ValueError) as error:  # no such folder, or a suffix that nothing writes
        raise UserError(f"--output {options.output}: {error}") from error


def asked_noise(options: argparse.Namespace, width: int) -> Tensor:
    """Noise (count, width), or with `--interpolate` as many whole rows of paths as `--count` asks for."""
    from projects.gan.inference import draw_noise, paths_between

    if not options.interpolate:
        return draw_noise(options.count, width, options.seed, options.truncation)
    rows = -(-options.count // options.columns)
    ends = draw_noise(2 * rows, width, options.seed, options.truncation)
    return paths_between(ends[:rows], ends[rows:], options.columns).flatten(0, 1)


def write(sampler: Sampler, samples: Tensor, options: argparse.Namespace) -> list[Path]:
    """Writes the samples; returns the files."""
    from PIL import Image

    from common.plots.points import draw_points
    from projects.gan.data import as_bytes
    from projects.gan.pictures import save_grid
    from projects.gan.points import MIXTURES, REACH

    output: Path = options.output
    if sampler.sample_kind == "points":
        table = output.with_suffix(".csv")
        table.write_text("x,y\n" + "".join(f"{x:.6g},{y:.6g}\n" for x, y in samples.tolist()))
        mixture = MIXTURES[sampler.data_source]()
        title = f"{len(samples)} points of a generator of {sampler.data_source}"
        return [table, draw_points(samples, mixture.modes, REACH * mixture.sigma, title, output)]
    images = as_bytes(samples)
    if not options.each:
        return [save_grid(images, output, options.columns)]
    paths = [output.with_name(f"{output.stem}-{i:04d}{output.suffix}") for i in range(len(images))]
    for image, path in zip(images, paths, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return paths


if __name__ == "__main__":
    sys.exit(main())
