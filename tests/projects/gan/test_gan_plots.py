"""Plots show the points and the images that they were called with."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from PIL import Image, ImageSequence

from common.plots.figures import BLUE, ORANGE
from projects.gan import plots
from projects.gan.inference import sample_latents, slerp
from projects.gan.synthetic import ring8


def test_points_are_at_their_coordinates_and_in_the_color_of_their_quality(tmp_path, drawn):
    mixture = ring8()
    good, bad = mixture.modes[:3] + 0.01, torch.tensor([[0.5, -0.25], [0.0, 0.1]])
    plots.plot_points(torch.cat([bad, good]), mixture, "step 7", tmp_path / "x.png")
    (axes,) = drawn[0].axes
    assert axes.get_title() == "step 7"
    shown = {to_hex(part.get_facecolor()[0]): np.asarray(part.get_offsets()) for part in axes.collections}
    np.testing.assert_allclose(shown[BLUE], good, rtol=1e-6)
    np.testing.assert_allclose(shown[ORANGE], bad, rtol=1e-6)
    np.testing.assert_allclose([circle.center for circle in axes.patches], mixture.modes, rtol=1e-6)
    assert axes.get_xlim() == axes.get_ylim() == pytest.approx((-1.3, 1.3))


def test_a_grid_has_its_images_row_by_row(tmp_path):
    images = torch.randint(0, 256, (6, 3, 4, 4), dtype=torch.uint8)
    grid = np.asarray(Image.open(plots.save_grid(images, tmp_path / "x.png", columns=3)))
    assert grid.shape == (2 * 11, 2 * 16, 3)  # a pixel between the images, each pixel doubled
    for i, image in enumerate(images):
        top, left = 2 * (1 + 5 * (i // 3)), 2 * (1 + 5 * (i % 3))
        np.testing.assert_array_equal(grid[top : top + 8 : 2, left : left + 8 : 2], image.permute(1, 2, 0))


def test_an_animation_has_its_frames_in_order(tmp_path):
    frames = []
    for value in (0, 120, 240):
        frames.append(tmp_path / f"{value}.png")
        Image.new("RGB", (8, 8), (value, 0, 0)).save(frames[-1])
    with Image.open(plots.save_animation(frames, tmp_path / "x.gif")) as animation:
        reds = [frame.convert("RGB").getpixel((4, 4))[0] for frame in ImageSequence.Iterator(animation)]
    assert reds == pytest.approx([0, 120, 240], abs=8)


class Painter:
    """Generator whose image has the first two latent dimensions and the label as its colors."""

    latent_dim, class_names = 2, ["a", "b", "c"]

    def generate(self, z, labels=None):
        labels = torch.arange(len(z)) % 3 if labels is None else labels
        colors = torch.cat([z.tanh(), labels[:, None] / 3], 1)
        return colors[:, :, None, None].expand(-1, 3, 32, 32)

    def labels(self, class_name, count):
        return torch.arange(count) % 3


def test_each_row_interpolates_within_a_class():
    images = plots.interpolation_images(Painter(), rows=4, columns=5).view(4, 5, 3, 32, 32)
    z = sample_latents(8, 2, plots.LATENT_SEED)
    expected = plots.as_uint8(
        Painter().generate(slerp(z[:4], z[4:], 5).flatten(0, 1), torch.arange(4).repeat_interleave(5) % 3)
    )
    assert torch.equal(images.flatten(0, 1), expected)


def test_rows_are_truncated_less_and_less():
    spread = (
        (plots.truncation_images(Painter(), columns=40).view(4, 40, 3, -1)[:, :, :2].float() - 127.5).abs().amax((1, 2, 3))
    )
    limits = 127.5 * torch.tensor([0.25, 0.5, 1.0, 2.0]).tanh()
    assert (spread <= limits + 0.51).all() and (spread.diff() > 0).all()


def test_below_each_sample_is_its_nearest_training_image():
    painter = Painter()
    painter.module = SimpleNamespace(features=[SimpleNamespace(net=lambda x: x.float().mean((2, 3)))], device="cpu")
    real = torch.randint(0, 256, (50, 3, 1, 1), dtype=torch.uint8).expand(-1, -1, 32, 32)
    fake, neighbors = plots.nearest_neighbor_images(painter, real, columns=6).chunk(2)
    assert torch.equal(fake, plots.as_uint8(plots.fixed_samples(painter, 6)))
    for image, neighbor in zip(fake, neighbors, strict=True):
        distances = (real[:, :, 0, 0].float() - image[:, 0, 0].float()).norm(dim=1)
        assert torch.equal(neighbor, real[distances.argmin()])
