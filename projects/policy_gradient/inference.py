"""Inference: the agent of a checkpoint, which is its policy and the environment that it was trained in."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from gymnasium import Env

from common.data.inputs import check_rows
from common.errors import UserError
from common.io.checkpoints import PathLike, content_errors, load_module
from projects.policy_gradient.actor import StochasticActor, sample_noise
from projects.policy_gradient.environments import EnvInfo, inspect_env, make_env
from projects.policy_gradient.metrics import MAX_EPISODE_STEPS, EpisodeStats, evaluate_policy
from projects.policy_gradient.module import PolicyGradientModule
from projects.policy_gradient.rollout import Policy
from projects.policy_gradient.seeding import ACTIONS, make_generator

BATCH_SIZE = 10_000  # observations


@dataclass
class Agent:
    """Trained policy and its environment."""

    module: PolicyGradientModule
    env_info: EnvInfo

    def __call__(
        self, observations: Sequence[np.ndarray] | np.ndarray, action_masks: np.ndarray | None = None
    ) -> np.ndarray:
        """Greedy actions (n, ...), as the environment takes them, of observations (n, obs_dim) of `make_env`.

        Args:
            observations: Flat observations.
            action_masks: Valid actions (n, action_dim), of an environment that has `action_mask` in its info.

        Raises UserError for observations of another length, or with NaN or infinity.
        """
        obs = check_rows(observations, self.env_info.obs_dim).numpy()
        actor = self.policy()
        parts = [slice(start, start + BATCH_SIZE) for start in range(0, max(1, len(obs)), BATCH_SIZE)]
        actions = [actor(obs[part], None if action_masks is None else action_masks[part]) for part in parts]
        return self.env_info.to_env(np.concatenate(actions))

    def make_env(self) -> Env:
        """New environment of the kind that the agent was trained in, with flat observations."""
        return make_env(self.env_info)

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
        with closing(self.make_env()) as env:
            played = [evaluate_policy([env], self.env_info, self.policy(stochastic, seed), [seed]) for seed in seeds]
        return EpisodeStats(torch.cat([p.returns for p in played]), torch.cat([p.lengths for p in played]))


def load(checkpoint: PathLike, device: str | torch.device = "cpu", source: str | None = None) -> Agent:
    """Agent for an environment from a run's checkpoint.

    Args:
        checkpoint: Checkpoint of a run.
        device: Where the weights are; actions are computed on the CPU, as environments are there.
        source: Environment id `PACKAGE.MODULE:ENV` whose module may be imported, if it is the checkpoint's.

    Raises:
        UserError: The file is not a valid checkpoint of this project, or its environment cannot be made here, or would
            import a module that is neither imported yet nor that of `source`.

    Example:
        >>> agent = load("best.ckpt", device="cpu")
        >>> env = agent.make_env()
        >>> observation, info = env.reset(seed=0)
        >>> action = agent([observation])[0]
        >>> env.action_space.contains(action)
        True
    """
    module, saved = load_module(checkpoint, PolicyGradientModule, "policy_gradient")
    with content_errors(Path(checkpoint), saved):
        id, kwargs = str(saved["environment"]["id"]), dict(saved["environment"]["kwargs"])
        for text in (id, *(value for value in kwargs.values() if isinstance(value, str))):
            package, colon, _ = text.partition(":")
            if colon and text != source and package not in sys.modules:
                names = f"its environment {text} is code of the module {package}"
                raise UserError(f"checkpoint {checkpoint}: {names}; if you trust it, add --source {shlex.quote(text)}")
    env_info = inspect_env(id, kwargs, f"checkpoint {checkpoint}: environment")
    if any(getattr(env_info, name) != module.hparams[name] for name in ("obs_dim", "action_dim", "discrete")):
        raise UserError(f"checkpoint {checkpoint}: {env_info.id} has other spaces here than where it was trained")
    return Agent(module.to(device), env_info)
