"""Our policy gradient beside stable-baselines3, and our Lightning loop beside a plain one.

`python -m benchmarks.policy_gradient` measures, and writes `results/policy_gradient-benchmark.json`:

1. environment steps a second of whole trainings on CartPole-v1 and LunarLander-v3 against A2C: the same networks, number of
   environments and kind of update, one step of the optimizer from each rollout; ours of 128 steps, and of A2C's own 5;
2. seconds of training until 20 evaluation episodes of CartPole-v1 average 475: our default recipe against PPO with the
   settings of RL Baselines3 Zoo, with the time of evaluating left out on both sides;
3. the step of a Trainer run, with every callback and logger that `train` has, against a plain loop of the same rollouts
   and updates.

Both sides take turns in one process. Needs the extras `bench` and `box2d`. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from benchmarks.results import write_result
from benchmarks.timing import interleave, ratio
from benchmarks.twin import Twin
from common.cli.parser import CapstoneCLI
from common.nn.device import device_name
from common.run.run import run
from projects.policy_gradient.acting import Sampler, draw_noise
from projects.policy_gradient.advantages import following_values, generalized_advantages
from projects.policy_gradient.environments import Task, inspect, make_single, make_vector
from projects.policy_gradient.evaluation import play_episodes
from projects.policy_gradient.losses import clipped_policy_loss
from projects.policy_gradient.module import PolicyGradientModule
from projects.policy_gradient.rollout import Collector, Policy, Rollout
from projects.policy_gradient.samples import Samples
from projects.policy_gradient.train import PROJECT

RECIPES = Path(__file__).parents[1] / "projects" / "policy_gradient" / "recipes"
ENVS = 8  # of the zoo's A2C on both tasks
HIDDEN = [64, 64]  # stable-baselines3's own, for policy and value network each
TARGET = 475.0
EVALUATION_EPISODES = 20
EVALUATION_STEPS = 2048  # of the environments, between two evaluations
A2C_STEPS = 5  # in its rollout
LONGEST = 100_000  # environment steps of the zoo's PPO
WARMUP = 5

# an update of A2C's kind: one step of the optimizer from each rollout
ONE_STEP = ["--model.passes", "1", "--model.minibatches", "1", "--model.clip_ratio", "0", "--model.gae_lambda", "1"]


class Clock(Callback):
    """Time from the start of training to its end, and the environment steps in between."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts."""
        self.began = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops."""
        self.seconds = time.perf_counter() - self.began
        data = trainer.datamodule  # type: ignore[attr-defined]
        self.steps = trainer.global_step * data.steps * data.envs


def train(flags: list[str], callback: Callback) -> None:
    """A training run in a folder that is then deleted, without validation and test."""
    flags = [*flags, "--accelerator", "cpu", "--name", "benchmark", "--checkpoint_every", "0"]
    flags += ["--trainer.limit_val_batches", "0", "--trainer.limit_test_batches", "0"]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        run(CapstoneCLI(PROJECT, flags), extra_callbacks=[callback])


# ---- steps a second


def steps_per_second(source: str, recipe: str, rounds: int) -> dict[str, Any]:
    """Environment steps a second of each side's trainings, in turn."""
    from stable_baselines3 import A2C
    from stable_baselines3.common.env_util import make_vec_env

    config = ["--config", str(RECIPES / recipe)]

    def ours(steps: int, rollouts: int) -> Callable[[], float]:
        def measure() -> float:
            clock = Clock()
            size = ["--data.envs", str(ENVS), "--data.steps", str(steps), "--data.rollouts", str(rollouts)]
            train([*config, *size, "--model.hidden", str(HIDDEN), *ONE_STEP, "--max_epochs", "1"], clock)
            return clock.seconds / clock.steps

        return measure

    def theirs() -> float:
        envs = make_vec_env(source, ENVS, seed=0)
        agent = A2C("MlpPolicy", envs, device="cpu", seed=0, policy_kwargs={"net_arch": HIDDEN})
        began = time.perf_counter()
        agent.learn(12_000)
        seconds = time.perf_counter() - began
        envs.close()
        return seconds / agent.num_timesteps

    a, b, c = interleave([ours(128, 40), ours(A2C_STEPS, 200), theirs], rounds)
    return {
        "envs": ENVS,
        "hidden": HIDDEN,
        "rounds": rounds,
        "ours": 1 / statistics.median(a),
        "ours_short": 1 / statistics.median(b),
        "a2c": 1 / statistics.median(c),
        "ratio": ratio(a, c),
        "short_ratio": ratio(b, c),
    }


# ---- time to 475


class Judge:
    """Evaluates a policy for CartPole-v1 every so many environment steps, off the clock."""

    def __init__(self) -> None:
        self.task = inspect("CartPole-v1")
        self.envs = [make_single(self.task) for _ in range(EVALUATION_EPISODES)]
        self.began = time.perf_counter()
        self.judged, self.steps = 0.0, 0
        self.solved_after: tuple[float, int] | None = None  # seconds of training, environment steps

    def look(self, policy: Policy, steps: int) -> bool:
        """Whether the policy after `steps` environment steps reaches the target; evaluates if it is time to."""
        if steps - self.steps < EVALUATION_STEPS:
            return False
        now, self.steps = time.perf_counter(), steps
        episodes = play_episodes(self.envs, self.task, policy, list(range(EVALUATION_EPISODES)))
        if float(episodes.returns.mean()) >= TARGET:
            self.solved_after = now - self.began - self.judged, steps
        self.judged += time.perf_counter() - now
        return self.solved_after is not None


class Judged(Callback):
    """Shows our agent to a judge after every rollout."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the judge's clock."""
        self.judge = Judge()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stops the training once the target is reached."""
        assert isinstance(pl_module, PolicyGradientModule)
        if self.judge.look(pl_module.actor(), trainer.global_step * batch.num_samples):
            trainer.should_stop = True


def our_time_to_target(seed: int) -> Judge:
    """Trains with the default recipe."""
    callback = Judged()
    train(["--config", str(RECIPES / "default.yaml"), "--seed", str(seed)], callback)
    return callback.judge


def ppo_time_to_target(seed: int) -> Judge:
    """Trains stable-baselines3's PPO with the zoo's settings for CartPole-v1."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env

    class Look(BaseCallback):
        def _on_training_start(self) -> None:
            self.judge = Judge()

        def _on_rollout_start(self) -> None:  # after the update from the rollout before
            policy = self.model.policy
            self.over = self.judge.look(lambda seen, _: policy.predict(seen, deterministic=True)[0], self.num_timesteps)

        def _on_step(self) -> bool:
            return not self.over

    agent = PPO(
        "MlpPolicy",
        make_vec_env("CartPole-v1", 8, seed=seed),
        n_steps=32,
        batch_size=256,
        n_epochs=20,
        gamma=0.98,
        gae_lambda=0.8,
        ent_coef=0.0,
        learning_rate=lambda left: 0.001 * left,
        clip_range=lambda left: 0.2 * left,
        device="cpu",
        seed=seed,
    )
    look = Look()
    agent.learn(LONGEST, callback=look)
    return look.judge


def time_to_target(seeds: int) -> dict[str, Any]:
    """Seconds and environment steps until the target, seed by seed and in turn."""
    sides: dict[str, list[Judge]] = {"ours": [], "ppo": []}
    our_time_to_target(1000), ppo_time_to_target(1000)  # warm-up
    for seed in range(seeds):
        sides["ours"].append(our_time_to_target(seed))
        sides["ppo"].append(ppo_time_to_target(seed))
    figures: dict[str, Any] = {"target": TARGET, "seeds": seeds}
    for name, judges in sides.items():
        reached = [judge.solved_after for judge in judges if judge.solved_after is not None]
        figures[name] = {
            "reached": len(reached),
            "seconds": [seconds for seconds, _ in reached],
            "environment_steps": [steps for _, steps in reached],
            "median_seconds": statistics.median(seconds for seconds, _ in reached),
        }
    figures["ratio"] = figures["ppo"]["median_seconds"] / figures["ours"]["median_seconds"]
    return figures


# ---- the Lightning loop


class PlainTwin(Twin):
    """A plain loop with its own environments, networks and optimizer; a step is a rollout and what is learned from it."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Builds the twin."""
        assert isinstance(pl_module, PolicyGradientModule) and pl_module.value is not None and pl_module.scale is None
        data = trainer.datamodule  # type: ignore[attr-defined]
        self.h, self.steps = pl_module.hparams, data.steps
        self.task: Task = data.task
        self.collector = Collector(make_vector(self.task, data.envs), self.task)
        self.collector.reset(0)
        self.net = copy.deepcopy(pl_module)
        self.parameters = list(self.net.parameters())
        self.adam = torch.optim.Adam(self.parameters, self.h["lr"], eps=1e-5, fused=True)
        self.generator = torch.Generator().manual_seed(0)

    def plain_step(self, device: torch.device) -> None:
        """What people write by hand: a rollout, its advantages, and clipped steps from random parts of it."""
        h, envs = self.h, self.collector.envs.num_envs
        noise = draw_noise(self.steps, envs, self.task.action_size, self.task.discrete, self.generator)
        rollout = self.collector.collect(Sampler(self.net.actor(), noise), self.steps)
        samples = self.samples_of(rollout)
        for _ in range(h["passes"]):
            for index in torch.randperm(len(samples), generator=self.generator).chunk(h["minibatches"]):
                part = samples[index]
                log_probs, entropy = self.net.policy(part.observations, part.actions)
                loss = clipped_policy_loss(log_probs, part.old_log_probs, part.advantages, h["clip_ratio"])
                loss = loss + h["value_weight"] * (self.net.value(part.observations) - part.targets).square()
                loss = loss - h["entropy"] * entropy
                self.adam.zero_grad()
                loss.mean().backward()
                torch.nn.utils.clip_grad_norm_(self.parameters, h["clip_norm"])
                self.adam.step()

    @torch.no_grad()
    def samples_of(self, rollout: Rollout) -> Samples:
        """What is learned from."""
        seen = rollout.observations
        values = self.net.value(seen)
        following = following_values(values, self.net.value(rollout.last_observations), rollout.ends, torch.empty(0))
        flags = rollout.terminated, rollout.truncated, rollout.valid
        rewards = rollout.rewards * self.h["reward_scale"]
        found = generalized_advantages(rewards, values, following, *flags, self.h["discount"], self.h["gae_lambda"])
        advantages = found[rollout.valid]
        targets = advantages + values[rollout.valid]
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        observations, actions = seen[rollout.valid], rollout.actions[rollout.valid]
        return Samples(observations, actions, None, advantages, self.net.policy(observations, actions)[0], targets)


def loop_overhead(rollouts: int) -> dict[str, Any]:
    """The median step of the Trainer against the twin's, of the default recipe."""
    twin = PlainTwin(WARMUP)
    train(["--config", str(RECIPES / "default.yaml"), "--max_steps", str(rollouts), "--max_epochs", "-1"], twin)
    return twin.figures()


def main() -> None:
    """Measures everything and writes the result."""
    import gymnasium
    import stable_baselines3

    parser = argparse.ArgumentParser(description="Measure our policy gradient beside stable-baselines3.")
    parser.add_argument("--rounds", type=int, default=5, help="of steps a second, after a first one that is left out")
    parser.add_argument("--seeds", type=int, default=5, help="of the time to 475")
    parser.add_argument("--rollouts", type=int, default=300, help="timed one by one beside a plain loop's")
    arguments = parser.parse_args()
    np.random.seed(0)
    figures = {
        "device": device_name(torch.device("cpu")),
        "packages": {"gymnasium": gymnasium.__version__, "stable-baselines3": stable_baselines3.__version__},
        "cartpole": steps_per_second("CartPole-v1", "default.yaml", arguments.rounds),
        "lunarlander": steps_per_second("LunarLander-v3", "lunarlander.yaml", arguments.rounds),
        "time_to_475": time_to_target(arguments.seeds),
        "loop": loop_overhead(arguments.rollouts),
    }
    print(write_result("policy_gradient-benchmark", figures))


if __name__ == "__main__":
    main()
