"""Plots of generated samples: the same latent vectors after every validation, and the training as an animation."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from common.io.loggers import log_plot
from common.plots.captions import run_caption
from common.plots.figures import BLUE, GRAY, ORANGE, TITLE_SIZE, new_figure, report_plot_errors, save_figure
from common.plots.images import draw_image_rows
from common.plots.video import write_gif
from projects.gan.data import as_uint8
from projects.gan.features import FEATURE_BATCH_SIZE
from projects.gan.inference import GeneratorPipeline, interpolate, sample_latents
from projects.gan.metrics import HIGH_QUALITY_STDS, mode_coverage, nearest_neighbors
from projects.gan.module import GANModule
from projects.gan.synthetic import GaussianMixture

NUM_IMAGES = 64  # in a grid
NUM_POINTS = 2500
PIXEL_SCALE = 2  # each pixel to so many, on each side
MAX_FRAMES = 60
ANIMATION_SECONDS = 8.0
LATENT_SEED = 0
TRUNCATIONS = (0.25, 0.5, 1.0, 2.0)  # standard deviations


class SamplePlots(Callback):
    """Plots of samples: after every validation `samples.png` and a frame of `training.gif`; after the training that file.

    After a test of images also `interpolation.png`, `truncation.png` and `nearest_neighbors.png`.

    Args:
        folder: Folder of the plots; frames are in `frames` below it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @report_plot_errors("samples.png")
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        pipeline, mixture = make_pipeline(trainer, pl_module), data.mixture
        frame = self.folder / "frames" / f"{trainer.global_step:08d}.png"
        caption = run_caption(self.folder, data, "the same latent vectors at every validation")
        step = f"step {trainer.global_step:,}"
        if mixture is None:
            in_turn = ", classes in turn" if len(pipeline.classes) > 1 else ""
            images = as_uint8(fixed_samples(pipeline, NUM_IMAGES))
            draw_image_rows(images, frame, 8, f"Generated images, {step}{in_turn}", caption=caption)
        else:
            points = fixed_samples(pipeline, NUM_POINTS)
            coverage = mode_coverage(points, mixture)
            quality = f"{coverage['modes']:.0f} modes, {100 * coverage['high_quality']:.0f} % high quality"
            plot_points(points, mixture, f"{step}: {quality}", frame, caption)
        shutil.copy(frame, self.folder / "samples.png")
        log_plot(trainer, "samples", self.folder / "samples.png")

    @report_plot_errors("training.gif")
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes the animation of all frames, those from before a resume included."""
        frames = sorted((self.folder / "frames").glob("*.png"))
        if trainer.is_global_zero and len(frames) > 1:
            save_animation(frames, self.folder / "training.gif")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Plots that show whether a generator of images has memorized its training data."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not trainer.is_global_zero or data.mixture is not None:
            return
        pipeline = make_pipeline(trainer, pl_module)
        classes = list(pipeline.classes) or [""]
        for name, make_images, columns, title, labels in [
            (
                "interpolation",
                lambda: interpolation_images(pipeline),
                10,
                "From one latent vector to another, within a class",
                [classes[row % len(classes)] for row in range(6)],
            ),
            (
                "truncation",
                lambda: truncation_images(pipeline),
                10,
                "Truncation of the latent vectors: from typical to varied images",
                [f"|z| up to {limit:g}" for limit in TRUNCATIONS],
            ),
            (
                "nearest_neighbors",
                lambda: nearest_neighbor_images(pipeline, data.load()["train"].images),
                12,
                "Generated images, and the most similar images of the training split",
                ["generated", "training"],
            ),
        ]:
            path, caption = self.folder / f"{name}.png", run_caption(self.folder, data, "after training")
            with report_plot_errors(path.name):
                log_plot(trainer, name, draw_image_rows(make_images(), path, columns, title, labels, caption))


def make_pipeline(trainer: Trainer, module: LightningModule) -> GeneratorPipeline:
    """Pipeline of the module in training; its EMA generator has had its batch-norm statistics since the evaluation began."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    return GeneratorPipeline(cast(GANModule, module), data.class_names, data.source_label, data.trained_labels)


def fixed_samples(pipeline: GeneratorPipeline, count: int, truncation: float | None = None) -> Tensor:
    """Samples of latent vectors that are the same in every run, classes in turn."""
    return pipeline.generate(sample_latents(count, pipeline.latent_dim, LATENT_SEED, truncation))


def interpolation_images(pipeline: GeneratorPipeline, rows: int = 6, columns: int = 10) -> Tensor:
    """Interpolations within a class, one a row; a generator that has memorized images would jump."""
    z = interpolate(rows, columns, pipeline.latent_dim, LATENT_SEED)
    return as_uint8(pipeline.generate(z, pipeline.labels(None, rows).repeat_interleave(columns)))


def truncation_images(pipeline: GeneratorPipeline, columns: int = 10) -> Tensor:
    """Rows of samples truncated at 0.25, 0.5, 1 and 2 standard deviations: from the typical to the varied."""
    return as_uint8(torch.cat([fixed_samples(pipeline, columns, truncation) for truncation in TRUNCATIONS]))


def nearest_neighbor_images(pipeline: GeneratorPipeline, real: Tensor, columns: int = 12) -> Tensor:
    """Samples, and below each its nearest neighbor among training images (n, 3, 32, 32) uint8, in the metrics' features."""
    net, device = pipeline.module.features[0].net, pipeline.module.device
    fake = as_uint8(fixed_samples(pipeline, columns))
    with torch.inference_mode():
        features = torch.cat([net(part.to(device)).cpu() for part in real.split(FEATURE_BATCH_SIZE)])
        _, index = nearest_neighbors(net(fake.to(device)).cpu(), features)
    return torch.cat([fake, real.cpu()[index]])


def plot_points(points: Tensor, mixture: GaussianMixture, title: str, path: Path, caption: str = "") -> Path:
    """Scatter plot of points (n, 2) over the mixture's modes; high-quality points are blue dots, others orange crosses."""
    from matplotlib.patches import Circle

    points, modes, radius = points.float().cpu(), mixture.modes, HIGH_QUALITY_STDS * mixture.mode_std
    figure, (axes,) = new_figure(1, 1, 4.4, 4.9)
    axes.set_title(title, fontsize=TITLE_SIZE)
    visible_radius = max(radius, 0.02 * float(modes.abs().max()))
    for x, y in modes.tolist():
        axes.add_patch(Circle((x, y), visible_radius, fill=False, edgecolor=GRAY, linewidth=0.8))
    inside = torch.cdist(points, modes).amin(1) <= radius
    quality = f"within {HIGH_QUALITY_STDS:g} standard deviations of a mode"
    high, low = points[inside], points[~inside]
    axes.scatter(high[:, 0], high[:, 1], s=3, color=BLUE, alpha=0.6, linewidths=0, label=quality)
    axes.scatter(low[:, 0], low[:, 1], s=6, color=ORANGE, alpha=0.6, linewidths=0.6, marker="x", label="farther away")
    limit = 1.3 * float(modes.abs().max())
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    axes.set_xlabel("x; circles: modes of the data", fontsize=8)
    axes.set_ylabel("y", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2, fontsize=7, frameon=False, markerscale=2)
    return save_figure(figure, path, caption)


def save_grid(images: Tensor, path: Path, columns: int) -> Path:
    """Image grid of (count, 3, height, width) uint8 as a PNG, enlarged without smoothing."""
    grid = make_grid(images, columns, padding=1, pad_value=255)
    grid = grid.repeat_interleave(PIXEL_SCALE, 1).repeat_interleave(PIXEL_SCALE, 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grid.permute(1, 2, 0).numpy()).save(path)
    return path


def save_animation(frames: list[Path], path: Path) -> Path:
    """Animation of images of one size, the last one shown longest; at most `MAX_FRAMES` of them, evenly."""
    count = min(len(frames), MAX_FRAMES)
    images = [Image.open(frames[round(i * (len(frames) - 1) / (count - 1))]) for i in range(count)]
    return write_gif(images, path, round(1000 * ANIMATION_SECONDS / count), colors=128)
