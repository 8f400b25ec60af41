"""Any environment becomes rollouts and episodes, or one line that says what is missing."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch

from common.errors import UserError
from projects.policy_gradient import environments
from projects.policy_gradient.data import EvaluationLoader, PolicyGradientData
from projects.policy_gradient.environments import inspect, make_single, make_vector
from projects.policy_gradient.evaluation import play_episodes
from projects.policy_gradient.module import PolicyGradientModule

TAXI = max(id for id in gym.registry if id.startswith("Taxi-"))  # it says which actions are allowed


def with_module(data: PolicyGradientData, rank: int = 0, world_size: int = 1, **options) -> PolicyGradientModule:
    """Puts a policy and a process's place behind `data`, as a trainer would."""
    torch.manual_seed(3)
    module = PolicyGradientModule(data.observation_size, data.action_size, data.discrete, hidden=[8], **options)
    loop = SimpleNamespace(
        epoch_progress=SimpleNamespace(current=SimpleNamespace(processed=0)),
        epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(current=SimpleNamespace(ready=0))),
    )
    data.trainer = SimpleNamespace(
        global_rank=rank, world_size=world_size, lightning_module=module, fit_loop=loop, num_training_batches=data.rollouts
    )
    return module


@pytest.mark.parametrize(
    ("id", "kwargs", "sizes", "flatten", "discrete", "solved"),
    [
        ("CartPole-v1", {}, (4, 2), False, True, 475.0),
        ("Acrobot-v1", {}, (6, 3), False, True, -100.0),
        ("Pendulum-v1", {"g": 9.0}, (3, 1), False, False, None),
        ("FrozenLake-v1", {"is_slippery": False}, (16, 4), True, True, 0.7),
        (TAXI, {}, (500, 6), True, True, 8.0),
        ("scripted_environment:Scripted-v0", {"numbers": True}, (3, 2), False, False, None),
        ("Nested-v0", {}, (5, 2), True, True, None),
    ],
)
def test_any_environment_is_described(id, kwargs, sizes, flatten, discrete, solved):
    task = inspect(id, kwargs)
    assert (task.observation_size, task.action_size) == sizes
    assert (task.flatten, task.discrete, task.solved) == (flatten, discrete, solved)
    assert task.masked == (id == TAXI)


@pytest.mark.parametrize("id", [TAXI, "Nested-v0", "FrozenLake-v1"])
def test_observations_that_are_no_vectors_are_flattened_and_masks_kept(id):
    data = PolicyGradientData(id, envs=3, steps=40, rollouts=1)
    module = with_module(data)
    (rollout,) = data.train_dataloader()
    assert rollout.observations.shape == (40, 3, module.hparams["observation_size"])
    if id == TAXI:
        assert not rollout.masks.all()
        assert rollout.masks.gather(2, rollout.actions[..., None]).all(), "what is not allowed is not done"
    module.compute_loss(rollout).backward()


def test_actions_reach_an_environment_in_its_own_range_and_counted_from_its_first():
    pendulum = inspect("Pendulum-v1")
    given = np.array([[0.0], [0.25], [1.0], [-7.0]], np.float32)
    assert pendulum.to_environment(given).tolist() == [[0.0], [0.5], [2.0], [-2.0]]
    numbers = inspect("Scripted-v0", {"numbers": True})
    assert numbers.to_environment(np.array([[0.0, -1.0], [5.0, 0.5]], np.float32)).tolist() == [[2.0, 1.0], [3.0, 2.5]]
    assert inspect("Scripted-v0").to_environment(np.array([0, 2])).tolist() == [5, 7]


@pytest.mark.parametrize(
    ("id", "kwargs", "line"),
    [
        ("CartPole-v7", {}, "CartPole-v7: gymnasium knows no such environment"),
        ("NoSuchThing-v0", {}, "NoSuchThing-v0: gymnasium knows no such environment"),
        ("no/where/at/all", {}, "no/where/at/all: "),
        ("no_such_module:Thing-v0", {}, "no_such_module"),
        ("CartPole-v1", {"gravitas": 3}, "gravitas"),
        ("Switches-v0", {}, "actions of kind MultiBinary; a policy chooses (Discrete) or gives numbers (Box)"),
        ("Letters-v0", {}, "observations of kind Sequence cannot be made vectors of numbers"),
    ],
)
def test_what_cannot_be_had_is_named(id, kwargs, line):
    with pytest.raises(UserError) as error:
        inspect(id, kwargs)
    assert line in str(error.value) and "\n" not in str(error.value)


def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch):
    def make(*args, **kwargs):
        raise gym.error.DependencyNotInstalled('Box2D is not installed, run `pip install "gymnasium[box2d]"`')

    with monkeypatch.context() as patch:
        patch.setattr(gym, "make", make)
        with pytest.raises(UserError, match=r'pip install "lightning-capstones\[box2d\]"'):
            inspect("LunarLander-v3")
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(UserError, match=r'pip install "lightning-capstones\[rl\]"'):
        inspect("CartPole-v1")


@pytest.mark.parametrize("vectorization", ["auto", "sync"])
def test_rollouts_follow_from_seed_and_epoch_alone_and_differ_between_them(vectorization):
    found = {}
    for seed, epoch, rank in [(0, 0, 0), (0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]:
        data = PolicyGradientData(envs=2, steps=10, rollouts=1, vectorization=vectorization)
        with_module(data, rank, 2)
        data.seed = seed
        data.trainer.fit_loop.epoch_progress.current.processed = epoch
        (rollout,) = data.train_dataloader()
        rollouts = found.setdefault((seed, epoch, rank), [])
        rollouts.append(rollout.observations)
    repeated = found.pop((0, 0, 0))
    assert torch.equal(*repeated)
    for other in found.values():
        assert not (other[0][0] == repeated[0][0]).any()


def test_two_processes_have_the_environments_and_the_chance_of_one():
    whole = PolicyGradientData(envs=6, steps=30, rollouts=2, vectorization="sync")
    with_module(whole)
    expected = list(whole.train_dataloader())
    for rank in range(2):
        data = PolicyGradientData(envs=3, steps=30, rollouts=2, vectorization="sync")
        with_module(data, rank, 2)
        for ours, theirs in zip(data.train_dataloader(), expected, strict=True):
            mine = slice(3 * rank, 3 * rank + 3)
            assert torch.equal(ours.actions, theirs.actions[:, mine])
            assert torch.equal(ours.observations, theirs.observations[:, mine])


def test_every_episode_of_an_evaluation_is_played_to_its_end_and_counted_once():
    data = PolicyGradientData("Scripted-v0", envs=1, eval_episodes=7)
    with_module(data)
    (episodes,) = EvaluationLoader(data, "val")
    (again,) = EvaluationLoader(data, "val")
    (test,) = EvaluationLoader(data, "test")
    assert torch.equal(episodes.returns, again.returns) and len(test) == 100
    assert not set(episodes.returns.tolist()) & set(test.returns.tolist())
    shares = {}
    for rank in range(3):
        part = PolicyGradientData("Scripted-v0", eval_episodes=7)
        with_module(part, rank, 3)
        (share,) = part.val_dataloader()
        shares.update(zip(range(rank, 7, 3), zip(share.returns.tolist(), share.lengths.tolist(), strict=True), strict=True))
    assert [shares[i] for i in range(7)] == list(zip(episodes.returns.tolist(), episodes.lengths.tolist(), strict=True))


def test_an_episodes_result_is_that_of_playing_it_alone_by_hand():
    task = inspect("Acrobot-v1")
    module = with_module(PolicyGradientData("Acrobot-v1"))
    seeds = [4, 9, 2]
    episodes = play_episodes([make_single(task) for _ in seeds], task, module.actor(), seeds)
    for seed, total, length in zip(seeds, episodes.returns.tolist(), episodes.lengths.tolist(), strict=True):
        env = gym.make("Acrobot-v1")
        seen, _ = env.reset(seed=seed)
        rewards, over = [], False
        while not over:
            action = int(module.policy.stack(torch.from_numpy(seen).float()).argmax())
            seen, reward, terminated, truncated, _ = env.step(action)
            rewards.append(reward)
            over = terminated or truncated
        assert (total, length) == (sum(rewards), len(rewards))


def test_own_vector_forms_are_taken_where_they_do_all_that_is_asked():
    cartpole = inspect("CartPole-v1")
    names = [type(make_vector(cartpole, 2, *how)).__name__ for how in [("auto",), ("sync",), ("auto", "same_step")]]
    assert names == ["CartPoleVectorEnv", "SyncVectorEnv", "SyncVectorEnv"]
    assert environments.SAMPLE == PolicyGradientData("auto").source_label == PolicyGradientData("sample").source_label


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"envs": 0}, "--data.envs, steps, rollouts"),
        ({"vectorization": "fast"}, "--data.vectorization fast: use one of auto, sync, async"),
        ({"autoreset": "never"}, "--data.autoreset never: use one of next_step, same_step"),
    ],
)
def test_settings_that_cannot_be_are_named(options, line):
    with pytest.raises(UserError) as error:
        PolicyGradientData(**options)
    assert line in str(error.value)
