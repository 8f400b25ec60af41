"""Page of a generator: a walk through its latent space."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor

from common.demo.page import Page, connect, drawn, plot_component
from common.errors import UserError
from common.plots.images import draw_image_rows
from projects.gan.data import as_uint8
from projects.gan.inference import GeneratorPipeline, load, sample_latents, slerp
from projects.gan.plots import plot_points
from projects.gan.synthetic import MIXTURES

if TYPE_CHECKING:
    import gradio as gr

NUM_IMAGES, COLUMNS, SCALE = 24, 6, 3
NUM_POINTS = 1500
STEPS = 101  # positions between two vectors, both included
NO_TRUNCATION = 3.0  # standard deviations: at the slider's end
ALL_CLASSES = "all in turn"


def latents_between(count: int, latent_dim: int, seeds: tuple[int, int], position: float, truncation: float) -> Tensor:
    """Latent vectors (count, latent_dim) at `position`, 0 to 1, on the way from those of one seed to those of another."""
    limit = truncation if truncation < NO_TRUNCATION else None
    start, end = (sample_latents(count, latent_dim, seed, limit) for seed in seeds)
    return slerp(start, end, STEPS)[:, round(position * (STEPS - 1))]


def walk(
    pipeline: GeneratorPipeline, start: float, end: float, position: float, truncation: float, class_name: str = ALL_CLASSES
) -> Image.Image:
    """Plot of samples, images or points, on the way between two seeds."""
    for seed in (start, end):
        if seed is None or not 0 <= seed < 2**32 or seed != int(seed):
            raise UserError("a seed is a whole number from 0 to 4294967295")
    mixture = MIXTURES.get(pipeline.data_source)
    count = NUM_POINTS if mixture else NUM_IMAGES
    z = latents_between(count, pipeline.latent_dim, (int(start), int(end)), position, truncation)
    samples = pipeline.generate(z, pipeline.labels(None if class_name == ALL_CLASSES else class_name, count))
    where = f"{100 * position:.0f} % of the way from seed {start:.0f} to seed {end:.0f}"
    if mixture:
        return drawn(lambda path: plot_points(samples, mixture(), f"{count:,} points, {where}", path))
    images = as_uint8(samples)
    return drawn(lambda path: draw_image_rows(images, path, COLUMNS, f"Generated images, {where}", scale=SCALE))


def layout(pipeline: GeneratorPipeline, page: gr.Blocks) -> None:
    """Components: sliders on the left, samples on the right."""
    import gradio as gr

    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            position = gr.Slider(0, 1, 0, step=0.01, label="position between the two seeds (slerp)")
            truncation = gr.Slider(
                0.1, NO_TRUNCATION, NO_TRUNCATION, step=0.1, label=f"truncation of |z|; {NO_TRUNCATION:g} is none"
            )
            with gr.Row():
                start = gr.Number(0, label="first seed", precision=0, min_width=100)
                end = gr.Number(1, label="second seed", precision=0, min_width=100)
            inputs: list[Any] = [start, end, position, truncation]
            if len(pipeline.classes) > 1:
                inputs.append(gr.Dropdown([ALL_CLASSES, *pipeline.classes], value=ALL_CLASSES, label="class"))
        with gr.Column(scale=3, min_width=320):
            samples = plot_component()
    triggers = [page.load, position.input, truncation.input, *(each.change for each in (start, end, *inputs[4:]))]
    connect(triggers, partial(walk, pipeline), inputs, samples)


PAGE = Page(
    "Generation (gan)",
    "Move the position slowly: each sample changes on its own way through latent space. If one jumps, or many look "
    "alike, the generator has memorized or collapsed.",
    load,
    layout,
)
