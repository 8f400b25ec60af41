"""Fixtures of the GAN's tests: runs of the command line, of a small GAN in the plane."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from commands import CPU, Command, commands

SMALL = ["--model.mlp.hidden_dim", "16", "--model.latent_dim", "4", "--trainer.log_every_n_steps", "1"]
# all penalties at once, more updates of the discriminator than of the generator, and two iterations in a step
TINY_RUN = ["--data.source", "ring8", "--max_epochs", "2", "--data.steps_per_epoch", "12", "--data.eval_samples", "101"]
TINY_RUN += ["--model.n_critic", "2", "--model.r1_weight", "0.1", "--model.r2_weight", "0.1", "--model.gp_weight", "0.5"]
TINY_RUN += ["--data.batch_size", "16", "--model.iterations_per_step", "2", "--model.betas", "[0.4,0.9]"]


@pytest.fixture(scope="session")
def command(tmp_path_factory) -> Iterator[Callable[..., Command]]:
    """Starts `command(module, *flags)` of this project."""
    with commands(tmp_path_factory.mktemp("commands"), "gan", [*SMALL, *CPU]) as start:
        yield start


@pytest.fixture(scope="session")
def tiny_run() -> list[str]:
    """Flags of a small run on points that uses everything."""
    return TINY_RUN
