"""What the GAN tests share: runs of the command line, of a small game in the plane."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from commands import CPU, Command, commands

SMALL = ["--model.width", "16", "--model.noise", "4", "--trainer.log_every_n_steps", "1"]
# all penalties at once, more steps of the discriminator than of the generator, and two rounds in a step
GAME = ["--data.source", "ring8", "--max_epochs", "2", "--data.epoch_steps", "12", "--data.eval_samples", "101"]
GAME += ["--model.d_steps", "2", "--model.r1", "0.1", "--model.r2", "0.1", "--model.gradient_penalty", "0.5"]
GAME += ["--model.lr", "0.003", "--model.schedule", "linear", "--model.penalty_every", "2"]
GAME += ["--model.rounds", "2"]


@pytest.fixture(scope="session")
def command(tmp_path_factory) -> Iterator[Callable[..., Command]]:
    """Starts `command(module, *flags)` of this project."""
    with commands(tmp_path_factory.mktemp("commands"), "gan", [*SMALL, *CPU]) as start:
        yield start


@pytest.fixture(scope="session")
def game() -> list[str]:
    """The flags of a small game with everything in it."""
    return GAME
