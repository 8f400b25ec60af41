"""An agent out of a checkpoint: the policy, and the environment that it is for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from common.errors import UserError
from common.io.checkpoints import check_project, read_checkpoint
from projects.policy_gradient.acting import Sampler, draw_noise
from projects.policy_gradient.chance import ACTIONS, generator_of
from projects.policy_gradient.environments import Task, inspect, make_single
from projects.policy_gradient.evaluation import LONGEST, Episodes, play_episodes
from projects.policy_gradient.module import PolicyGradientModule
from projects.policy_gradient.rollout import Policy


@dataclass
class Agent:
    """A trained policy and its environment."""

    module: PolicyGradientModule
    task: Task

    def policy(self, sample: bool = False, seed: int = 0) -> Policy:
        """What it does: its likeliest actions, or for one environment actions drawn from its distribution."""
        actor = self.module.actor()
        if not sample:
            return actor
        noise = draw_noise(LONGEST, 1, self.task.action_size, self.task.discrete, generator_of(seed, ACTIONS))
        return Sampler(actor, noise)

    def untrained(self) -> Agent:
        """One that has the same networks and has learned nothing."""
        return Agent(PolicyGradientModule(**self.module.hparams).eval(), self.task)


def load_agent(path: Path) -> Agent:
    """The agent of a checkpoint.

    Raises:
        UserError: it is not a good checkpoint of this project, or its environment cannot be made here.
    """
    checkpoint = read_checkpoint(path)
    check_project(checkpoint, "policy_gradient", path)
    try:
        module = PolicyGradientModule(**checkpoint["hyper_parameters"])
        module.load_state_dict(checkpoint["state_dict"])
        environment = checkpoint["environment"]
    except (KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"checkpoint {path}: written by another version of this project ({reason})") from error
    task = inspect(environment["id"], environment["kwargs"])
    names = ("observation_size", "action_size", "discrete")
    if any(getattr(task, name) != module.hparams[name] for name in names):
        raise UserError(f"checkpoint {path}: its {task.id} was another environment than this machine's of that name")
    return Agent(module.eval(), task)


def score(agent: Agent, seeds: list[int], sample: bool = False) -> Episodes:
    """Plays an episode from each of `seeds`, with the likeliest actions or with drawn ones."""
    if not sample:
        return play_episodes([make_single(agent.task) for _ in seeds], agent.task, agent.policy(), seeds)
    env = make_single(agent.task)
    played = [play_episodes([env], agent.task, agent.policy(True, seed=seed), [seed]) for seed in seeds]
    return Episodes(*(torch.cat(parts) for parts in zip(*((p.returns, p.lengths) for p in played), strict=True)))
