"""Rollouts: what gymnasium's single environments do, one after the other, with the same actions."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from common.errors import UserError
from projects.policy_gradient.actor import choose_actions
from projects.policy_gradient.environments import inspect_env, make_env, make_vec_env
from projects.policy_gradient.metrics import evaluate_policy
from projects.policy_gradient.rollout import Collector, Rollout

MODES = ["next_step", "same_step"]
ENVS = 4


def make_collector(kwargs: dict, mode: str) -> Collector:
    env_info = inspect_env("Scripted-v0", kwargs)
    return Collector(make_vec_env(env_info, ENVS, mode), env_info)


def random_policy(collector: Collector, seed: int = 0):
    rng, env_info = np.random.default_rng(seed), collector.env_info

    def act(obs, masks):
        noise = rng.normal(size=(len(obs), env_info.action_dim)).astype(np.float32)
        return choose_actions(noise, masks, env_info.discrete)

    return act


def check_against_single(rollouts: list[Rollout], env_info, seeds: list[int]) -> int:
    """Replays the actions of each environment in a single one, resetting by hand; returns the number of steps."""
    steps = 0
    for env_id, seed in enumerate(seeds):
        env = gym.make(env_info.id, **env_info.kwargs)
        obs, info = env.reset(seed=seed)
        for rollout in rollouts:
            final_obs = {tuple(i): x for i, x in zip(rollout.final_obs_index.tolist(), rollout.final_obs, strict=True)}
            for t in range(len(rollout.rewards)):
                if not rollout.valid[t, env_id]:
                    assert rollout.rewards[t, env_id] == 0 and not rollout.done[t, env_id]
                    continue
                torch.testing.assert_close(rollout.observations[t, env_id], torch.from_numpy(obs))
                if env_info.has_action_masks:
                    assert rollout.action_masks[t, env_id].tolist() == info["action_mask"].astype(bool).tolist()
                action = env_info.to_env(rollout.actions[t, env_id : env_id + 1].numpy())[0]
                obs, reward, terminated, truncated, info = env.step(action)
                torch.testing.assert_close(float(rollout.rewards[t, env_id]), reward, rtol=1e-6, atol=1e-6)
                assert (bool(rollout.terminated[t, env_id]), bool(rollout.truncated[t, env_id])) == (terminated, truncated)
                last = t + 1 == len(rollout.rewards)
                next_row = rollout.next_obs[env_id] if last else rollout.observations[t + 1, env_id]
                torch.testing.assert_close(final_obs.get((t, env_id), next_row), torch.from_numpy(obs))
                if terminated or truncated:
                    obs, info = env.reset()
                steps += 1
    return steps


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kwargs", [{}, {"masked": True}, {"masked": "running"}, {"continuous": True}], ids=str)
def test_transitions_are_those_of_single_environments(mode, kwargs):
    collector = make_collector(kwargs, mode)
    policy, seeds = random_policy(collector), [3, 1, 4, 15]
    collector.reset(seeds)
    rollouts = [collector.collect(policy, num_steps) for num_steps in (37, 1, 24)]
    steps = check_against_single(rollouts, collector.env_info, seeds)
    valid = sum(int(rollout.valid.sum()) for rollout in rollouts)
    assert steps == valid == (ENVS * 62 if mode == "same_step" else valid) and valid > ENVS * 40
    kinds = torch.cat([torch.stack([r.terminated, r.truncated], -1)[r.done] for r in rollouts]).unique(dim=0)
    assert len(kinds) == 3, "terminated, truncated, and both"


@pytest.mark.parametrize("mode", MODES)
def test_episode_returns_and_lengths_go_on_across_rollouts(mode):
    collector = make_collector({}, mode)
    policy, seeds = random_policy(collector), [9, 2, 6, 5]
    collector.reset(seeds)
    rollouts = [collector.collect(policy, steps) for steps in (10, 3, 30, 2, 1)]
    expected: list[tuple[float, int]] = []
    for env_id in range(ENVS):
        total, length = 0.0, 0
        for index, rollout in enumerate(rollouts):
            for t in range(len(rollout.rewards)):
                total, length = total + float(rollout.rewards[t, env_id]), length + int(rollout.valid[t, env_id])
                if rollout.done[t, env_id]:
                    expected.append((index, total, length))
                    total, length = 0.0, 0
    actual = [
        (i, *pair)
        for i, r in enumerate(rollouts)
        for pair in zip(r.episode_returns.tolist(), r.episode_lengths.tolist(), strict=True)
    ]
    assert len(actual) > 30
    np.testing.assert_allclose(sorted(actual), sorted(expected), rtol=1e-6)


def test_cartpoles_own_vector_form_has_the_dynamics_of_the_single_one():
    env_info = inspect_env("CartPole-v1")
    envs = make_vec_env(env_info, 6)
    assert type(envs).__name__ == "CartPoleVectorEnv"
    collector = Collector(envs, env_info)
    collector.reset(3)
    rollout = collector.collect(random_policy(collector), 120)
    single = gym.make("CartPole-v1").unwrapped
    single.reset(seed=0)
    assert 0 < int((~rollout.valid).sum()) == int(rollout.done[:-1].sum())
    next_obs = torch.cat([rollout.observations[1:], rollout.next_obs[None]])
    for t, env in rollout.valid.nonzero().tolist():
        single.state, single.steps_beyond_terminated = rollout.observations[t, env].double().numpy(), None
        obs, reward, terminated, _, _ = single.step(int(rollout.actions[t, env]))
        torch.testing.assert_close(next_obs[t, env], torch.from_numpy(obs), rtol=1e-4, atol=1e-5)
        assert (reward, terminated) == (1.0, bool(rollout.terminated[t, env]))


def test_a_time_limit_truncates_and_the_final_observation_is_kept():
    env_info = inspect_env("Pendulum-v1")
    for mode in MODES:
        collector = Collector(make_vec_env(env_info, 2, mode), env_info)
        collector.reset([0, 1])
        rollout = collector.collect(random_policy(collector), 210)
        assert rollout.done.nonzero().tolist() == [[199, 0], [199, 1]] and not rollout.terminated.any()
        assert rollout.episode_lengths.tolist() == [200, 200]
        if mode == "next_step":
            assert len(rollout.final_obs_index) == 0 and rollout.valid.all(1).tolist() == [t != 200 for t in range(210)]
        else:
            assert rollout.final_obs_index.tolist() == [[199, 0], [199, 1]] and rollout.valid.all()


@pytest.mark.parametrize("mode", MODES)
def test_the_final_observation_of_an_environment_that_reuses_its_array_is_kept(mode):
    env_info = inspect_env("Reusing-v0")
    collector = Collector(make_vec_env(env_info, 2, mode), env_info)
    collector.reset([0, 1])
    rollout = collector.collect(random_policy(collector), 12)
    if mode == "same_step":
        assert rollout.final_obs.tolist() == [[5.0]] * 4
    else:
        assert rollout.observations[5].tolist() == [[5.0]] * 2


@pytest.mark.parametrize(
    ("keys", "terminates"), [(("final_obs", "_final_obs"), False), (("final_obs",), False), ((), True), ((), False)]
)
def test_a_vector_form_that_resets_in_the_same_step_has_its_final_observations_or_is_refused(keys, terminates):
    env_info = inspect_env("Counting-v0")
    envs = gym.make_vec("Counting-v0", 2, vectorization_mode="vector_entry_point", keys=keys, terminates=terminates)
    collector = Collector(envs, env_info)
    collector.reset(0)
    if not keys and not terminates:
        with pytest.raises(UserError, match=r"no `final_obs` in the `info` of a truncated episode; use --data.autoreset"):
            collector.collect(random_policy(collector), 7)
        return
    rollout = collector.collect(random_policy(collector), 7)
    assert rollout.done.nonzero().tolist() == rollout.final_obs_index.tolist() == [[4, 0], [4, 1]]
    assert terminates or rollout.final_obs.tolist() == [[5.0], [5.0]]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("nan_obs", [False, True])
def test_a_reward_or_an_observation_that_is_nan_is_named(mode, nan_obs):
    env_info = inspect_env("Reusing-v0", {"nan_episode": 2, "nan_obs": nan_obs})
    collector = Collector(make_vec_env(env_info, 2, mode), env_info)
    collector.reset([0, 1])
    collector.collect(random_policy(collector), 5)
    name = "an observation" if nan_obs else "a reward"
    with pytest.raises(UserError, match=f"--data.source Reusing-v0: {name} of the environment is nan"):
        collector.collect(random_policy(collector), 6)
    with pytest.raises(UserError, match=f"{name} of the environment is nan"):
        env = make_env(env_info)
        env.reset()
        evaluate_policy([env], env_info, random_policy(collector), [0])


def test_no_action_mask_is_needed_in_the_last_step():
    env_info = inspect_env("Scripted-v0", {"masked": "running"})
    for mode in MODES:
        collector = Collector(make_vec_env(env_info, 1, mode), env_info)
        collector.reset([3])
        assert collector.collect(random_policy(collector), 30).done.any()
    lengths = []
    for masked in (True, "running"):
        env_info = inspect_env("Scripted-v0", {"masked": masked})
        envs = [make_env(env_info) for _ in range(20)]
        lengths.append(evaluate_policy(envs, env_info, random_policy(make_collector({}, "next_step")), range(20)).lengths)
    assert torch.equal(*lengths)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("masked", ["steps", "resets"])
def test_action_masks_that_are_there_only_at_times_are_refused(mode, masked):
    collector = make_collector({"masked": masked}, mode)
    collector.reset([1, 2, 3, 4])
    with pytest.raises(UserError, match="its `info` has an `action_mask` only at times"):
        collector.collect(random_policy(collector), 10)
    env_info = collector.env_info
    with pytest.raises(UserError, match="its `info` has an `action_mask` only at times"):
        evaluate_policy([make_env(env_info) for _ in range(9)], env_info, random_policy(collector), range(9))


@pytest.mark.parametrize("mode", MODES)
def test_steps_that_reset_are_no_samples(mode):
    env_info = inspect_env("Reusing-v0")
    collector = Collector(make_vec_env(env_info, 2, mode), env_info)
    collector.reset([0, 1])
    assert collector.collect(random_policy(collector), 13).num_samples == {"next_step": 22, "same_step": 26}[mode]


def test_an_evaluation_episode_that_is_cut_is_reported(monkeypatch, capsys):
    env_info = inspect_env("Reusing-v0", {"length": 7})
    policy = random_policy(make_collector({}, "next_step"))
    for limit, cut in [(7, 0), (6, 2)]:
        monkeypatch.setattr("projects.policy_gradient.metrics.MAX_EPISODE_STEPS", limit)
        episodes = evaluate_policy([make_env(env_info) for _ in range(2)], env_info, policy, [0, 1])
        assert episodes.lengths.tolist() == [limit, limit]
        output = capsys.readouterr().out
        assert output.startswith(f"NOTE: 2 of 2 evaluation episodes had no end in {limit} steps") if cut else not output


@pytest.mark.parametrize("mode", MODES)
def test_a_replay_leads_to_the_same_state(mode):
    first, second = make_collector({"masked": True}, mode), make_collector({"masked": True}, mode)
    first.reset([1, 2, 3, 4])
    policy = random_policy(first)
    for _ in range(3):
        first.collect(policy, 7)
    assert second.replay(first.state_dict())
    rollouts = []
    for collector in (first, second):
        rollouts.append(collector.collect(random_policy(collector, 5), 20))
    for name in (
        "observations",
        "rewards",
        "terminated",
        "truncated",
        "valid",
        "action_masks",
        "episode_returns",
        "episode_lengths",
    ):
        assert torch.equal(getattr(rollouts[0], name), getattr(rollouts[1], name)), name
    assert torch.equal(second.state_dict()["actions"], first.state_dict()["actions"])


def test_an_environment_that_does_not_repeat_itself_is_not_replayed():
    first, second = make_collector({"seeded": False}, "next_step"), make_collector({"seeded": False}, "next_step")
    first.reset([1, 2, 3, 4])
    first.collect(random_policy(first), 5)
    assert not second.replay(first.state_dict())


def test_a_history_that_is_too_long_is_not_kept(monkeypatch):
    monkeypatch.setattr("projects.policy_gradient.rollout.MAX_REPLAY_STEPS", 10 * ENVS)
    collector = make_collector({}, "next_step")
    collector.reset([1, 2, 3, 4])
    collector.collect(random_policy(collector), 10)
    assert collector.state_dict()["actions"].shape == (10, ENVS)
    collector.collect(random_policy(collector), 1)
    assert collector.state_dict() is None and not collector.action_history
