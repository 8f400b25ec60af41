"""Fixtures of the CIFAR-10 tests: a small folder of images, and runs of the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from commands import CPU, Command, commands
from common.data.synthetic_images import CLASS_NAMES

# learning rates at which a network this small learns
TINY = ["--model.speednet.block_channels", "[8, 8, 8]", "--model.head_lr", "1.0", "--model.bias_lr", "0.05"]

# SGD: Muon's bfloat16 turns the last bit of a gradient into the third digit of a step, and no two sums agree to the last
# bit. float64: else rounding would now and then choose another of two pixels as a pool's maximum
REFERENCE = ["--max_epochs", "3", "--data.val_size", "61", "--trainer.log_every_n_steps", "1", "--precision", "64-true"]
REFERENCE += ["--model.optimizer", "sgd", "--model.lr", "0.03", "--model.lookahead", "true"]


def write_image(path: Path, image: torch.Tensor) -> Path:
    """Writes `image` (3, height, width) uint8 to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return path


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory) -> Path:
    """260 training and 61 test images, noise that is brighter from class to class, as `split/<class name>/<number>.png`."""
    root = tmp_path_factory.mktemp("images")
    for seed, (split, count) in enumerate({"train": 260, "test": 61}.items()):
        rng = torch.Generator().manual_seed(seed)
        for i in range(count):
            image = torch.randint(0, 100, (3, 32, 32), generator=rng) + 15 * (i % 10)
            write_image(root / split / CLASS_NAMES[i % 10] / f"{i:03d}.png", image.to(torch.uint8))
    return root


@pytest.fixture(scope="session")
def command(tmp_path_factory) -> Iterator[Callable[..., Command]]:
    """Starts `command(module, *flags)` of this project."""
    with commands(tmp_path_factory.mktemp("commands"), "cifar10", [*TINY, *CPU]) as start:
        yield start


@pytest.fixture(scope="session")
def reference_flags(image_folder) -> list[str]:
    """Flags of `reference_run` but for its name and batch size: all techniques are on."""
    return ["--data.source", str(image_folder), *REFERENCE]


@pytest.fixture(scope="session")
def reference_run(command, reference_flags) -> Command:
    """A finished run of one process, named `one`: three epochs of three steps with 40 images each."""
    run = command("train", "--name", "one", *reference_flags, "--data.batch_size", "40")
    run.wait()
    return run
