"""Page of a generator: its ends are the samples of the two seeds, and the way between them is the great circle."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.errors import UserError
from projects.gan.config import ResNetConfig
from projects.gan.data import as_uint8
from projects.gan.inference import GeneratorPipeline, sample_latents
from projects.gan.module import GANModule
from projects.gan.page import ALL_CLASSES, NO_TRUNCATION, NUM_IMAGES, NUM_POINTS, latents_between, walk


@pytest.fixture
def images() -> GeneratorPipeline:
    options = {"r1_weight": 0.0, "r2_weight": 0.0, "resnet": ResNetConfig(channels=4)}
    module = GANModule("images", 2, 1.0, "resnet", latent_dim=6, conditional=True, **options)
    with torch.no_grad():
        for parameter in module.parameters():  # else the classes would be alike
            parameter.add_(0.3 * torch.randn_like(parameter))
    return GeneratorPipeline(module, ["disc", "ring"], "sample")


@pytest.fixture
def points() -> GeneratorPipeline:
    return GeneratorPipeline(GANModule("points", 1, 1.0, latent_dim=4), ["point"], "ring8", [])


def test_the_ends_are_the_samples_of_the_seeds():
    for position, seed in ((0.0, 3), (1.0, 5)):
        z = latents_between(10, 8, (3, 5), position, NO_TRUNCATION)
        torch.testing.assert_close(z, sample_latents(10, 8, seed))
        assert latents_between(10, 8, (3, 5), position, 0.5).abs().max() <= 0.5 + 1e-5


@pytest.mark.parametrize("position", [0.25, 0.5, 0.87])
def test_the_way_is_the_great_circle(position):
    start, end = sample_latents(10, 8, 3), sample_latents(10, 8, 5)
    angle = torch.nn.functional.cosine_similarity(start, end).acos()[:, None]
    expected = (((1 - position) * angle).sin() * start + (position * angle).sin() * end) / angle.sin()
    torch.testing.assert_close(latents_between(10, 8, (3, 5), position, NO_TRUNCATION), expected, atol=1e-4, rtol=1e-4)


def test_images_are_those_of_the_generator(images, figures):
    plot = walk(images, 3, 5, 1.0, NO_TRUNCATION, "ring")
    expected = as_uint8(images(NUM_IMAGES, "ring", seed=5))
    shown = np.asarray(figures[0].axes[0].images[0].get_array())
    assert (shown[1:33, 1:33] == expected[0].permute(1, 2, 0).numpy()).all(), "the first one, in its frame"
    assert (shown[-33:-1, -33:-1] == expected[-1].permute(1, 2, 0).numpy()).all()
    assert "100 % of the way from seed 3 to seed 5" in figures[0].get_suptitle() and min(plot.size) > 100
    walk(images, 3, 5, 1.0, NO_TRUNCATION, ALL_CLASSES)
    in_turn = as_uint8(images(NUM_IMAGES, seed=5))[0].permute(1, 2, 0).numpy()
    assert (np.asarray(figures[1].axes[0].images[0].get_array())[1:33, 1:33] == in_turn).all()


def test_points_are_those_of_the_generator(points, figures):
    walk(points, 3, 5, 0.0, 0.5)
    expected = points(NUM_POINTS, seed=3, truncation=0.5)
    shown = np.concatenate([np.asarray(part.get_offsets()) for part in figures[0].axes[0].collections])
    assert len(shown) == NUM_POINTS
    np.testing.assert_allclose(np.sort(shown, 0), np.sort(expected.numpy(), 0), atol=1e-4)


@pytest.mark.parametrize("seeds", [(-1, 0), (0, 2**32), (0.5, 0), (0, None)])
def test_what_is_no_seed_is_named(points, seeds):
    with pytest.raises(UserError, match=r"^a seed is a whole number from 0 to 4294967295$"):
        walk(points, *seeds, 0.0, 1.0)


@pytest.mark.parametrize("kind, dropdowns", [("images", 1), ("points", 0)])
def test_only_a_conditional_generator_has_classes_to_choose(kind, dropdowns, request):
    gr = pytest.importorskip("gradio")
    from projects.gan.page import layout

    with gr.Blocks(analytics_enabled=False) as page:
        layout(request.getfixturevalue(kind), page)
    assert sum(isinstance(block, gr.Dropdown) for block in page.blocks.values()) == dropdowns
    assert {fn.trigger_mode for fn in page.fns.values()} == {"always_last"}, "the last position of a slider is figures"
