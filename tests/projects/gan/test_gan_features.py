"""Features are found by name, and every way to ask for what is not there ends in one line."""

from __future__ import annotations

import pytest
import torch
import torchmetrics.image.fid
from torch import Tensor, nn

from common.errors import UserError
from projects.gan import features
from projects.gan.features import load_features

HERE = __name__


class Returns(nn.Module):
    """A module that makes of images what `function` does."""

    def __init__(self, function) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images)


def colors(path: str) -> nn.Module:
    return Returns(lambda images: images.float().mean((2, 3)))


def no_num_features(path: str) -> nn.Module:
    return Returns(lambda images: images.float().mean((1, 2, 3)))


def maps(path: str) -> nn.Module:
    return Returns(lambda images: images.float())


def one_row(path: str) -> nn.Module:
    return Returns(lambda images: images.float().mean((0, 2, 3))[None])


def a_tuple(path: str) -> nn.Module:
    return Returns(lambda images: (images.float().mean((2, 3)),))


def wants_floats(path: str) -> nn.Module:
    return nn.Conv2d(3, 4, 3)


def not_finite(path: str) -> nn.Module:
    return Returns(lambda images: images.float().mean((2, 3)) / 0)


def no_module(path: str):
    return lambda images: images.float().mean((2, 3))


def line_of(name: str, checkpoint: str | None = None) -> str:
    with pytest.raises(UserError) as error:
        load_features(name, checkpoint)
    line = str(error.value)
    assert line.startswith("--model.features") and name in line and "\n" not in line
    return line


def test_pixels_are_pooled_by_hand():
    loaded = load_features("pixels", None)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    got = loaded.net(images)
    assert (loaded.name, loaded.num_features, got.shape) == ("pixels at 8 x 8", 192, (2, 192))
    for image, row in zip(images.double(), got, strict=True):
        expected = [
            image[c, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].sum().item() / 16 / 255
            for c in range(3)
            for y in range(8)
            for x in range(8)
        ]
        torch.testing.assert_close(row, torch.tensor(expected))


def test_a_function_s_module_is_frozen_and_named_after_its_checkpoint():
    loaded = load_features(f"{HERE}:colors", "a.ckpt")
    assert (loaded.name, loaded.num_features) == (f"{HERE}:colors(a.ckpt)", 3)
    assert not loaded.net.training and not any(p.requires_grad for p in loaded.net.parameters())


@pytest.mark.parametrize("name", ["vgg", "", ":f", "no_such_module:f", "projects.gan.features:no_such_function", "json"])
def test_unknown_features_are_refused_with_the_known_ones(name):
    assert "use pixels, inception, or PACKAGE.MODULE:FUNCTION" in line_of(name, "a.ckpt")


def test_a_relative_name_is_unknown_too():
    assert "use pixels, inception, or PACKAGE.MODULE:FUNCTION" in line_of(".module:f", "a.ckpt")


def test_a_function_needs_a_checkpoint():
    assert "add --model.features_checkpoint FILE" in line_of(f"{HERE}:colors")


@pytest.mark.parametrize(
    "function",
    ["no_num_features", "a_tuple", "wants_floats", "maps", "one_row", "no_module", "not_finite"],
)
def test_what_is_not_batch_and_width_is_refused(function):
    assert "no features (batch, num_features) of images" in line_of(f"{HERE}:{function}", "a.ckpt")


# Inception


@pytest.fixture
def nothing_downloaded(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(features, "reachable", lambda url: False)
    return tmp_path


def inception_that(monkeypatch, function) -> None:
    monkeypatch.setattr(torchmetrics.image.fid, "NoTrainInceptionV3", function)


def missing_package(*args, **options):
    raise ModuleNotFoundError("NoTrainInceptionV3 module requires that `Torch-fidelity` is installed.")


def test_inception_without_a_network_or_weights_says_so(monkeypatch, nothing_downloaded):
    inception_that(monkeypatch, missing_package)
    line = line_of("inception")
    assert "cannot be downloaded" in line and "--model.features_checkpoint" in line


def test_inception_without_its_package_says_how_to_install_it(monkeypatch, nothing_downloaded):
    inception_that(monkeypatch, missing_package)
    assert "pip install" in line_of("inception", "weights.pth")
    (nothing_downloaded / "checkpoints").mkdir()
    (nothing_downloaded / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth").touch()
    assert "pip install" in line_of("inception"), "weights that are there need no network"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(None, id="missing"),
        pytest.param(b"", id="empty"),
        pytest.param(b"no weights at all", id="text"),
    ],
)
def test_inception_s_weights_that_cannot_be_read_are_reported(monkeypatch, nothing_downloaded, content):
    path = nothing_downloaded / "weights.pth"
    if content is not None:
        path.write_bytes(content)
    # what torch-fidelity does first
    inception_that(monkeypatch, lambda name, outputs, weights, antialias: torch.load(weights))
    assert "weights that cannot be read" in line_of("inception", str(path))


def test_inception_is_asked_for_in_the_form_of_published_figures(monkeypatch, nothing_downloaded):
    asked = {}

    def stub(name: str, outputs: list[str], weights: str, antialias: bool) -> nn.Module:
        asked.update(name=name, outputs=outputs, weights=weights, antialias=antialias)
        return Returns(lambda images: torch.zeros(len(images), 2048))

    inception_that(monkeypatch, stub)
    loaded = load_features("inception", "w.pth")
    assert asked == {"name": "inception-v3-compat", "outputs": ["2048"], "weights": "w.pth", "antialias": False}
    assert (loaded.name, loaded.num_features) == ("Inception (FID)", 2048)


def test_pixels_have_no_weights():
    assert "pixels have no weights" in line_of("pixels", "a.ckpt")
