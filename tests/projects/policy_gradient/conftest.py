"""What the policy gradient's tests share: small runs, in this process or by the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

import scripted_environment  # noqa: F401  (registers it)
from commands import CPU, Command, commands
from common.cli.main import main
from projects.policy_gradient.train import PROJECT

SMALL = [
    "--model.hidden",
    "[16]",
    "--data.eval_episodes",
    "3",
    "--data.test_episodes",
    "5",
    "--trainer.log_every_n_steps",
    "1",
]
# everything that could go wrong over processes or in a resumed run
LEARNER = [
    "--data.envs",
    "8",
    "--data.steps",
    "16",
    "--data.rollouts",
    "6",
    "--max_epochs",
    "2",
    "--data.vectorization",
    "sync",
]
LEARNER += ["--model.passes", "2", "--model.minibatches", "3", "--model.clip_ratio", "0.2", "--model.entropy", "0.01"]
LEARNER += ["--model.normalize_observations", "true", "--model.lr", "0.01", "--model.schedule", "linear"]


@pytest.fixture(scope="session")
def command(tmp_path_factory) -> Iterator[Callable[..., Command]]:
    """Starts `command(module, *flags)` of this project."""
    with commands(tmp_path_factory.mktemp("commands"), "policy_gradient", [*SMALL, *CPU]) as start:
        yield start


@pytest.fixture(scope="session")
def learner() -> list[str]:
    """The flags of a small run with everything in it."""
    return LEARNER


@pytest.fixture
def train(tmp_path, monkeypatch) -> Callable[..., int]:
    """Runs `train(*flags)` in this process and in an empty folder; returns the exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("common.run.summary.draw_curves", lambda rows, path: None)  # takes longer than these runs
    (tmp_path / "plain.yaml").write_text("seed: 0\n")
    return lambda *flags: main(PROJECT, ["--config", "plain.yaml", *SMALL, *CPU, *flags])
