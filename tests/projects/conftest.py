"""Shared by the tests of all capstones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from common.data.synthetic_images import CLASS_NAMES, render_images


@pytest.fixture(scope="session", autouse=True)
def cache_apart(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAPSTONES_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory) -> Path:
    """260 training and 61 test images as `split/<class name>/<number>.png`."""
    root = tmp_path_factory.mktemp("images")
    for seed, (split, count) in enumerate({"train": 260, "test": 61}.items()):
        images, labels = render_images(count, seed)
        for i, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            path = root / split / CLASS_NAMES[label] / f"{i:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return root
