"""Fixtures of the policy gradient's tests: small runs, in this process or by the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

import scripted_environment  # noqa: F401  (registers it)
from commands import CPU, Command, commands
from common.cli.main import main
from projects.policy_gradient.train import PROJECT


def flags(options: dict[str, object]) -> list[str]:
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


SMALL = flags(
    {
        "model.hidden_dims": [16],
        "data.eval_episodes": 3,
        "data.test_episodes": 5,
        "trainer.log_every_n_steps": 1,
    }
)
# everything that could go wrong over processes or in a resumed run
FULL = flags(
    {
        "data.num_envs": 8,
        "data.num_steps": 16,
        "data.rollouts_per_epoch": 6,
        "max_epochs": 2,
        "model.update_epochs": 2,
        "model.num_minibatches": 3,
        "model.ent_coef": 0.01,
        "model.normalize_observations": "true",
        "model.lr": 0.01,
        "model.schedule": "linear",
    }
)


@pytest.fixture(scope="session")
def command(tmp_path_factory) -> Iterator[Callable[..., Command]]:
    """Starts `command(module, *flags)` of this project."""
    with commands(tmp_path_factory.mktemp("commands"), "policy_gradient", [*SMALL, *CPU]) as start:
        yield start


@pytest.fixture(scope="session")
def full() -> list[str]:
    """Flags of a small run with every option in use."""
    return FULL


@pytest.fixture
def train(tmp_path, monkeypatch) -> Callable[..., int]:
    """Runs `train(*flags)` in this process and in an empty folder; returns the exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("common.run.summary.draw_curves", lambda *args: None)  # takes longer than these runs
    (tmp_path / "plain.yaml").write_text("seed: 0\n")
    return lambda *flags: main(PROJECT, ["--config", "plain.yaml", *SMALL, *CPU, *flags])
