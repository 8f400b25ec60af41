"""Inference: the agent of a checkpoint, which is its policy and the environment that it was trained in."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch

from common.errors import UserError
from common.io.checkpoints import content_errors, load_module
from projects.policy_gradient.actor import StochasticActor, sample_noise
from projects.policy_gradient.environments import EnvInfo, inspect_env, make_env
from projects.policy_gradient.metrics import MAX_EPISODE_STEPS, EpisodeStats, evaluate_policy
from projects.policy_gradient.module import PolicyGradientModule
from projects.policy_gradient.rollout import Policy
from projects.policy_gradient.seeding import ACTIONS, make_generator


@dataclass
class Agent:
    """Trained policy and its environment."""

    module: PolicyGradientModule
    env_info: EnvInfo

    def policy(self, stochastic: bool = False, seed: int = 0) -> Policy:
        """Greedy policy; or the stochastic one, for a single environment, with action noise from `seed`."""
        actor, env_info = self.module.actor(), self.env_info
        if not stochastic:
            return actor
        generator = make_generator(seed, ACTIONS)
        noise = sample_noise(MAX_EPISODE_STEPS, 1, env_info.action_dim, env_info.discrete, generator)
        return StochasticActor(actor, noise)

    def untrained(self) -> Agent:
        """Agent with the same networks, newly initialized."""
        return Agent(PolicyGradientModule(**self.module.hparams).eval(), self.env_info)

    def evaluate(self, seeds: Sequence[int], stochastic: bool = False) -> EpisodeStats:
        """Plays an episode from each seed, with greedy or stochastic actions."""
        with closing(make_env(self.env_info)) as env:
            played = [evaluate_policy([env], self.env_info, self.policy(stochastic, seed), [seed]) for seed in seeds]
        return EpisodeStats(torch.cat([p.returns for p in played]), torch.cat([p.lengths for p in played]))


def load(checkpoint: Path, source: str | None = None) -> Agent:
    """Agent of a run's checkpoint.

    Args:
        checkpoint: The checkpoint.
        source: Environment id `PACKAGE.MODULE:ENV` whose module may be imported, if it is the checkpoint's.

    Raises:
        UserError: the file is missing, damaged or another project's, or its environment cannot be made here, or would import
            a module that is neither imported yet nor that of `source`.
    """
    module, saved = load_module(checkpoint, PolicyGradientModule, "policy_gradient")
    with content_errors(checkpoint):
        id, kwargs = str(saved["environment"]["id"]), dict(saved["environment"]["kwargs"])
        for text in (id, *(value for value in kwargs.values() if isinstance(value, str))):
            package, colon, _ = text.partition(":")
            if colon and text != source and package not in sys.modules:
                names = f"its environment {text} is code of the module {package}"
                raise UserError(f"checkpoint {checkpoint}: {names}; if you trust it, add --source {shlex.quote(text)}")
    env_info = inspect_env(id, kwargs, f"checkpoint {checkpoint}: environment")
    if any(getattr(env_info, name) != module.hparams[name] for name in ("obs_dim", "action_dim", "discrete")):
        raise UserError(f"checkpoint {checkpoint}: {env_info.id} has other spaces here than where it was trained")
    return Agent(module, env_info)
