"""Page of a classifier: classes, what test-time augmentation changes, and the first layer's feature maps."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from common.data.image_decoding import describe_conversions, read_image
from common.data.synthetic_images import render_images
from common.demo.html import probability_table
from common.demo.page import Page, connect, drawn, files_folder, plot_component
from common.errors import UserError
from common.plots.images import draw_image_rows, draw_images
from projects.cifar10.config import IMAGE_SIZE
from projects.cifar10.inference import ImageClassificationPipeline, load
from projects.cifar10.tta import tta_views

if TYPE_CHECKING:
    import gradio as gr

LEVELS = {"no TTA": 0, "TTA: flip": 1, "TTA: six views": 2}  # name -> `tta`
VIEWS = ["image", "shifted ↘", "shifted ↖"]  # of `tta_views`, and with flips
VIEWS_WITH_FLIPS = ["image", "flipped", "shifted ↘", "shifted ↖", "flipped ↙", "flipped ↗"]
TOP = 5  # classes in the table
MAX_FILTERS, COLUMNS = 24, 12
NUM_EXAMPLES, EXAMPLE_SEED = 8, 7  # images that no split of the sample has
FIRST_EXAMPLE = 5  # one that the views of an image disagree about
BLUE, ORANGE = torch.tensor([0, 114, 178]), torch.tensor([213, 94, 0])  # those of the plots
Answer = tuple[str, Image.Image, Image.Image]


def classify(pipeline: ImageClassificationPipeline, path: str | None) -> Answer | tuple[None, None, None]:
    """Table of classes by level of test-time augmentation, plots of views and feature maps; None without a file."""
    if path is None:
        return None, None, None
    conversions = Counter[str]()
    try:
        image = read_image(Path(path), IMAGE_SIZE, conversions)
    except UserError as error:
        raise UserError(str(error).replace(f"{Path(path).parent}/", "")) from error  # the folder is the server's
    notes = "".join(f"<p>{line}</p>" for line in describe_conversions(conversions))
    table = probability_table(pipeline.class_names, probabilities(pipeline, image), TOP)
    return notes + table, draw_views(pipeline, image), draw_feature_maps(pipeline, image)


def probabilities(pipeline: ImageClassificationPipeline, image: Tensor) -> dict[str, list[float]]:
    """Class probabilities of an image (3, height, width) uint8, at each level of test-time augmentation."""
    return {name: pipeline(image[None], level)[0].tolist() for name, level in LEVELS.items()}


def draw_views(pipeline: ImageClassificationPipeline, image: Tensor) -> Image.Image:
    """The views of an image, each with the class that it alone has."""
    views = torch.cat([view for _, view in tta_views(image[None], 2, pipeline.flips[0])])  # (views, 3, height, width)
    best, labels = pipeline(views, tta=0).max(1)
    names = VIEWS_WITH_FLIPS if len(views) == len(VIEWS_WITH_FLIPS) else VIEWS
    titles = [
        f"{name}\n{pipeline.class_names[label]} {100 * p:.0f} %"
        for name, label, p in zip(names, labels.tolist(), best.tolist(), strict=True)
    ]
    return drawn(lambda plot: draw_images(views, titles, plot, len(views), "What each view alone would be"))


def draw_feature_maps(pipeline: ImageClassificationPipeline, image: Tensor) -> Image.Image:
    """Filters of the first convolution, and below each its feature map of an image."""
    weight, maps = first_feature_maps(cast(nn.Module, pipeline.nets[0]), image.to(pipeline.device))
    weight, maps = weight[:MAX_FILTERS], maps[:MAX_FILTERS]
    filters = 127.5 + 127.5 * weight / weight.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-8)
    tiles = F.interpolate(filters, maps.shape[1:]).round().to(torch.uint8)  # (filters, 3, height, width)
    pairs = zip(tiles.split(COLUMNS), signed_colors(maps).split(COLUMNS), strict=True)
    rows = torch.cat([torch.cat([pad_row(filters), pad_row(answers)]) for filters, answers in pairs])
    labels = ["filters", "feature maps"] * (len(rows) // (2 * COLUMNS))
    title = "First convolution: blue where a filter's output is positive, orange where it is negative"
    return drawn(lambda plot: draw_image_rows(rows, plot, COLUMNS, title, labels))


@torch.no_grad()
def first_feature_maps(net: nn.Module, image: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (filters, 3, k, k) of the first convolution, and its output (filters, height, width) for an image."""
    conv = next(module for module in net.modules() if isinstance(module, nn.Conv2d) and module.in_channels == 3)
    outputs: list[Tensor] = []
    handle = conv.register_forward_hook(lambda module, args, output: outputs.append(output[0]))
    try:
        net(image[None])
    finally:
        handle.remove()
    return conv.weight.float().cpu(), outputs[0].float().cpu()


def signed_colors(maps: Tensor) -> Tensor:
    """Maps (n, height, width) as colors (n, 3, height, width) uint8, from white at 0 to blue and orange at the largest."""
    strength = (maps / maps.abs().amax((1, 2), keepdim=True).clamp(min=1e-8))[:, None]
    full = torch.where(strength > 0, BLUE.view(3, 1, 1), ORANGE.view(3, 1, 1))
    return (255 + strength.abs() * (full - 255)).round().to(torch.uint8)


def pad_row(tiles: Tensor) -> Tensor:
    """`COLUMNS` tiles: white ones behind those that there are."""
    return torch.cat([tiles, tiles.new_full((COLUMNS - len(tiles), *tiles.shape[1:]), 255)])


def example_files(folder: Path) -> list[str]:
    """Files in `folder` of new images of the embedded sample."""
    images, _ = render_images(NUM_EXAMPLES, EXAMPLE_SEED)
    paths = [folder / f"{number}.png" for number in range(NUM_EXAMPLES)]
    for image, path in zip(images, paths, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return [str(path) for path in paths]


def layout(pipeline: ImageClassificationPipeline, page: gr.Blocks) -> None:
    """Components: an image on the left, the answers on the right."""
    import gradio as gr

    examples = example_files(files_folder())
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            image: Any = gr.Image(
                examples[FIRST_EXAMPLE],
                type="filepath",
                image_mode=None,
                sources=["upload", "clipboard"],
                label="image",
                height=280,
                buttons=[],
                elem_classes="input-image",
            )
            gr.Examples([[path] for path in examples], image, label="images of the embedded sample")
        with gr.Column(scale=2, min_width=320):
            classes = gr.HTML(elem_classes="answer")
            views = plot_component()
            maps = plot_component()
    image.preprocess = keep_path  # Gradio's own reader stops at files that ours can explain
    connect([image.change, page.load], partial(classify, pipeline), image, [classes, views, maps])


def keep_path(payload: object) -> str | None:
    """Path of an uploaded file, which is read as `predict` reads it; None if there is none."""
    return getattr(payload, "path", None)


PAGE = Page(
    "Image classification (cifar10)",
    "Drop an image and compare the columns: where the views disagree, test-time augmentation changes the answer.",
    load,
    layout,
)
