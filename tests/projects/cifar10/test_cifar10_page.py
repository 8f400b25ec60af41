"""Page of a classifier: its table has the probabilities of `predict`, its feature maps are the first convolution's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from common.data.image_decoding import read_image
from common.errors import UserError
from projects.cifar10.config import SpeedNetConfig
from projects.cifar10.inference import ImageClassificationPipeline
from projects.cifar10.module import CIFAR10Module
from projects.cifar10.page import (
    BLUE,
    ORANGE,
    classify,
    example_files,
    first_feature_maps,
    keep_path,
    probabilities,
    signed_colors,
)

NAMES = [f"class {i}" for i in range(10)]


@pytest.fixture(scope="module")
def module() -> CIFAR10Module:
    torch.manual_seed(0)
    module = CIFAR10Module(speednet=SpeedNetConfig((8, 8, 8), (2, 2, 2)))
    with torch.no_grad():
        module.net.head.weight.mul_(30)  # an untrained network would say next to nothing
    return module.eval()


@pytest.fixture
def pipeline(module) -> ImageClassificationPipeline:
    return ImageClassificationPipeline([module.net], NAMES)


@pytest.fixture
def photo(tmp_path):
    """Image of another size than the network's, with transparency."""
    pixels = torch.randint(0, 256, (50, 70, 4), dtype=torch.uint8)
    Image.fromarray(pixels.numpy(), "RGBA").save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_the_columns_are_the_levels_of_test_time_augmentation(module, pipeline, photo):
    image = read_image(photo, 32)
    found = probabilities(pipeline, image)
    with torch.no_grad():
        logits = module(torch.stack([image, image.flip(2)]))
    torch.testing.assert_close(torch.tensor(found["no TTA"]), logits[0].softmax(0))
    torch.testing.assert_close(torch.tensor(found["TTA: flip"]), logits.mean(0).softmax(0))
    torch.testing.assert_close(torch.tensor(found["TTA: six views"]), pipeline(image[None], 2)[0])


def test_the_page_shows_what_predict_would_print(pipeline, photo, figures):
    table, views, maps = classify(pipeline, str(photo))
    expected = probabilities(pipeline, read_image(photo, 32))
    best = max(range(10), key=lambda i: expected["TTA: six views"][i])
    cells = "".join(f"{100 * column[best]:.1f}&nbsp;%" + "|" for column in expected.values())
    shown = table[table.index('class="chosen"') :].split("</tr>")[0]
    assert NAMES[best] in shown and [part.split("</span>")[1] for part in shown.split("</td>")[1:4]] == cells.split("|")[:3]
    assert "images with transparency, laid on white: 1" in table and min(*views.size, *maps.size) > 100
    titles = [axes.get_title() for axes in figures[0].axes]
    assert [title.splitlines()[0] for title in titles] == [
        "image", "flipped", "shifted ↘", "shifted ↖", "flipped ↙", "flipped ↗",
    ]  # fmt: skip
    label = max(range(10), key=lambda i: expected["no TTA"][i])
    assert titles[0].splitlines()[1] == f"{NAMES[label]} {100 * expected['no TTA'][label]:.0f} %"


def test_the_names_of_the_views_say_how_they_are_shifted(pipeline, figures):
    image = torch.full((3, 32, 32), 255, dtype=torch.uint8)
    image[:, 10, 5] = 0  # left of the middle, so that a flip shows
    from projects.cifar10.page import draw_views

    draw_views(pipeline, image)
    places = {}
    for axes in figures[0].axes:
        row, column = (axes.images[0].get_array()[..., 0] == 0).nonzero()
        places[axes.get_title().splitlines()[0]] = (int(row[0]), int(column[0]))
    flipped = 31 - 5
    assert places == {
        "image": (10, 5),
        "flipped": (10, flipped),
        "shifted ↘": (11, 6),
        "shifted ↖": (9, 4),
        "flipped ↙": (11, flipped - 1),
        "flipped ↗": (9, flipped + 1),
    }


def test_digits_have_no_flipped_views(module, photo, figures):
    classify(ImageClassificationPipeline([module.net], NAMES, [False]), str(photo))
    assert [axes.get_title().splitlines()[0] for axes in figures[0].axes if axes.get_title()] == [
        "image", "shifted ↘", "shifted ↖",
    ]  # fmt: skip


@pytest.mark.parametrize("network", ["speednet", "other"])
def test_the_feature_maps_are_those_of_the_first_convolution(module, network):
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    if network == "speednet":
        net, conv = module.net, module.net.whiten
        inputs = module.net.normalize(image[None])
    else:
        conv = nn.Conv2d(3, 5, 3, padding=1)
        net, inputs = nn.Sequential(nn.LazyBatchNorm2d(), conv, nn.ReLU()).eval(), image[None].float()
        net(inputs)
        image = image.float()
        inputs = net[0](inputs)
    weight, maps = first_feature_maps(net, image)
    torch.testing.assert_close(maps, F.conv2d(inputs, conv.weight, conv.bias, padding=conv.padding)[0].detach())
    assert torch.equal(weight, conv.weight.detach()) and not conv._forward_hooks


def test_maps_are_white_at_zero_and_have_their_color_at_the_largest_value():
    colors = signed_colors(torch.tensor([[[0.0, 2.0], [-2.0, 1.0]]]))[0]
    assert colors[:, 0, 0].tolist() == [255, 255, 255]
    assert torch.equal(colors[:, 0, 1].long(), BLUE) and torch.equal(colors[:, 1, 0].long(), ORANGE)
    assert colors[:, 1, 1].tolist() == pytest.approx(((255 + BLUE) / 2).tolist(), abs=1)


def test_bad_files_are_named_without_the_servers_folder(pipeline, tmp_path):
    (tmp_path / "notes.png").write_text("no image")
    with pytest.raises(UserError, match=r"^notes\.png: not an image that can be read"):
        classify(pipeline, str(tmp_path / "notes.png"))
    assert classify(pipeline, None) == (None, None, None)


def test_examples_are_images_that_the_page_takes(pipeline, tmp_path):
    paths = example_files(tmp_path)
    assert len({Path(path).read_bytes() for path in paths}) == 8 and read_image(tmp_path / "0.png", 32).shape == (3, 32, 32)


def test_the_layout_has_an_image_that_is_read_as_it_is(pipeline, tmp_path, monkeypatch):
    gr = pytest.importorskip("gradio")
    from common.demo.server import FILES_VARIABLE
    from projects.cifar10.page import layout

    monkeypatch.setenv(FILES_VARIABLE, str(tmp_path))
    with gr.Blocks(analytics_enabled=False) as page:
        layout(pipeline, page)
    image = next(block for block in page.blocks.values() if isinstance(block, gr.Image) and block.interactive is None)
    (tmp_path / "notes.png").write_text("no image")
    data = gr.FileData(path=str(tmp_path / "notes.png"))
    assert image.preprocess(data) == data.path and keep_path(None) is None
