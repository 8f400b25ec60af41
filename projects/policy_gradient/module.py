"""The LightningModule: what a rollout says about the policy that made it, and the steps that follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.nn import Parameter
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import LambdaLR

from common.errors import UserError
from common.nn.optim import average_gradients
from common.trainer import no_sync, rank_and_world_size, should_log, training_steps
from projects.policy_gradient.acting import Actor
from projects.policy_gradient.advantages import (
    following_values,
    generalized_advantages,
    is_complete,
    rewards_to_go,
)
from projects.policy_gradient.chance import MINIBATCHES, generator_of
from projects.policy_gradient.evaluation import Episodes
from projects.policy_gradient.losses import clipped_policy_loss, explained_variance, policy_loss
from projects.policy_gradient.networks import PolicyNetwork, RunningScale, ValueNetwork, moments
from projects.policy_gradient.rollout import Rollout
from projects.policy_gradient.samples import Samples, deal

PRECISIONS = ("32-true", "64-true")
OVERFIT_SAMPLES = 16


class PolicyGradientModule(LightningModule):
    """A policy that learns from its own experience: REINFORCE, and by option what improves it.

    One step of training takes in one rollout: `passes` times through its transitions, in `minibatches` parts of random
    order. Lightning counts it as one step, however many the optimizer makes.

    Args:
        observation_size: numbers in an observation; the data's.
        action_size: choices, or numbers in an action; the data's.
        discrete: whether actions are choices; the data's.
        threshold: the mean return of a validation at which training stops; the data's.
        hidden: units of each hidden layer, of policy and value network alike.
        log_std: logarithm of the standard deviation, at the start, of actions that are numbers.
        baseline: whether a value network says what was to be expected. Without it a reward-to-go counts as it is, and
            transitions whose episode goes on beyond the rollout are left out, as theirs is not known.
        discount: what a reward one step later is worth.
        gae_lambda: how far an advantage looks before it trusts the value network; 1 for to the end.
        normalize_advantages: whether a rollout's advantages are brought to mean 0 and variance 1.
        normalize_observations: whether observations are, by all that came before; kept in the checkpoint.
        reward_scale: what rewards are multiplied by before anything is learned from them.
        entropy: weight of the policy's entropy, which keeps it from deciding too early.
        passes: how often a rollout is learned from.
        minibatches: parts of a pass, each with its step of the optimizer.
        clip_ratio: how far from 1 a probability's ratio to its old one is followed; 0 for the plain policy gradient,
            which holds for one step from each rollout.
        value_weight: of the value network's squared error in the loss.
        lr: Adam's learning rate.
        schedule: `constant`, or `linear` down to zero at the end.
        clip_norm: limit of the gradient's norm; 0 for none.
    """

    automatic_optimization = False
    overfit_steps = 1000  # for `--debug overfit`

    def __init__(
        self,
        observation_size: int = 4,
        action_size: int = 2,
        discrete: bool = True,
        threshold: float | None = None,
        hidden: Sequence[int] = (64, 64),
        log_std: float = 0.0,
        baseline: bool = True,
        discount: float = 0.99,
        gae_lambda: float = 0.95,
        normalize_advantages: bool = True,
        normalize_observations: bool = False,
        reward_scale: float = 1.0,
        entropy: float = 0.0,
        passes: int = 1,
        minibatches: int = 1,
        clip_ratio: float = 0.0,
        value_weight: float = 0.5,
        lr: float = 1e-3,
        schedule: str = "constant",
        clip_norm: float = 0.5,
    ) -> None:
        super().__init__()
        if schedule not in ("constant", "linear"):
            raise UserError(f"--model.schedule {schedule}: use one of constant, linear")
        if min([passes, minibatches, *hidden]) < 1 or lr <= 0 or reward_scale <= 0:
            raise UserError("--model.passes, minibatches and hidden are at least 1, lr and reward_scale above 0")
        if not (0 <= discount <= 1 and 0 <= gae_lambda <= 1):
            raise UserError("--model.discount and gae_lambda are from 0 to 1")
        if min(entropy, clip_ratio, value_weight, clip_norm) < 0:
            raise UserError("--model.entropy, clip_ratio, value_weight and clip_norm are at least 0")
        if not baseline and gae_lambda < 1:
            raise UserError(f"--model.gae_lambda {gae_lambda:g}: below 1 it needs a value network; set baseline, or 1 here")
        if passes * minibatches > 1 and not clip_ratio:
            raise UserError(
                "--model.clip_ratio 0: after one step the actions are an older policy's; use 0.2, or 1 pass and 1 minibatch"
            )
        hidden = list(hidden)
        self.save_hyperparameters()
        self.policy = PolicyNetwork(observation_size, hidden, action_size, discrete, log_std)
        self.value = ValueNetwork(observation_size, hidden) if baseline else None
        self.scale = RunningScale(observation_size) if normalize_observations else None
        self.played: list[Episodes] = []  # in this evaluation
        self.prepared: tuple[Rollout, Samples, Tensor] | None = None  # the last rollout, and what came of it
        self.by_heart = False  # see `prepare_overfit`
        self.metadata: dict[str, Any] = {}

    def setup(self, stage: str) -> None:
        """Refuses number formats in which the policy that learns would not be the one that has acted."""
        if self.trainer.precision not in PRECISIONS:
            raise UserError(f"--precision {self.trainer.precision}: a policy trains in {' or '.join(PRECISIONS)}")

    def actor(self) -> Actor:
        """The policy as it is now, for environments."""
        return Actor(self.policy, self.scale)

    # ---- learning

    def training_step(self, rollout: Rollout, batch_idx: int) -> None:
        """Learns from a rollout.

        The optimizer is the plain one but for the last step: that one Lightning counts, and the callbacks see. Weights that
        are not finite stay so, so the last step still stops a run before they are in a checkpoint.
        """
        optimizer, parameters = cast(LightningOptimizer, self.optimizers()), list(self.parameters())
        samples, counted = self.prepare(rollout)
        batches = self.minibatches(counted)
        counts = self.total(torch.tensor([len(batch) for batch in batches], dtype=torch.float64)).tolist()
        with no_sync(self.trainer.strategy):
            for number, (batch, count) in enumerate(zip(batches, counts, strict=True), 1):
                part = samples if len(batch) == len(samples) else samples[batch]
                # each transition of any process weighs the same, also where one process has fewer of them
                loss = self.losses(part).sum() * (self.trainer.world_size / max(count, 1.0))
                optimizer.optimizer.zero_grad()
                if number < len(batches):
                    loss.backward()
                    self.tame_gradients(parameters)
                    optimizer.optimizer.step()
                else:
                    self.manual_backward(loss)
                    self.tame_gradients(parameters)
                    optimizer.step()
        cast(LambdaLR, self.lr_schedulers()).step()
        if self.scale is not None:
            self.take_in(self.scale, rollout.observations)
        if should_log(self.trainer):
            self.log_step(rollout, loss.detach(), samples)

    @torch.no_grad()
    def prepare(self, rollout: Rollout) -> tuple[Samples, Tensor]:
        """What is learned from a rollout, and (steps, envs) bool, which transitions count. Computed once for each."""
        if self.prepared is not None and self.prepared[0] is rollout:
            return self.prepared[1:]
        h = self.hparams
        seen = self.scaled(rollout.observations)  # (steps, envs, size)
        rewards = rollout.rewards * h["reward_scale"]
        targets: Tensor | None = None
        if self.value is None:
            counted = is_complete(rollout.ended, rollout.valid)
            advantages = rewards_to_go(rewards, rollout.ended, rollout.valid, h["discount"])
        else:
            counted = rollout.valid
            values = self.value(seen)  # (steps, envs)
            last, at_ends = (self.value(self.scaled(x)) for x in (rollout.last_observations, rollout.end_observations))
            following = following_values(values, last, rollout.ends, at_ends)
            flags = rollout.terminated, rollout.truncated, rollout.valid
            advantages = generalized_advantages(rewards, values, following, *flags, h["discount"], h["gae_lambda"])
            targets = (advantages + values)[counted]
        advantages = advantages[counted]
        if h["normalize_advantages"]:
            advantages = self.normalized(advantages)
        masks = None if rollout.masks is None else rollout.masks[counted]
        samples = Samples(seen[counted], rollout.actions[counted], masks, advantages, None, targets)
        if h["clip_ratio"]:
            samples.old_log_probs = self.policy(samples.observations, samples.actions, masks)[0]
        self.prepared = rollout, samples, counted
        return samples, counted

    def losses(self, samples: Samples) -> Tensor:
        """The loss of each transition, (n,)."""
        h = self.hparams
        if self.by_heart:
            return self.imitation(samples)
        log_probs, entropy = self.policy(samples.observations, samples.actions, samples.masks)
        if samples.old_log_probs is None:
            loss = policy_loss(log_probs, samples.advantages)
        else:
            loss = clipped_policy_loss(log_probs, samples.old_log_probs, samples.advantages, h["clip_ratio"])
        if h["entropy"]:
            loss = loss - h["entropy"] * entropy
        if self.value is not None and samples.targets is not None:
            loss = loss + h["value_weight"] * (self.value(samples.observations) - samples.targets).square()
        return loss

    def minibatches(self, counted: Tensor) -> list[Tensor]:
        """Which samples each of the optimizer's steps takes; see `deal`."""
        h = self.hparams
        if h["passes"] * h["minibatches"] == 1 or self.by_heart:
            count = int(counted.sum())
            return [spread(count) if self.by_heart else torch.arange(count, device=self.device)] * h["passes"]
        seed = 0 if self._trainer is None else self.trainer.datamodule.seed  # type: ignore[attr-defined]
        generator = generator_of(seed, MINIBATCHES, self.trainer.global_step)
        place = rank_and_world_size(self._trainer)
        batches = deal(counted.cpu(), h["passes"], h["minibatches"], generator, *place)
        return [batch.to(self.device) for batch in batches]

    def tame_gradients(self, parameters: list[Parameter]) -> None:
        """Averages the gradients over the processes and limits their norm."""
        average_gradients(parameters, self.trainer.world_size)
        if self.hparams["clip_norm"]:
            clip_grad_norm_(parameters, self.hparams["clip_norm"])

    def scaled(self, observations: Tensor) -> Tensor:
        """Observations (..., size) as the networks see them."""
        return observations if self.scale is None else self.scale(observations)

    def normalized(self, advantages: Tensor) -> Tensor:
        """Advantages (n,) brought to mean 0 and variance 1, over all processes."""
        wide = advantages.cpu().double()
        count, total, squares = self.total(torch.stack([wide.new_tensor(len(wide)), wide.sum(), wide.square().sum()]))
        mean = total / count.clamp(min=1)
        deviation = (squares / count.clamp(min=1) - mean.square()).clamp(min=0).sqrt()
        return ((wide - mean) / (deviation + 1e-8)).to(advantages)

    def take_in(self, scale: RunningScale, observations: Tensor) -> None:
        """Adds a rollout's observations (steps, envs, size) of every process to the running scale, in the same order."""
        mine = moments(observations.flatten(0, 1))
        for count, mean, variance in self.gathered(torch.cat([part.view(-1) for part in mine])):
            scale.take_in(count, mean, variance)

    def total(self, values: Tensor) -> Tensor:
        """The sum of `values`, on the CPU, over the processes."""
        if self._trainer is not None and self.trainer.world_size > 1:
            everywhere = values.to(self.device)
            dist.all_reduce(everywhere)
            return everywhere.cpu()
        return values

    def gathered(self, values: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """What each process has in `values` (1 + 2 size,): a count, a mean (size,) and a variance (size,)."""
        rows = [values]
        if self._trainer is not None and self.trainer.world_size > 1:
            mine = values.to(self.device)
            rows = [torch.empty_like(mine) for _ in range(self.trainer.world_size)]
            dist.all_gather(rows, mine)
        size = (len(values) - 1) // 2
        return [(row[0], row[1 : 1 + size], row[1 + size :]) for row in (row.cpu() for row in rows)]

    @torch.no_grad()
    def log_step(self, rollout: Rollout, loss: Tensor, samples: Samples) -> None:
        """Logs what this process's rollout was like, and what has come of it.

        `kl` is an estimate of how far the policy has moved, in nats, that is never below 0; `clipped` the share of actions
        whose probability has moved beyond the clip.
        """
        logged = {"loss": loss}
        if len(rollout.returns):
            logged |= {"return": rollout.returns.mean(), "length": rollout.lengths.float().mean()}
        log_probs, entropy = self.policy(samples.observations, samples.actions, samples.masks)
        logged["entropy"] = entropy.mean()
        if samples.old_log_probs is not None:
            change = log_probs - samples.old_log_probs
            logged["kl"] = (change.exp() - 1 - change).mean()
            logged["clipped"] = ((change.exp() - 1).abs() > self.hparams["clip_ratio"]).float().mean()
        if self.value is not None and samples.targets is not None:
            values = self.value(samples.observations)
            logged["value_loss"] = (values - samples.targets).square().mean()
            logged["explained_variance"] = explained_variance(values, samples.targets)
        self.log_dict({f"train/{name}": value for name, value in logged.items()})

    # ---- looking at it without training it

    def prepare_overfit(self) -> None:
        """For `--debug overfit`: this loss has no least value, but which actions were taken can be learned by heart."""
        self.by_heart = True

    def imitation(self, samples: Samples) -> Tensor:
        """(n,): how far the networks are from repeating the actions, and the targets in units of their deviation."""
        if self.hparams["discrete"]:
            loss = -self.policy(samples.observations, samples.actions, samples.masks)[0]
        else:
            loss = (self.policy.stack(samples.observations) - samples.actions).square().mean(-1)
        if self.value is not None and samples.targets is not None:
            targets = (samples.targets - samples.targets.mean()) / (samples.targets.std() + 1e-8)
            loss = loss + (self.value(samples.observations) - targets).square()
        return loss

    def compute_loss(self, rollout: Rollout) -> Tensor:
        """The loss of a rollout as a function of all weights, with its advantages and targets as they were first found."""
        samples, _ = self.prepare(rollout)
        if self.by_heart:
            samples = samples[spread(len(samples))]
        return self.losses(samples).mean()

    # ---- measuring

    def validation_step(self, episodes: Episodes, batch_idx: int) -> None:
        """Takes in whole episodes of the policy's likeliest actions."""
        self.played.append(episodes)

    def test_step(self, episodes: Episodes, batch_idx: int) -> None:
        """The same for the test."""
        self.played.append(episodes)

    def on_validation_epoch_end(self) -> None:
        """Logs the results, and ends the training if the task is solved."""
        mean = self.log_episodes("val")
        threshold = self.hparams["threshold"]
        if threshold is not None and mean >= threshold and not self.trainer.sanity_checking:
            self.trainer.should_stop = True

    def on_test_epoch_end(self) -> None:
        """Logs the results."""
        self.log_episodes("test")

    def log_episodes(self, split: str) -> float:
        """Logs returns and lengths of what all processes have played; returns the mean return."""
        played, self.played = self.played, []
        if self.trainer.world_size > 1:
            shares: list[Any] = [None] * self.trainer.world_size
            dist.all_gather_object(shares, played)
            played = [episodes for share in shares for episodes in share]
        returns = torch.cat([episodes.returns for episodes in played]).cpu().double()
        figures = {
            "return": returns.mean(),
            "deviation": returns.std(correction=0),
            "lowest": returns.min(),
            "length": torch.cat([episodes.lengths for episodes in played]).float().mean(),
        }
        for name, value in figures.items():
            self.log(f"{split}/{name}", float(value), prog_bar=name == "return", sync_dist=True)  # the same everywhere
        return float(figures["return"])

    # ---- the rest

    def configure_optimizers(self) -> Any:
        """Adam, and its rate for each rollout, stepped by `training_step`."""
        h = self.hparams
        steps = training_steps(self.trainer) if h["schedule"] == "linear" else 0
        optimizer = torch.optim.Adam(self.parameters(), h["lr"], eps=1e-5, fused=True)
        return [optimizer], [LambdaLR(optimizer, lambda step: max(0.0, 1 - step / steps) if steps else 1.0)]

    def on_train_end(self) -> None:
        """Notes how much experience it took."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if hasattr(data, "steps"):
            self.metadata["environment_steps"] = self.trainer.global_step * data.steps * data.envs * self.trainer.world_size

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what playing needs beside the weights."""
        data = getattr(self._trainer, "datamodule", None)
        if data is not None:
            checkpoint["environment"] = {"id": data.task.id, "kwargs": data.task.kwargs}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses the weights of a policy for another environment, which may well fit."""
        data = getattr(self._trainer, "datamodule", None)
        saved = checkpoint.get("environment", {}).get("id")
        if data is not None and saved != data.task.id:
            raise UserError(f"the checkpoint's policy is for {saved}, --data.source is {data.task.id}")


def spread(count: int) -> Tensor:
    """A few of `count` places, evenly apart: neighbours are too much alike to be told apart by heart."""
    return torch.linspace(0, count - 1, min(count, OVERFIT_SAMPLES)).long()
