"""On-policy data: any environment becomes rollouts and evaluation episodes, or one line says what is missing."""

from __future__ import annotations

import re
import sys
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

from common.errors import UserError
from projects.policy_gradient import environments
from projects.policy_gradient.data import EVAL_SPLITS, EvaluationLoader, PolicyGradientData
from projects.policy_gradient.environments import inspect_env, make_env, make_vec_env
from projects.policy_gradient.metrics import evaluate_policy
from projects.policy_gradient.module import PolicyGradientModule
from projects.policy_gradient.seeding import EVALUATION, derive_seed

TAXI = max(id for id in gym.registry if id.startswith("Taxi-"))  # it has action masks


def with_module(data: PolicyGradientData, rank: int = 0, world_size: int = 1, **options) -> PolicyGradientModule:
    """Attaches a policy and a rank to `data`, as a trainer would."""
    torch.manual_seed(3)
    module = PolicyGradientModule(data.obs_dim, data.action_dim, data.discrete, hidden_dims=[8], **options)
    loop = SimpleNamespace(
        epoch_progress=SimpleNamespace(current=SimpleNamespace(processed=0)),
        epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(current=SimpleNamespace(ready=0))),
    )
    data.trainer = SimpleNamespace(
        global_rank=rank,
        world_size=world_size,
        lightning_module=module,
        fit_loop=loop,
        num_training_batches=data.rollouts_per_epoch,
    )
    return module


@pytest.mark.parametrize(
    ("id", "kwargs", "dims", "flatten", "discrete", "reward_threshold"),
    [
        ("CartPole-v1", {}, (4, 2), False, True, 475.0),
        ("Acrobot-v1", {}, (6, 3), False, True, -100.0),
        ("Pendulum-v1", {"g": 9.0}, (3, 1), False, False, None),
        ("FrozenLake-v1", {"is_slippery": False}, (16, 4), True, True, 0.7),
        (TAXI, {}, (500, 6), True, True, 8.0),
        ("scripted_environment:Scripted-v0", {"continuous": True}, (3, 2), False, False, None),
        ("Nested-v0", {}, (5, 2), True, True, None),
    ],
)
def test_spaces_of_any_environment(id, kwargs, dims, flatten, discrete, reward_threshold):
    env_info = inspect_env(id, kwargs)
    assert (env_info.obs_dim, env_info.action_dim) == dims
    assert (env_info.flatten, env_info.discrete, env_info.reward_threshold) == (flatten, discrete, reward_threshold)
    assert env_info.has_action_masks == (id == TAXI)


@pytest.mark.parametrize(
    ("source", "option", "threshold"),
    [
        ("CartPole-v1", {"CartPole-v1": 500.0}, 500.0),
        ("Acrobot-v1", {"CartPole-v1": 500.0}, -100.0),  # its own
        ("Scripted-v0", {"CartPole-v1": 500.0}, None),
        ("CartPole-v1", None, 475.0),
        ("Scripted-v0", 3.0, 3.0),
    ],
)
def test_a_recipes_reward_threshold_is_for_its_environment(source, option, threshold):
    assert PolicyGradientData(source, reward_threshold=option).reward_threshold == threshold


@pytest.mark.parametrize("id", [TAXI, "Nested-v0", "FrozenLake-v1"])
def test_observations_are_flattened_and_action_masks_kept(id):
    data = PolicyGradientData(id, num_envs=3, num_steps=40, rollouts_per_epoch=1)
    module = with_module(data)
    (rollout,) = data.train_dataloader()
    assert rollout.observations.shape == (40, 3, module.hparams["obs_dim"])
    if id == TAXI:
        assert not rollout.action_masks.all()
        assert rollout.action_masks.gather(2, rollout.actions[..., None]).all(), "no invalid action is taken"
    module.compute_loss(rollout).backward()


def test_actions_are_rescaled_clipped_and_counted_from_the_first():
    pendulum = inspect_env("Pendulum-v1")
    actions = np.array([[0.0], [0.25], [1.0], [-7.0]], np.float32)
    assert pendulum.to_env(actions).tolist() == [[0.0], [0.5], [2.0], [-2.0]]
    continuous = inspect_env("Scripted-v0", {"continuous": True})
    assert continuous.to_env(np.array([[0.0, -1.0], [5.0, 0.5]], np.float32)).tolist() == [[2.0, 1.0], [3.0, 2.5]]
    assert inspect_env("Scripted-v0").to_env(np.array([0, 2])).tolist() == [5, 7]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_bound_of_a_types_largest_number_is_none(dtype):
    largest = float(np.finfo(dtype).max)
    for bound in {largest, float(np.inf), min(largest, float(np.finfo(np.float32).max))}:
        actions = inspect_env("Huge-v0", {"bound": bound, "dtype": dtype}).to_env(np.array([[0.5, -3.0]], np.float32))
        assert actions.tolist() == [[0.5, -3.0]]
    large = inspect_env("Huge-v0", {"bound": 60_000.0, "dtype": dtype}).to_env(np.array([[0.5, -3.0]], np.float32))
    assert large.tolist() == [[30_000.0, -60_000.0]]


@pytest.mark.parametrize(
    ("id", "kwargs", "line"),
    [
        ("CartPole-v7", {}, "--data.source CartPole-v7: Environment version `v7` for environment `CartPole` doesn't exist"),
        ("NoSuchThing-v0", {}, "--data.source NoSuchThing-v0: Environment `NoSuchThing` doesn't exist"),
        ("no/where/at/all", {}, "no/where/at/all: "),
        ("no_such_module:Thing-v0", {}, "no_such_module"),
        ("CartPole-v1", {"gravitas": 3}, "gravitas"),
        ("Switches-v0", {}, "actions of kind MultiBinary; use discrete (Discrete) or continuous ones (Box of a float type)"),
        ("Levels-v0", {}, "actions of a Box of integers; use discrete (Discrete) or continuous ones (Box of a float type)"),
        ("Letters-v0", {}, "observations of kind Sequence cannot be flattened"),
    ],
)
def test_an_environment_that_cannot_be_used_is_named(id, kwargs, line):
    with pytest.raises(UserError) as error:
        inspect_env(id, kwargs)
    assert line in str(error.value) and "\n" not in str(error.value)


def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "Box2D", None)
    for name in [name for name in sys.modules if name.startswith("gymnasium.envs.box2d")]:
        monkeypatch.delitem(sys.modules, name)
    line = '--data.source LunarLander-v3: run `pip install "lightning-capstones[box2d]"`'
    with pytest.raises(UserError, match=re.escape(line)):
        inspect_env("LunarLander-v3")


@pytest.mark.parametrize("autoreset", ["next_step", "same_step"])
def test_rollouts_follow_from_seed_epoch_and_rank_alone(autoreset):
    first_obs = {}
    for seed, epoch, rank in [(0, 0, 0), (0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]:
        data = PolicyGradientData(num_envs=2, num_steps=10, rollouts_per_epoch=1, autoreset=autoreset)
        with_module(data, rank, 2)
        data.seed = seed
        data.trainer.fit_loop.epoch_progress.current.processed = epoch
        (rollout,) = data.train_dataloader()
        rollouts = first_obs.setdefault((seed, epoch, rank), [])
        rollouts.append(rollout.observations)
    repeated = first_obs.pop((0, 0, 0))
    assert torch.equal(*repeated)
    for other in first_obs.values():
        assert not (other[0][0] == repeated[0][0]).any()


def test_episodes_go_on_across_epochs():
    data = PolicyGradientData(num_envs=2, num_steps=4, rollouts_per_epoch=2)
    with_module(data)
    first = list(data.train_dataloader())
    data.trainer.fit_loop.epoch_progress.current.processed = 1
    second = next(iter(data.train_dataloader()))
    assert torch.equal(first[-1].next_obs, second.observations[0])


def test_without_a_value_network_every_rollout_begins_with_episodes_of_its_own():
    data = PolicyGradientData("Reusing-v0", num_envs=2, num_steps=4, rollouts_per_epoch=3)
    with_module(data, baseline=False, gae_lambda=1.0)
    assert [rollout.observations[0].tolist() for rollout in data.train_dataloader()] == [[[0.0], [0.0]]] * 3


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({}, None),
        ({"num_envs": 3}, "--data.num_envs is 3, and 2 in the checkpoint"),
        ({"autoreset": "same_step"}, "--data.autoreset is same_step, and next_step in the checkpoint"),
        ({"world_size": 2}, "--devices is 2, and 1 in the checkpoint"),
        ({"state": {}}, "the checkpoint has no action history"),
        ({"env_kwargs": {"seeded": False}}, "Scripted-v0 is not deterministic given its seed and actions"),
    ],
)
def test_a_resumed_run_goes_on_with_its_episodes_or_says_why_new_ones_begin(capsys, options, line):
    def epoch(number, world_size=1, state=None, **changed):
        data = PolicyGradientData("Scripted-v0", **{"num_envs": 2, "num_steps": 7, "rollouts_per_epoch": 2, **changed})
        with_module(data, 0, world_size)
        data.trainer.fit_loop.epoch_progress.current.processed = number
        if state:
            data.load_state_dict(state)
        return data, list(data.train_dataloader())

    data, rollouts = epoch(0, env_kwargs=options.get("env_kwargs"))
    _, resumed = epoch(1, **{"state": data.state_dict(), **options})
    output = capsys.readouterr().out
    if line is None:
        assert torch.equal(rollouts[-1].next_obs, resumed[0].observations[0]) and not output
    else:
        assert output.count("\n") == 1 and output.startswith("NOTE: the environments begin new episodes, as ")
        assert line in output and not torch.equal(rollouts[0].observations[0], resumed[0].observations[0][:2])


def test_two_processes_have_the_environments_and_the_noise_of_one():
    whole = PolicyGradientData(num_envs=6, num_steps=30, rollouts_per_epoch=2, autoreset="same_step")
    with_module(whole)
    expected = list(whole.train_dataloader())
    for rank in range(2):
        data = PolicyGradientData(num_envs=3, num_steps=30, rollouts_per_epoch=2, autoreset="same_step")
        with_module(data, rank, 2)
        for ours, theirs in zip(data.train_dataloader(), expected, strict=True):
            mine = slice(3 * rank, 3 * rank + 3)
            assert torch.equal(ours.actions, theirs.actions[:, mine])
            assert torch.equal(ours.observations, theirs.observations[:, mine])


def test_evaluation_episodes_are_sharded_and_counted_once():
    data = PolicyGradientData("Scripted-v0", num_envs=1, eval_episodes=7)
    with_module(data)
    (episodes,) = EvaluationLoader(data, "val")
    (again,) = EvaluationLoader(data, "val")
    (test,) = EvaluationLoader(data, "test")
    assert torch.equal(episodes.returns, again.returns) and len(test) == 100
    assert not set(episodes.returns.tolist()) & set(test.returns.tolist())
    shards = {}
    for rank in range(3):
        part = PolicyGradientData("Scripted-v0", eval_episodes=7)
        with_module(part, rank, 3)
        (shard,) = part.val_dataloader()
        shards.update(zip(range(rank, 7, 3), zip(shard.returns.tolist(), shard.lengths.tolist(), strict=True), strict=True))
    assert [shards[i] for i in range(7)] == list(zip(episodes.returns.tolist(), episodes.lengths.tolist(), strict=True))


def test_an_evaluation_episode_is_that_of_playing_it_alone():
    env_info = inspect_env("Acrobot-v1")
    module = with_module(PolicyGradientData("Acrobot-v1"))
    seeds = [4, 9, 2]
    episodes = evaluate_policy([make_env(env_info) for _ in seeds], env_info, module.actor(), seeds)
    for seed, total, length in zip(seeds, episodes.returns.tolist(), episodes.lengths.tolist(), strict=True):
        env = gym.make("Acrobot-v1")
        obs, _ = env.reset(seed=seed)
        rewards, done = [], False
        while not done:
            action = int(module.policy.mlp(torch.from_numpy(obs).float()).argmax())
            obs, reward, terminated, truncated, _ = env.step(action)
            rewards.append(reward)
            done = terminated or truncated
        assert (total, length) == (sum(rewards), len(rewards))


@pytest.mark.parametrize("split", ["val", "test"])
def test_metrics_are_those_of_episodes_played_alone(split):
    data = PolicyGradientData("Scripted-v0", eval_episodes=7, test_episodes=9)
    module = PolicyGradientModule(data.obs_dim, data.action_dim, data.discrete, hidden_dims=[8])
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(accelerator="cpu", **quiet)
    run = trainer.validate if split == "val" else trainer.test
    (metrics,) = run(module, datamodule=data, verbose=False)
    returns, lengths = [], []
    for episode in range(data.num_episodes[split]):
        env = gym.make("Scripted-v0")
        obs, _ = env.reset(seed=derive_seed(0, EVALUATION, EVAL_SPLITS.index(split), episode))
        returns.append(0.0)
        lengths.append(0)
        done = False
        while not done:
            action = 5 + int(module.policy.mlp(torch.from_numpy(obs)).argmax())
            obs, reward, terminated, truncated, _ = env.step(action)
            returns[-1] += reward
            lengths[-1] += 1
            done = terminated or truncated
    expected = {
        "return_mean": np.mean(returns),
        "return_std": np.std(returns),
        "return_min": min(returns),
        "episode_length": np.mean(lengths),
    }
    assert len(set(returns)) == data.num_episodes[split] and len(set(lengths)) > 2
    assert {name: metrics[f"{split}/{name}"] for name in expected} == pytest.approx(expected, rel=1e-5)


def test_the_own_vector_form_is_used_where_it_has_the_autoreset_mode():
    cartpole = inspect_env("CartPole-v1")
    names = [type(make_vec_env(cartpole, 2, mode)).__name__ for mode in ("next_step", "same_step")]
    assert names == ["CartPoleVectorEnv", "SyncVectorEnv"]
    assert environments.DEFAULT_ENV == PolicyGradientData("auto").source_label == PolicyGradientData("sample").source_label
