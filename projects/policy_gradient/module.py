"""Proximal policy optimization (PPO) and REINFORCE: the LightningModule with the update, its metrics and the optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, PositiveFloat, PositiveInt
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import CatMetric

from common.errors import UserError
from common.io.checkpoints import plain
from common.io.ranks import print_rank_zero
from common.nn.distributed import average_gradients
from common.nn.optim import lr_factor
from common.options import LogStd
from common.trainer import attached_trainer, discard_metrics, no_sync, should_log, training_steps
from projects.policy_gradient.actor import Actor
from projects.policy_gradient.advantages import generalized_advantage_estimate, is_complete, next_values, rewards_to_go
from projects.policy_gradient.losses import explained_variance, policy_gradient_loss, ppo_clip_loss
from projects.policy_gradient.metrics import EpisodeStats, episode_metrics
from projects.policy_gradient.minibatches import Transitions, minibatch_indices
from projects.policy_gradient.networks import PolicyNetwork, RunningMeanStd, ValueNetwork, moments, to_float64
from projects.policy_gradient.rollout import Rollout
from projects.policy_gradient.seeding import MINIBATCHES, make_generator

PRECISIONS = ("32-true", "64-true")
OVERFIT_TRANSITIONS = 16
NO_RETURNS = (
    "no episode ended in a rollout of {} steps, so that no return is known and nothing is learned from it; "
    "raise --data.num_steps, or set --model.baseline true"
)


class PolicyGradientModule(LightningModule):
    """Proximal policy optimization (PPO; Schulman et al., arXiv 1707.06347), down to REINFORCE when its parts are off.

    A training step learns from one rollout: `update_epochs` epochs over its transitions, in `num_minibatches` random
    minibatches. Lightning counts it as one step, however many optimizer steps it has.

    Args:
        obs_dim: Dimension of an observation; taken from the data.
        action_dim: Number of discrete actions, or dimension of a continuous action; taken from the data.
        discrete: Whether actions are discrete; taken from the data.
        reward_threshold: Mean validation return at which training stops; taken from the data.
        hidden_dims: Units of each hidden layer, of policy and value network alike.
        log_std_init: Initial logarithm of the standard deviation of continuous actions.
        baseline: Value network (critic) as a baseline. Without it advantages are rewards-to-go, and nothing is
            bootstrapped: each rollout begins with new episodes, transitions whose episode goes on beyond it are left out, as
            their return is not known, and a truncated episode counts as if it had terminated.
        gamma: Discount factor: a reward one step later counts gamma times.
        gae_lambda: Lambda of GAE: how far an advantage looks before it trusts the value network; 1 for to the end.
        normalize_advantages: Advantage normalization: mean 0 and variance 1 over a rollout.
        normalize_observations: Observation normalization by a running mean and variance, kept in the checkpoint.
        reward_scale: Factor on all rewards, before anything is learned from them.
        ent_coef: Entropy coefficient: weight of the entropy bonus, which keeps the policy exploring.
        update_epochs: Epochs over a rollout.
        num_minibatches: Minibatches in each of them, with one optimizer step each.
        clip_coef: Clipping coefficient epsilon of PPO's surrogate objective; 0 for the plain policy gradient, which is valid
            for one optimizer step from each rollout.
        vf_coef: Value function coefficient: weight of the squared error of the value network.
        lr: Learning rate of Adam.
        schedule: Learning-rate schedule: `constant`, or `linear` down to zero at the end of the training.
        max_grad_norm: Gradient clipping: maximum norm of the gradient of all weights; 0 for none.
    """

    automatic_optimization = False
    default_precision = "32-true"  # also where the device has bfloat16, see `setup`
    overfit_steps = 1000  # for `--debug overfit`

    def __init__(
        self,
        obs_dim: int = 4,
        action_dim: int = 2,
        discrete: bool = True,
        reward_threshold: float | None = None,
        hidden_dims: Sequence[PositiveInt] = (64, 64),
        log_std_init: LogStd = 0.0,
        baseline: bool = True,
        gamma: ClosedUnitInterval = 0.99,
        gae_lambda: ClosedUnitInterval = 0.9,
        normalize_advantages: bool = True,
        normalize_observations: bool = False,
        reward_scale: PositiveFloat = 0.1,
        ent_coef: NonNegativeFloat = 0.0,
        update_epochs: PositiveInt = 3,
        num_minibatches: PositiveInt = 6,
        clip_coef: NonNegativeFloat = 0.2,
        vf_coef: NonNegativeFloat = 0.5,
        lr: PositiveFloat = 4e-3,
        schedule: Literal["constant", "linear"] = "constant",
        max_grad_norm: NonNegativeFloat = 0.5,
    ) -> None:
        super().__init__()
        if not baseline and gae_lambda < 1:
            raise UserError(f"--model.gae_lambda {gae_lambda:g}: below 1 it needs a value network; set baseline, or 1 here")
        if update_epochs * num_minibatches > 1 and not clip_coef:
            raise UserError(
                "--model.clip_coef 0: after one optimizer step the actions are an older policy's; "
                "use 0.2, or update_epochs 1 and num_minibatches 1"
            )
        self.save_hyperparameters()
        self.policy = PolicyNetwork(obs_dim, hidden_dims, action_dim, discrete, log_std_init)
        self.value = ValueNetwork(obs_dim, hidden_dims) if baseline else None
        self.obs_rms = RunningMeanStd(obs_dim) if normalize_observations else None
        self.eval_returns, self.eval_lengths = (CatMetric(nan_strategy="disable") for _ in range(2))
        self.noted_no_returns = False
        self.logged: set[str] = set()  # metrics of the last training step that was logged
        self.overfit = False  # see `prepare_overfit`
        self.debug_batch: tuple[Rollout, Transitions] | None = None  # see `compute_loss`
        self.environment_steps = 0  # transitions of all processes
        self.metadata: dict[str, Any] = {}
        self.stop_reason: str | None = None  # why the training has stopped by itself; the run prints it
        self.val_return: float | None = None  # mean of the last validation

    def setup(self, stage: str) -> None:
        """Raises UserError for mixed precision: the policy that is updated would differ from the one that has acted."""
        if self.trainer.precision not in PRECISIONS:
            raise UserError(f"--precision {self.trainer.precision}: a policy trains in {' or '.join(PRECISIONS)}")

    @property
    def bootstraps(self) -> bool:
        """Whether there is a value network, which estimates the rest of an episode that is cut off."""
        return self.value is not None

    def actor(self) -> Actor:
        """The current policy, for environments."""
        return Actor(self.policy, self.obs_rms)

    # ---- the update

    def training_step(self, rollout: Rollout, batch_idx: int) -> None:
        """PPO's update from a rollout; with one epoch, one minibatch and no clipping, that of REINFORCE or A2C.

        Lightning counts the last optimizer step alone, and calls the callbacks for it: a weight that is not finite stays so,
        and they still stop the run before it is in a checkpoint.
        """
        h, trainer, optimizer = self.hparams, self.trainer, cast(LightningOptimizer, self.optimizers())
        parameters = list(self.parameters())
        batch, valid = self.compute_advantages(rollout)  # once, by the networks that collected the rollout
        valid = self.gather(valid.byte()).bool()  # (world_size, steps, envs)
        if not valid.any():
            self.note_no_returns(len(rollout.rewards))
        generator = make_generator(trainer.datamodule.seed, MINIBATCHES, trainer.global_step)  # type: ignore[attr-defined]
        with no_sync(trainer.strategy):
            for epoch in range(h["update_epochs"]):
                minibatches = minibatch_indices(valid, h["num_minibatches"], generator, trainer.global_rank)
                for i, (index, size) in enumerate(minibatches):
                    losses, metrics = self.ppo_losses(batch[index.to(self.device, non_blocking=True)])  # (n,)
                    loss = losses.sum() * (trainer.world_size / max(size, 1))  # mean over the minibatch of all processes
                    is_last = (epoch + 1, i + 1) == (h["update_epochs"], h["num_minibatches"])
                    adam = optimizer if is_last else optimizer.optimizer
                    adam.zero_grad()
                    if size:  # else there are no gradients, and the step changes nothing
                        self.manual_backward(loss) if is_last else loss.backward()
                        average_gradients(parameters, trainer.world_size)
                    if h["max_grad_norm"]:
                        clip_grad_norm_(parameters, h["max_grad_norm"])
                    adam.step()
        cast(LambdaLR, self.lr_schedulers()).step()
        self.environment_steps += int(self.gather(rollout.on_host.valid.sum()).sum())
        if self.obs_rms is not None:
            for row in self.gather(moments(rollout.on_host.observations.flatten(0, 1))):
                self.obs_rms.update(row[0], *row[1:].chunk(2))
        if should_log(trainer):
            self.log_update(rollout, batch, {"loss": loss, **metrics})

    def ppo_losses(self, mb: Transitions) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of each transition of a minibatch, (n,), and metrics, each (n,).

        `approx_kl` estimates KL(old policy || policy) in nats and is never negative (Schulman, "Approximating KL
        divergence", 2020); `clip_fraction` is the fraction of actions whose probability ratio is beyond the clip range.
        """
        h, metrics = self.hparams, {}
        log_probs, entropy = self.policy(mb.observations, mb.actions, mb.action_masks)
        if mb.old_log_probs is None:  # REINFORCE: one optimizer step, by the policy that has sampled the actions
            pg_loss = policy_gradient_loss(log_probs, mb.advantages)
        else:
            logratio = log_probs - mb.old_log_probs
            ratio = logratio.exp()
            with torch.no_grad():
                metrics["approx_kl"] = (ratio - 1) - logratio
                metrics["clip_fraction"] = ((ratio - 1).abs() > h["clip_coef"]).float()
            pg_loss = ppo_clip_loss(ratio, mb.advantages, h["clip_coef"])
        loss = pg_loss
        if h["ent_coef"]:  # else a backward pass through the entropy would cost time for nothing
            loss = loss - h["ent_coef"] * entropy
        if self.value is not None and mb.returns is not None:
            metrics["value_loss"] = v_loss = (self.value(mb.observations) - mb.returns).square()
            loss = loss + h["vf_coef"] * v_loss
        return loss, {"policy_loss": pg_loss, "entropy": entropy, **metrics}

    @torch.no_grad()
    def compute_advantages(self, rollout: Rollout) -> tuple[Transitions, Tensor]:
        """Transitions of a rollout with advantages, old log-probabilities and returns; mask (steps, envs) of these steps.

        The mask is on the host, and selects by an index: for the number of true entries the host would wait for the device.
        """
        if self.overfit:
            return self.supervised_targets(rollout)
        h, host = self.hparams, rollout.on_host
        obs = self.normalize(rollout.observations)  # (steps, envs, obs_dim)
        rewards = rollout.rewards * h["reward_scale"]
        returns: Tensor | None = None
        if self.value is None:
            valid = is_complete(host.done, host.valid)
            advantages = rewards_to_go(rewards, rollout.done, rollout.valid, h["gamma"])
        else:
            valid = host.valid
            values = self.value(obs)  # (steps, envs)
            last_values, final_values = (self.value(self.normalize(x)) for x in (rollout.next_obs, rollout.final_obs))
            advantages = generalized_advantage_estimate(
                rewards,
                values,
                next_values(values, last_values, rollout.final_obs_index, final_values),
                rollout.terminated,
                rollout.truncated,
                rollout.valid,
                h["gamma"],
                h["gae_lambda"],
            )
            returns = (advantages + values).flatten()
        batch = Transitions(
            obs.flatten(0, 1),
            rollout.actions.flatten(0, 1),
            None if rollout.action_masks is None else rollout.action_masks.flatten(0, 1),
            advantages.flatten(),
            None,
            returns,
        )[valid.flatten().nonzero().squeeze(1).to(obs.device, non_blocking=True)]
        if h["normalize_advantages"]:
            batch.advantages = self.normalize_advantages(batch.advantages)
        if h["clip_coef"]:
            batch.old_log_probs = self.policy(batch.observations, batch.actions, batch.action_masks)[0]
        return batch, valid

    def normalize(self, observations: Tensor) -> Tensor:
        """Observations (..., obs_dim) as the networks take them."""
        return observations if self.obs_rms is None else self.obs_rms(observations)

    def normalize_advantages(self, advantages: Tensor) -> Tensor:
        """Advantages (n,) with mean 0 and variance 1 over all processes."""
        wide = to_float64(advantages)
        sums = torch.stack([wide.new_full((), len(wide)), wide.sum(), wide.square().sum()])
        count, total, squares = (self.gather(sums).to(wide) if self.is_distributed else sums[None]).sum(0)
        mean = total / count.clamp(min=1)
        std = (squares / count.clamp(min=1) - mean.square()).clamp(min=0).sqrt()
        return ((wide - mean) / (std + 1e-8)).to(advantages)

    @property
    def is_distributed(self) -> bool:
        """Whether there are several processes."""
        trainer = attached_trainer(self)
        return trainer is not None and trainer.world_size > 1

    def gather(self, values: Tensor) -> Tensor:
        """`values` of every process, (world_size, ...), on the CPU."""
        if not self.is_distributed:
            return values.cpu()[None]
        return cast(Tensor, self.trainer.strategy.all_gather(values.to(self.device))).cpu()

    def note_no_returns(self, num_steps: int) -> None:
        """Prints, once in a training, that a rollout had nothing to learn from."""
        if not self.noted_no_returns:
            print_rank_zero(f"NOTE: {NO_RETURNS.format(num_steps)}")
        self.noted_no_returns = True

    @torch.no_grad()
    def log_update(self, rollout: Rollout, batch: Transitions, metrics: dict[str, Tensor]) -> None:
        """Logs this process's metrics: of the episodes that ended, of the last minibatch, and of the value network.

        Where no episode ended, or nothing was learned, there is nothing to log of it.
        """
        metrics = {name: value.mean() for name, value in metrics.items() if value.numel()}  # an empty minibatch has none
        if self.value is None:
            metrics["complete_fraction"] = len(batch) / rollout.valid.sum().clamp(min=1)
        if len(rollout.episode_returns):
            metrics["return_mean"] = rollout.episode_returns.mean()
            metrics["episode_length"] = rollout.episode_lengths.float().mean()
        if self.value is not None and batch.returns is not None:
            metrics["explained_variance"] = explained_variance(self.value(batch.observations), batch.returns)
        metrics = {f"train/{name}": value for name, value in metrics.items()}
        discard_metrics(self.trainer, self.logged - metrics.keys())
        self.log_dict(metrics)
        self.logged = set(metrics)

    def configure_optimizers(self) -> Any:
        """Adam, and its learning rate for each rollout; `training_step` steps both."""
        h = self.hparams
        steps = training_steps(self.trainer) if h["schedule"] == "linear" else 0
        optimizer = torch.optim.Adam(self.parameters(), h["lr"], eps=1e-5, fused=True)
        return [optimizer], [LambdaLR(optimizer, lambda step: lr_factor(step, steps, h["schedule"]))]

    # ---- evaluation

    def validation_step(self, episodes: EpisodeStats, batch_idx: int) -> None:
        self.eval_returns.update(episodes.returns)
        self.eval_lengths.update(episodes.lengths)

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Logs the metrics of all episodes, and stops the training if the environment is solved."""
        mean = self.log_episodes("val")
        self.log("val/environment_steps", float(self.environment_steps), sync_dist=True)
        if not self.trainer.sanity_checking:
            self.val_return = mean
            self.stop_if_solved()

    def on_train_start(self) -> None:
        """Stops a training that is resumed, and had reached the reward threshold."""
        self.stop_if_solved()

    def stop_if_solved(self) -> None:
        """Stops the training if the last validation has reached the reward threshold."""
        mean, threshold = self.val_return, self.hparams["reward_threshold"]
        if mean is not None and threshold is not None and mean >= threshold:
            self.trainer.should_stop = True
            self.stop_reason = f"the mean validation return {mean:.5g} reaches the reward threshold {threshold:g}"

    def on_test_epoch_end(self) -> None:
        self.log_episodes("test")

    def log_episodes(self, split: str) -> float:
        """Logs the metrics of the episodes of all processes; returns their mean return."""
        metrics = episode_metrics(self.eval_returns.compute(), self.eval_lengths.compute())
        self.eval_returns.reset()
        self.eval_lengths.reset()
        for name, value in metrics.items():
            self.log(f"{split}/{name}", value, prog_bar=name == "return_mean", sync_dist=True)  # the same everywhere
        return metrics["return_mean"]

    # ---- debugging

    def compute_loss(self, rollout: Rollout) -> Tensor:
        """Mean loss of a rollout as a function of all weights; its advantages and returns stay those of the first call.

        Raises UserError if there is nothing in it to learn from.
        """
        if self.debug_batch is None or self.debug_batch[0] is not rollout:
            self.debug_batch = rollout, self.compute_advantages(rollout)[0]
        if not len(self.debug_batch[1]):
            raise UserError(NO_RETURNS.format(len(rollout.rewards)))
        return self.ppo_losses(self.debug_batch[1])[0].mean()

    def prepare_overfit(self) -> None:
        """For `--debug overfit`: a policy gradient loss has no minimum, so that fixed targets are memorized instead."""
        self.overfit = True

    def supervised_targets(self, rollout: Rollout) -> tuple[Transitions, Tensor]:
        """Like `compute_advantages`: actions to imitate, as their advantages are 1, and returns without a value network.

        The transitions are few and evenly spaced: neighbors are too much alike to be memorized apart.
        """
        n = int(rollout.valid.sum())
        index = torch.linspace(0, n - 1, min(n, OVERFIT_TRANSITIONS)).long()
        obs, actions = self.normalize(rollout.observations)[rollout.valid][index], rollout.actions[rollout.valid][index]
        masks = None if rollout.action_masks is None else rollout.action_masks[rollout.valid][index]
        returns = rewards_to_go(rollout.rewards, rollout.done, rollout.valid, self.hparams["gamma"])[rollout.valid][index]
        returns = (returns - returns.mean()) / (returns.std() + 1e-8)
        return Transitions(obs, actions, masks, torch.ones_like(returns), None, returns), torch.ones(len(index), 1).bool()

    # ---- checkpoints

    def on_train_end(self) -> None:
        """Records the number of environment steps."""
        self.metadata["environment_steps"] = self.environment_steps

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the environment, which the policy is played in, and the return of the last validation."""
        env_info = self.trainer.datamodule.env_info  # type: ignore[attr-defined]
        checkpoint["environment"] = {"id": env_info.id, "kwargs": plain(env_info.kwargs), "steps": self.environment_steps}
        checkpoint["val_return"] = self.val_return

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the number of environment steps, and the return of the last validation."""
        self.val_return = checkpoint.get("val_return")
        self.environment_steps = checkpoint.get("environment", {}).get("steps", 0)
