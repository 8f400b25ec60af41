"""Policy gradient compared to stable-baselines3 and to a plain PyTorch loop, alternately in one process.

`python -m benchmarks.policy_gradient` writes `results/policy_gradient-benchmark.json`:

1. environment steps per second of whole training runs on CartPole-v1 and LunarLander-v3, and of A2C: the same networks and
   number of environments, one optimizer step per rollout; our rollouts of 128 steps, and of 5 as A2C's;
2. training time until 20 evaluation episodes of CartPole-v1 have a mean return of 475: the default recipe, and PPO with the
   settings of RL Baselines3 Zoo; the time of the evaluations is subtracted on both sides;
3. a training step of a Trainer run with all its callbacks and loggers, and a plain loop of the same rollouts and updates.

Needs the extras `bench` and `box2d`. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from benchmarks.plain_loop import PlainLoopCallback, train
from benchmarks.results import write_result
from benchmarks.timing import interleave, speedup
from common.cli.command import OneLineParser, positive
from common.nn.device import device_name
from projects.policy_gradient.actor import StochasticActor, sample_noise
from projects.policy_gradient.environments import EnvInfo, inspect_env, make_env, make_vec_env
from projects.policy_gradient.metrics import evaluate_policy
from projects.policy_gradient.minibatches import minibatch_indices
from projects.policy_gradient.module import PolicyGradientModule
from projects.policy_gradient.rollout import Collector, Policy
from projects.policy_gradient.train import PROJECT

RECIPES = PROJECT.folder / "recipes"
RUN_FLAGS = ["--accelerator", "cpu", "--checkpoint_every", "0"]
NUM_ENVS = 8  # of the zoo's A2C in both environments
HIDDEN_DIMS = [64, 64]  # stable-baselines3's own, for policy and value network each
TARGET_RETURN = 475.0
EVAL_EPISODES = 20
EVAL_INTERVAL = 2048  # environment steps between two evaluations
A2C_STEPS = 5  # in its rollout
PPO_MAX_STEPS = 100_000  # environment steps of the zoo's PPO
WARMUP_STEPS = 5

# A2C's update: one optimizer step per rollout
A2C_UPDATE = [
    "--model.update_epochs",
    "1",
    "--model.num_minibatches",
    "1",
    "--model.clip_coef",
    "0",
    "--model.gae_lambda",
    "1",
]


class TrainingClock(Callback):
    """Duration of the training and its environment steps."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.start = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds = time.perf_counter() - self.start
        assert isinstance(pl_module, PolicyGradientModule)
        self.steps = pl_module.environment_steps


# ---- steps per second


def steps_per_second(env_id: str, recipe: str, repeats: int) -> dict[str, Any]:
    """Environment steps per second of training on each side, and speedups."""
    from stable_baselines3 import A2C
    from stable_baselines3.common.env_util import make_vec_env as make_sb3_env

    def ours(num_steps: int, rollouts: int) -> Callable[[], float]:
        def seconds_per_step() -> float:
            clock = TrainingClock()
            flags = ["--config", str(RECIPES / recipe), "--max_epochs", "1", "--model.hidden_dims", str(HIDDEN_DIMS)]
            flags += ["--data.num_envs", str(NUM_ENVS), "--data.num_steps", str(num_steps)]
            train(PROJECT, [*flags, "--data.rollouts_per_epoch", str(rollouts), *A2C_UPDATE, *RUN_FLAGS], clock)
            return clock.seconds / clock.steps

        return seconds_per_step

    def theirs() -> float:
        envs = make_sb3_env(env_id, NUM_ENVS, seed=0)
        agent = A2C("MlpPolicy", envs, device="cpu", seed=0, policy_kwargs={"net_arch": HIDDEN_DIMS})
        start = time.perf_counter()
        agent.learn(12_000)
        seconds = time.perf_counter() - start
        envs.close()
        return seconds / agent.num_timesteps

    long, short, a2c = interleave([ours(128, 40), ours(A2C_STEPS, 200), theirs], repeats)
    return {
        "num_envs": NUM_ENVS,
        "hidden_dims": HIDDEN_DIMS,
        "repeats": repeats,
        "ours": 1 / statistics.median(long),
        "ours_short": 1 / statistics.median(short),
        "a2c": 1 / statistics.median(a2c),
        "ratio": speedup(long, a2c),
        "short_ratio": speedup(short, a2c),
    }


# ---- time to a mean return of 475


class PeriodicEvaluation:
    """Evaluation of a CartPole-v1 policy every `EVAL_INTERVAL` environment steps, whose time is subtracted."""

    def __init__(self) -> None:
        self.env_info = inspect_env("CartPole-v1")
        self.envs = [make_env(self.env_info) for _ in range(EVAL_EPISODES)]
        self.start = time.perf_counter()
        self.eval_seconds, self.last_steps = 0.0, 0
        self.solved_after: tuple[float, int] | None = None  # seconds of training, environment steps

    def is_solved(self, policy: Policy, steps: int) -> bool:
        """Whether the policy after `steps` environment steps reaches the target; evaluates it if that is due."""
        if steps - self.last_steps < EVAL_INTERVAL:
            return False
        now, self.last_steps = time.perf_counter(), steps
        episodes = evaluate_policy(self.envs, self.env_info, policy, list(range(EVAL_EPISODES)))
        if float(episodes.returns.mean()) >= TARGET_RETURN:
            self.solved_after = now - self.start - self.eval_seconds, steps
        self.eval_seconds += time.perf_counter() - now
        return self.solved_after is not None


class StopWhenSolved(Callback):
    """Evaluates the module's policy after each rollout, and stops the training at the target."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.evaluation = PeriodicEvaluation()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, PolicyGradientModule)
        if self.evaluation.is_solved(pl_module.actor(), pl_module.environment_steps):
            trainer.should_stop = True


def train_ours(seed: int) -> PeriodicEvaluation:
    """Trains the default recipe until the target."""
    callback = StopWhenSolved()
    train(PROJECT, ["--config", str(RECIPES / "default.yaml"), "--seed", str(seed), *RUN_FLAGS], callback)
    return callback.evaluation


def train_ppo(seed: int) -> PeriodicEvaluation:
    """Trains stable-baselines3's PPO with the zoo's settings for CartPole-v1 until the target."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env as make_sb3_env

    class StopPPOWhenSolved(BaseCallback):
        """As `StopWhenSolved`."""

        def _on_training_start(self) -> None:
            self.evaluation = PeriodicEvaluation()

        def _on_rollout_start(self) -> None:  # after the update from the previous rollout
            policy = self.model.policy
            self.solved = self.evaluation.is_solved(
                lambda observations, _: policy.predict(observations, deterministic=True)[0], self.num_timesteps
            )

        def _on_step(self) -> bool:
            return not self.solved

    agent = PPO(
        "MlpPolicy",
        make_sb3_env("CartPole-v1", 8, seed=seed),
        n_steps=32,
        batch_size=256,
        n_epochs=20,
        gamma=0.98,
        gae_lambda=0.8,
        ent_coef=0.0,
        learning_rate=lambda remaining: 0.001 * remaining,
        clip_range=lambda remaining: 0.2 * remaining,
        device="cpu",
        seed=seed,
    )
    callback = StopPPOWhenSolved()
    agent.learn(PPO_MAX_STEPS, callback=callback)
    return callback.evaluation


def time_to_target(seeds: int) -> dict[str, Any]:
    """Training time and environment steps until the target, seed by seed."""
    sides: dict[str, list[PeriodicEvaluation]] = {"ours": [], "ppo": []}
    train_ours(1000), train_ppo(1000)  # warm-up
    for seed in range(seeds):
        sides["ours"].append(train_ours(seed))
        sides["ppo"].append(train_ppo(seed))
    result: dict[str, Any] = {"target": TARGET_RETURN, "seeds": seeds}
    for name, evaluations in sides.items():
        solved = [evaluation.solved_after for evaluation in evaluations if evaluation.solved_after is not None]
        result[name] = {
            "reached": len(solved),
            "seconds": [seconds for seconds, _ in solved],
            "environment_steps": [steps for _, steps in solved],
            "median_seconds": statistics.median(seconds for seconds, _ in solved),
        }
    result["ratio"] = result["ppo"]["median_seconds"] / result["ours"]["median_seconds"]
    return result


# ---- overhead of the Trainer


class PolicyGradientPlainLoop(PlainLoopCallback):
    """Plain loop with its own environments, networks and optimizer; a step is a rollout and the PPO update from it."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, PolicyGradientModule)
        data = trainer.datamodule  # type: ignore[attr-defined]
        self.num_steps: int = data.num_steps
        self.env_info: EnvInfo = data.env_info
        self.collector = Collector(make_vec_env(self.env_info, data.num_envs), self.env_info)
        self.collector.reset(0)
        self.module = copy.deepcopy(pl_module)
        self.parameters = list(self.module.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, pl_module.hparams["lr"], eps=1e-5, fused=True)
        self.generator = torch.Generator().manual_seed(0)

    def plain_step(self, device: torch.device) -> None:
        h, num_envs, env_info = self.module.hparams, self.collector.envs.num_envs, self.env_info
        noise = sample_noise(self.num_steps, num_envs, env_info.action_dim, env_info.discrete, self.generator)
        rollout = self.collector.collect(StochasticActor(self.module.actor(), noise), self.num_steps)
        batch, valid = self.module.compute_advantages(rollout)
        for _ in range(h["update_epochs"]):
            for index, _ in minibatch_indices(valid[None], h["num_minibatches"], self.generator):
                losses, _ = self.module.ppo_losses(batch[index])
                self.optimizer.zero_grad()
                losses.mean().backward()
                torch.nn.utils.clip_grad_norm_(self.parameters, h["max_grad_norm"])
                self.optimizer.step()


def step_overhead(rollouts: int) -> dict[str, float]:
    """Training step of the Trainer and of the plain loop, with the default recipe."""
    callback = PolicyGradientPlainLoop(WARMUP_STEPS)
    flags = ["--config", str(RECIPES / "default.yaml"), "--max_steps", str(rollouts), "--max_epochs", "-1"]
    train(PROJECT, [*flags, *RUN_FLAGS], callback)
    return callback.result()


def main() -> None:
    """Measures and writes the result."""
    parser = OneLineParser(description="Policy gradient compared to stable-baselines3 and to a plain loop.")
    parser.add_argument("--repeats", type=positive, default=5, help="Training runs of each side for steps per second.")
    parser.add_argument("--seeds", type=positive, default=5, help="Seeds of the time to a mean return of 475.")
    parser.add_argument("--rollouts", type=positive, default=300, help="Rollouts of the Trainer and of the plain loop.")
    arguments = parser.parse_args()
    import gymnasium
    import stable_baselines3

    np.random.seed(0)
    result = {
        "device": device_name(torch.device("cpu")),
        "packages": {"gymnasium": gymnasium.__version__, "stable-baselines3": stable_baselines3.__version__},
        "cartpole": steps_per_second("CartPole-v1", "default.yaml", arguments.repeats),
        "lunarlander": steps_per_second("LunarLander-v3", "lunarlander.yaml", arguments.repeats),
        "time_to_475": time_to_target(arguments.seeds),
        "loop": step_overhead(arguments.rollouts),
    }
    print(write_result("policy_gradient-benchmark", result))


if __name__ == "__main__":
    main()
