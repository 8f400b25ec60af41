"""What a generator makes, to look at: samples of the same noise after every validation, and their film."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from common.io.loggers import log_plot
from common.plots.points import draw_points
from common.plots.video import write_gif
from projects.gan.data import as_bytes
from projects.gan.evaluation import nearest
from projects.gan.features import FEATURE_BATCH
from projects.gan.inference import draw_noise, label_cycle, make_samples, paths_between
from projects.gan.module import GANModule
from projects.gan.points import REACH, coverage

PICTURES = 64  # in a grid
SHOWN_POINTS = 2500
ENLARGED = 2  # each pixel to so many, on each side
FILM_FRAMES = 60  # at most
FILM_SECONDS = 8.0
NOISE_SEED = 0


class SamplePictures(Callback):
    """After every validation `samples.png` and a frame of `film.gif`; after the training the film.

    After a test of pictures also `interpolation.png`, `truncation.png` and `neighbours.png`.

    Args:
        folder: where the pictures go; the film's frames to `frames` below it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the samples of noise that is the same in every run."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        module, data = cast(GANModule, pl_module), trainer.datamodule  # type: ignore[attr-defined]
        frame = self.folder / "frames" / f"{trainer.global_step:08d}.png"
        frame.parent.mkdir(parents=True, exist_ok=True)
        if data.mixture is None:
            save_grid(as_bytes(generate(module, PICTURES)), frame, columns=8)
        else:
            points = generate(module, SHOWN_POINTS)
            found = coverage(points, data.mixture)
            title = (
                f"step {trainer.global_step:,}: {found['modes']:.0f} modes, {100 * found['high_quality']:.0f} % high quality"
            )
            draw_points(points, data.mixture.modes, REACH * data.mixture.sigma, title, frame)
        shutil.copy(frame, self.folder / "samples.png")
        log_plot(trainer, "samples", self.folder / "samples.png")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes the film of all frames, those from before a resume included."""
        if trainer.is_global_zero:
            frames = sorted((self.folder / "frames").glob("*.png"))
            if len(frames) > 1:
                join_frames(frames, self.folder / "film.gif")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws what tells a generator that has learned its pictures by heart from one that has learned to draw."""
        module, data = cast(GANModule, pl_module), trainer.datamodule  # type: ignore[attr-defined]
        if not trainer.is_global_zero or data.mixture is not None:
            return
        log_plot(trainer, "interpolation", draw_interpolation(module, self.folder / "interpolation.png"))
        log_plot(trainer, "truncation", draw_truncation(module, self.folder / "truncation.png"))
        log_plot(trainer, "neighbours", draw_neighbours(module, data, self.folder / "neighbours.png"))


def generate(module: GANModule, count: int, truncation: float | None = None) -> Tensor:
    """`count` samples of fixed noise, classes in turn, in evaluation mode; on the CPU."""
    noise = draw_noise(count, module.hparams["noise"], NOISE_SEED, truncation).to(module.device)
    return from_noise(module, noise, label_cycle(count, module.hparams["class_count"], module.device))


def from_noise(module: GANModule, noise: Tensor, labels: Tensor) -> Tensor:
    """What the module's averaged generator makes of noise (count, noise), on the CPU."""
    was_training = module.training
    module.eval()
    dtype = next(module.generator.parameters()).dtype
    samples = make_samples(module, noise.to(dtype), labels).cpu()
    module.train(was_training)
    return samples


def draw_interpolation(module: GANModule, path: Path, rows: int = 6, steps: int = 10) -> Path:
    """Each row leads from one sample to another of the same class; a generator that has learned by heart would jump."""
    ends = draw_noise(2 * rows, module.hparams["noise"], NOISE_SEED).to(module.device)
    noise = paths_between(ends[:rows], ends[rows:], steps).flatten(0, 1)
    labels = label_cycle(rows, module.hparams["class_count"], module.device).repeat_interleave(steps)
    return save_grid(as_bytes(from_noise(module, noise, labels)), path, columns=steps)


def draw_truncation(module: GANModule, path: Path, columns: int = 10) -> Path:
    """Rows of samples whose noise is cut at 0.25, 0.5, 1 and 2 standard deviations: from the typical to the varied."""
    rows = [generate(module, columns, truncation) for truncation in (0.25, 0.5, 1.0, 2.0)]
    return save_grid(as_bytes(torch.cat(rows)), path, columns)


def draw_neighbours(module: GANModule, data: Any, path: Path, columns: int = 12) -> Path:
    """Samples, and below each the training picture that is nearest in the features it is judged by."""
    net = module.features[0].net
    fakes = as_bytes(generate(module, columns))
    images = data.load()["train"].images
    with torch.inference_mode():
        wanted = net(fakes.to(module.device)).cpu()
        found = [nearest(wanted, net(part).cpu()) for part in images.split(FEATURE_BATCH)]  # of each part its best
    part = torch.stack([distance for distance, _ in found]).argmin(0)  # (columns,)
    index = torch.stack([index for _, index in found]).gather(0, part[None])[0] + part * FEATURE_BATCH
    real = images.cpu()[index]
    return save_grid(torch.cat([fakes, real]), path, columns)


def save_grid(images: Tensor, path: Path, columns: int) -> Path:
    """Writes pictures (count, 3, height, width) uint8 side by side, enlarged without smoothing."""
    grid = make_grid(images, columns, padding=1, pad_value=255).repeat_interleave(ENLARGED, 1).repeat_interleave(ENLARGED, 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grid.permute(1, 2, 0).numpy()).save(path)
    return path


def join_frames(frames: list[Path], path: Path) -> Path:
    """Joins pictures of one size to an animation that shows the last one longest; at most `FILM_FRAMES` of them, evenly."""
    count = min(len(frames), FILM_FRAMES)
    chosen = [Image.open(frames[round(i * (len(frames) - 1) / (count - 1))]) for i in range(count)]
    return write_gif(chosen, path, round(1000 * FILM_SECONDS / count), colors=128)
