"""On-policy data: rollouts of the current policy as training batches, and evaluation episodes for validation and test."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Literal, cast

import torch
from jsonargparse.typing import PositiveInt
from lightning.pytorch import Trainer

from common.callbacks.resume import raise_if_preempted
from common.data.batches import shard_indices
from common.data.sources import Source, SourceDataModule
from common.errors import UserError
from common.io.ranks import print_rank_zero
from common.nn.distributed import all_gather_objects
from common.trainer import rank_and_world_size, resume_position
from projects.policy_gradient.actor import Actor, StochasticActor, choose_actions, sample_noise
from projects.policy_gradient.environments import (
    DEFAULT_ENV,
    CheckedEnv,
    EnvInfo,
    describe_error,
    inspect_env,
    make_envs,
    make_vec_env,
)
from projects.policy_gradient.metrics import EpisodeStats, evaluate_policy
from projects.policy_gradient.rollout import MAX_REPLAY_STEPS, Collector, Policy, Rollout
from projects.policy_gradient.seeding import ACTIONS, ENVIRONMENTS, EVALUATION, derive_seed, make_generator

EVAL_SPLITS = ("val", "test")
QUIET_SECONDS = 5.0  # an evaluation that takes no longer prints nothing, and is finished also after a SIGTERM


class PolicyGradientData(SourceDataModule):
    """Rollouts of any gymnasium environment, and evaluation episodes.

    Args:
        source: Environment id, such as `Acrobot-v1`, or `my_package.my_module:MyEnv-v0` to import a module first; `auto` and
            `sample` are CartPole-v1.
        env_kwargs: Keyword arguments of the environment.
        max_episode_steps: Time limit that truncates episodes, in training, validation and test; unset, the one that the
            environment is registered with, if any.
        num_envs: Environments of each process that step together.
        num_steps: Steps of each environment in a rollout, which is one batch.
        rollouts_per_epoch: Rollouts in an epoch; then the policy is validated. Episodes go on across rollouts and epochs, if
            there is a value network to bootstrap from.
        autoreset: Autoreset mode, the step in which an environment is reset after the end of an episode: the `next_step`
            (gymnasium's default) or the `same_step`.
        eval_episodes: Episodes of a validation.
        test_episodes: Episodes of the test.
        reward_threshold: Mean validation return at which training stops, or those of environments by their ids; for another
            environment and where unset it is the environment's own in gymnasium's registry, if any.
    """

    HUB_ID = DEFAULT_ENV
    BATCH_OPTION = "num_envs"

    def __init__(
        self,
        source: str = "auto",
        env_kwargs: dict[str, Any] | None = None,
        max_episode_steps: PositiveInt | None = None,
        num_envs: PositiveInt = 32,
        num_steps: PositiveInt = 32,
        rollouts_per_epoch: PositiveInt = 20,
        autoreset: Literal["next_step", "same_step"] = "next_step",
        eval_episodes: PositiveInt = 200,
        test_episodes: PositiveInt = 100,
        reward_threshold: float | dict[str, float] | None = None,
    ) -> None:
        super().__init__(source)
        self.env_kwargs = dict(env_kwargs or {})
        if max_episode_steps is not None:
            self.env_kwargs["max_episode_steps"] = int(max_episode_steps)
        self.num_envs, self.num_steps, self.rollouts_per_epoch = num_envs, num_steps, rollouts_per_epoch
        self.autoreset = autoreset
        self.num_episodes = {"val": eval_episodes, "test": test_episodes}
        self.reward_threshold_option = reward_threshold
        self.seed = 0
        self.shares_envs = False  # see `eval_envs`
        self.resumed_state: dict[str, Any] = {}

    def resolve(self) -> Source:
        """An environment's id is a source of its own."""
        if self.source is None:
            name = DEFAULT_ENV if self.source_option in ("auto", "sample") else self.source_option
            self.source = Source("environment", name)
        return self.source

    # ---- what the module is built from

    @cached_property
    def env_info(self) -> EnvInfo:
        """Spaces of the environment."""
        return inspect_env(self.resolve().name, self.env_kwargs)

    def fingerprint(self) -> dict[str, str | int]:
        """The environment and its keyword arguments: a policy is not resumed in another."""
        return {**super().fingerprint(), "--data.env_kwargs": str(self.env_kwargs)}

    def adapt_to(self, checkpoint: dict[str, Any]) -> None:
        """Checks that the policy fits the environment."""
        for name in ("obs_dim", "action_dim", "discrete"):
            trained, here = checkpoint["hyper_parameters"][name], getattr(self, name)
            if trained != here:
                env = self.resolve().name
                raise UserError(f"--data.source {env}: its spaces have {name} {here}, those of the checkpoint {trained}")

    @property
    def obs_dim(self) -> int:
        return self.env_info.obs_dim

    @property
    def action_dim(self) -> int:
        return self.env_info.action_dim

    @property
    def discrete(self) -> bool:
        return self.env_info.discrete

    @property
    def reward_threshold(self) -> float | None:
        """Mean validation return at which training stops, if any."""
        option = self.reward_threshold_option
        if isinstance(option, dict):
            option = option.get(self.resolve().name)
        return self.env_info.reward_threshold if option is None else option

    # ---- loaders

    def setup(self, stage: str) -> None:
        """Reads the run's seed, here because it is the same in every process and after a resume."""
        self.seed = torch.initial_seed() % 2**31
        _, world_size = rank_and_world_size(self.trainer)
        if min(self.num_episodes.values()) < world_size:
            raise UserError(f"--data.eval_episodes and test_episodes: there are {world_size} processes, each needs one")

    @cached_property
    def collector(self) -> Collector:
        """This process's environments, made when they are first needed."""
        return Collector(make_vec_env(self.env_info, self.num_envs, self.autoreset), self.env_info)

    @cached_property
    def eval_envs(self) -> list[CheckedEnv]:
        """Single environments of the evaluation, at most `num_envs`, made when they are first needed.

        Of a simulator that allows no further instances they are those of the training, which then begins new episodes.
        """
        envs, error = make_envs(self.env_info, min(self.num_envs, max(self.num_episodes.values())))
        if error is not None and not envs:
            envs = getattr(vars(self)["collector"].envs, "envs", []) if "collector" in vars(self) else []
            if not envs:
                raise error
            self.shares_envs = True
            print_rank_zero(f"NOTE: evaluation ends the episodes of the training, whose environments it takes: {error}")
        return envs

    def close(self) -> None:
        """Closes all environments; where that fails, a line says so."""
        collector, eval_envs = vars(self).pop("collector", None), vars(self).pop("eval_envs", [])
        own, self.shares_envs = [] if self.shares_envs else eval_envs, False
        for env in [*own, *([] if collector is None else [collector.envs])]:
            try:
                env.close()
            except Exception as error:
                print_rank_zero(f"NOTE: {self.env_info.label}: not closed: {describe_error(error)}")

    def teardown(self, stage: str) -> None:
        self.close()

    def on_exception(self, exception: BaseException) -> None:
        self.close()

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Moves a batch; a rollout on a device keeps that on the host."""
        moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
        if isinstance(batch, Rollout) and device.type != "cpu":
            moved.host = batch
        return moved

    def train_dataloader(self) -> Any:
        return RolloutLoader(self)

    def val_dataloader(self) -> Any:
        return EvaluationLoader(self, "val")

    def test_dataloader(self) -> Any:
        return EvaluationLoader(self, "test")

    def behavior_policy(self, rollout_idx: int) -> Policy:
        """The module's current policy with the action noise of a rollout; without a trainer, random actions.

        Every process samples the noise of all environments and takes its own part.
        """
        rank, world_size = rank_and_world_size(self.trainer)
        generator = make_generator(self.seed, ACTIONS, rollout_idx)
        noise = sample_noise(self.num_steps, world_size * self.num_envs, self.action_dim, self.discrete, generator)
        noise = noise[:, rank * self.num_envs :][:, : self.num_envs]
        if self.trainer is None:
            rows = iter(noise.numpy())
            return lambda obs, masks: choose_actions(next(rows), masks, self.discrete)
        return StochasticActor(self.actor(), noise)

    def actor(self) -> Actor:
        """The module's current policy with greedy actions."""
        assert self.trainer is not None
        return cast(Any, self.trainer.lightning_module).actor()

    def start_environments(self, rollout_idx: int) -> None:
        """Starts the environments with a training's first rollout; from there on they go on across rollouts and epochs.

        A resumed training replays the checkpoint's actions; if it cannot, new episodes begin, and a line says why.
        A module that does not bootstrap learns from whole episodes alone: for it new ones begin with every rollout.
        """
        if self.trainer is not None and not cast(Any, self.trainer.lightning_module).bootstraps:
            self.reset(rollout_idx)
        if self.collector.is_started:
            return
        is_resumed = bool(rollout_idx) and not self.shares_envs
        reason = self.replay() if is_resumed else None
        if reason is not None:
            print_rank_zero(f"NOTE: the environments begin new episodes, as {reason}")
        if reason is not None or not is_resumed:
            self.reset(rollout_idx)

    def reset(self, rollout_idx: int) -> None:
        """Resets all environments with seeds derived from the run's seed, the rollout, and the environment's number.

        An environment's own vector form takes one seed for all of its environments.
        """
        rank, _ = rank_and_world_size(self.trainer)
        first = derive_seed(self.seed, ENVIRONMENTS, rollout_idx)
        env_ids = range(rank * self.num_envs, (rank + 1) * self.num_envs)
        has_single_envs = hasattr(self.collector.envs, "env_fns")
        self.collector.reset([(first + env_id) % 2**31 for env_id in env_ids] if has_single_envs else first + rank)

    # ---- resuming

    def vector_settings(self) -> dict[str, Any]:
        """Flags that an action history depends on."""
        _, world_size = rank_and_world_size(self.trainer)
        return {"--data.num_envs": self.num_envs, "--data.autoreset": self.autoreset, "--devices": world_size}

    def state_dict(self) -> dict[str, Any]:
        """Action history of every process."""
        if not ("collector" in vars(self) and self.collector.is_started):
            return {}
        _, world_size = rank_and_world_size(self.trainer)
        return {**self.vector_settings(), "collectors": all_gather_objects(self.collector.state_dict(), world_size)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps the state until the environments exist."""
        self.resumed_state = state_dict

    def replay(self) -> str | None:
        """Brings the environments to the state of the checkpoint that is resumed; returns what prevents it, if anything."""
        state, self.resumed_state = self.resumed_state, {}
        for flag, value in self.vector_settings().items():
            if state.get(flag, value) != value:
                return f"{flag} is {value}, and {state[flag]} in the checkpoint"
        history = state["collectors"][rank_and_world_size(self.trainer)[0]] if state else None
        if history is None:
            return (
                f"the checkpoint has no action history; it is kept for {MAX_REPLAY_STEPS:,} steps of a process, and where "
                "evaluation has environments of its own"
            )
        if not self.collector.replay(history):
            return f"{self.env_info.id} is not deterministic given its seed and actions"
        return None


class RolloutLoader:
    """Rollouts of an epoch, each collected when it is asked for; starts at the trainer's position, also within an epoch.

    Lightning prefetches a batch from loaders without a length. A prefetched rollout would be one update stale, and the
    policy gradient wrong; this loader has a length.
    """

    def __init__(self, data: PolicyGradientData) -> None:
        self.data = data

    def __len__(self) -> int:
        return self.data.rollouts_per_epoch

    def __iter__(self) -> Iterator[Rollout]:
        data = self.data
        epoch, batch_idx = resume_position(data.trainer)
        first, end = epoch * len(self) + batch_idx, (epoch + 1) * len(self)
        for rollout_idx in range(first, end):
            data.start_environments(rollout_idx)
            yield data.collector.collect(data.behavior_policy(rollout_idx), data.num_steps)


class EvaluationLoader:
    """This process's shard of the evaluation episodes, with greedy actions; one batch.

    Their seeds are the same in every run and validation, and others for the test.
    """

    def __init__(self, data: PolicyGradientData, split: str) -> None:
        self.data, self.split = data, split

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[EpisodeStats]:
        data = self.data
        episodes = shard_indices(data.num_episodes[self.split], *rank_and_world_size(data.trainer)).tolist()
        seeds = [derive_seed(0, EVALUATION, EVAL_SPLITS.index(self.split), episode) for episode in episodes]
        progress = EvaluationProgress(data.trainer, self.split, len(seeds))
        stats = evaluate_policy(data.eval_envs, data.env_info, data.actor(), seeds, progress)
        if data.shares_envs:
            data.collector.is_started = False
        yield stats


class EvaluationProgress:
    """Of an evaluation that takes longer than `QUIET_SECONDS`: prints lines, ever more rarely, and stops it on SIGTERM."""

    def __init__(self, trainer: Trainer | None, split: str, num_episodes: int) -> None:
        self.trainer, self.split, self.num_episodes = trainer, split, num_episodes
        self.start, self.next_line = time.monotonic(), QUIET_SECONDS

    def __call__(self, num_ended: int, num_steps: int) -> None:
        """Raises Preempted if the process has received SIGTERM."""
        seconds = time.monotonic() - self.start
        if seconds < QUIET_SECONDS or self.trainer is None:
            return
        raise_if_preempted(self.trainer)
        if seconds >= self.next_line:
            self.next_line = 2 * seconds
            print_rank_zero(
                f"{self.split}: {num_ended:,} of {self.num_episodes:,} episodes have ended after {num_steps:,} steps, "
                f"{seconds:.0f} s; --data.max_episode_steps limits them"
            )
