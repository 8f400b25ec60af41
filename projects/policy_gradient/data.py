"""Batches that do not exist before they are asked for: rollouts of the policy as it is at that moment."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from common.data.batches import shard_indices
from common.data.sources import Source, SourceDataModule
from common.errors import UserError
from common.trainer import rank_and_world_size, resume_position
from projects.policy_gradient.acting import Actor, Sampler, draw_noise
from projects.policy_gradient.chance import ACTIONS, ENVIRONMENTS, EVALUATION, generator_of, seed_of
from projects.policy_gradient.environments import (
    AUTORESETS,
    SAMPLE,
    VECTORIZATIONS,
    Task,
    inspect,
    make_single,
    make_vector,
)
from projects.policy_gradient.evaluation import Episodes, play_episodes
from projects.policy_gradient.rollout import Collector, Policy, Rollout

if TYPE_CHECKING:
    from gymnasium import Env

EVALUATIONS = ("val", "test")


class PolicyGradientData(SourceDataModule):
    """Rollouts of any gymnasium environment, and whole episodes to judge a policy by.

    Args:
        source: an environment's id, such as `Acrobot-v1`, or `my_package.my_module:MyEnv-v0` to import a module first;
            `auto` and `sample` are CartPole-v1.
        env_kwargs: keyword arguments of the environment.
        envs: environments of each process that step together.
        steps: steps of each of them in a rollout, which is one batch.
        rollouts: in an epoch; then the policy is judged, and all environments begin anew.
        vectorization: `auto` (the environment's own vector form if it has one, else `sync`), `sync` or `async`.
        autoreset: when an environment begins a new episode: in the `next_step` after an end, or in the `same_step`.
        eval_episodes: episodes of a validation.
        test_episodes: episodes of the test.
        solved: the mean return of a validation at which training stops; unset, the one that the environment's makers
            name, if they do.
    """

    HUB_ID = SAMPLE

    def __init__(
        self,
        source: str = "auto",
        env_kwargs: dict[str, Any] | None = None,
        envs: int = 8,
        steps: int = 128,
        rollouts: int = 10,
        vectorization: str = "auto",
        autoreset: str = "next_step",
        eval_episodes: int = 20,
        test_episodes: int = 100,
        solved: float | None = None,
    ) -> None:
        super().__init__(source)
        if min(envs, steps, rollouts, eval_episodes, test_episodes) < 1:
            raise UserError("--data.envs, steps, rollouts, eval_episodes and test_episodes are at least 1")
        for option, value, choices in [
            ("vectorization", vectorization, VECTORIZATIONS),
            ("autoreset", autoreset, AUTORESETS),
        ]:
            if value not in choices:
                raise UserError(f"--data.{option} {value}: use one of {', '.join(choices)}")
        self.env_kwargs = env_kwargs or {}
        self.envs, self.steps, self.rollouts = envs, steps, rollouts
        self.vectorization, self.autoreset = vectorization, autoreset
        self.episodes = {"val": eval_episodes, "test": test_episodes}
        self.solved_option = solved
        self.seed = 0
        self.judged_in: list[Env] = []
        self.history: dict[str, Tensor] | None = None

    def resolve(self) -> Source:
        """An environment's id is a source of its own."""
        if self.source is None:
            name = SAMPLE if self.source_option in ("auto", "sample") else self.source_option
            self.source = Source("environment", name)
        return self.source

    # ---- what the module is made for

    @cached_property
    def task(self) -> Task:
        """The environment, and what a policy must know of it."""
        return inspect(self.resolve().name, self.env_kwargs)

    @property
    def observation_size(self) -> int:
        """Numbers in an observation."""
        return self.task.observation_size

    @property
    def action_size(self) -> int:
        """Choices, or numbers in an action."""
        return self.task.action_size

    @property
    def discrete(self) -> bool:
        """Whether actions are choices."""
        return self.task.discrete

    @property
    def threshold(self) -> float | None:
        """The mean return at which training stops, if there is one."""
        return self.task.solved if self.solved_option is None else self.solved_option

    # ---- loaders

    def setup(self, stage: str) -> None:
        """Takes the run's seed, here because it is the same in every process and after a resume."""
        self.seed = torch.initial_seed() % 2**31
        _, world_size = rank_and_world_size(self.trainer)
        if min(self.episodes.values()) < world_size:
            raise UserError(f"--data.eval_episodes and test_episodes: there are {world_size} processes, each needs one")

    @cached_property
    def collector(self) -> Collector:
        """This process's environments, made when they are first needed."""
        return Collector(make_vector(self.task, self.envs, self.vectorization, self.autoreset), self.task)

    def teardown(self, stage: str) -> None:
        """Closes the environments, which may be processes."""
        if (collector := vars(self).pop("collector", None)) is not None:
            collector.envs.close()

    def train_dataloader(self) -> Any:
        """Rollouts, each made when it is asked for: Lightning fetches nothing ahead from a loader that has a length."""
        return RolloutLoader(self)

    def val_dataloader(self) -> Any:
        """Episodes from seeds that are the same in every validation, so that curves are smooth."""
        return EvaluationLoader(self, "val")

    def test_dataloader(self) -> Any:
        """Episodes from other seeds."""
        return EvaluationLoader(self, "test")

    def sampler(self, number: int) -> Policy:
        """The module's policy as it is now, with the noise of rollout `number`; without a trainer random actions.

        All processes draw the noise of all; each takes its environments' part.
        """
        rank, world_size = rank_and_world_size(self.trainer)
        generator = generator_of(self.seed, ACTIONS, number)
        noise = draw_noise(self.steps, world_size * self.envs, self.action_size, self.discrete, generator)
        noise = noise[:, rank * self.envs :][:, : self.envs]
        if self.trainer is None:
            rows = iter(noise.numpy())
            return lambda seen, masks: choose_at_random(next(rows), masks, self.discrete)
        return Sampler(self.actor(), noise)

    def actor(self) -> Actor:
        """The module's policy as it is now."""
        assert self.trainer is not None
        return cast(Any, self.trainer.lightning_module).actor()

    def begin(self, epoch: int) -> None:
        """Begins an epoch's episodes, from seeds that follow from the run's, the epoch, and the environment's number.

        A vector form of the environment's own has one seed for all of its environments.
        """
        rank, _ = rank_and_world_size(self.trainer)
        first = seed_of(self.seed, ENVIRONMENTS, epoch)
        own = not hasattr(self.collector.envs, "env_fns")
        numbers = range(rank * self.envs, (rank + 1) * self.envs)
        self.collector.reset(first + rank if own else [(first + number) % 2**31 for number in numbers])

    # ---- resuming

    def state_dict(self) -> dict[str, Any]:
        """Within an epoch, what every process has told its environments since the epoch began."""
        _, done = resume_position(self.trainer)
        if not done:
            return {}
        _, world_size = rank_and_world_size(self.trainer)
        histories: list[Any] = [self.collector.history()]
        if world_size > 1:
            histories = [None] * world_size
            dist.all_gather_object(histories, self.collector.history())
        return {"histories": histories}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps this process's part until its environments exist.

        Resumed on another number of processes, the histories fit nobody: the epoch's environments begin anew.
        """
        rank, world_size = rank_and_world_size(self.trainer)
        histories = state_dict["histories"]
        self.history = histories[rank] if len(histories) == world_size else None


class RolloutLoader:
    """An epoch of rollouts; begins where the trainer is, also within an epoch, and repeats what led there."""

    def __init__(self, data: PolicyGradientData) -> None:
        self.data = data

    def __len__(self) -> int:
        return self.data.rollouts

    def __iter__(self) -> Iterator[Rollout]:
        data = self.data
        epoch, done = resume_position(data.trainer)
        data.begin(epoch)
        if done and data.history is not None:
            data.collector.replay(data.history)
        data.history = None
        for number in range(done, len(self)):
            yield data.collector.collect(data.sampler(epoch * len(self) + number), data.steps)


class EvaluationLoader:
    """This process's share of the episodes of a validation or test, played by the policy's likeliest actions."""

    def __init__(self, data: PolicyGradientData, split: str) -> None:
        self.data, self.split = data, split

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Episodes]:
        data = self.data
        place = EVALUATION, EVALUATIONS.index(self.split)
        numbers = shard_indices(data.episodes[self.split], *rank_and_world_size(data.trainer)).tolist()
        while len(data.judged_in) < len(numbers):
            data.judged_in.append(make_single(data.task))
        seeds = [seed_of(0, *place, number) for number in numbers]  # the same in every run, whatever its seed
        yield play_episodes(data.judged_in, data.task, data.actor(), seeds)


def choose_at_random(noise: np.ndarray, masks: np.ndarray | None, discrete: bool) -> np.ndarray:
    """What a policy does that knows nothing: (envs, actions) noise -> actions."""
    if not discrete:
        return noise
    return (noise if masks is None else np.where(masks, noise, -np.inf)).argmax(1)
