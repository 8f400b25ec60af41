"""A rollout is what gymnasium's single environments do, one after the other, when they are told the same."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from common.errors import UserError
from projects.policy_gradient.environments import inspect, make_vector
from projects.policy_gradient.rollout import Collector, Rollout

MODES = ["next_step", "same_step"]
ENVS = 4


def collector_of(kwargs: dict, mode: str, envs: int = ENVS, id: str = "Scripted-v0") -> Collector:
    task = inspect(id, kwargs)
    return Collector(make_vector(task, envs, "sync", mode), task)


def random_policy(collector: Collector, seed: int = 0):
    source, task = np.random.default_rng(seed), collector.task

    def act(seen, masks):
        if not task.discrete:
            return source.normal(size=(len(seen), task.action_size)).astype(np.float32)
        noise = source.random((len(seen), task.action_size))
        return (noise if masks is None else np.where(masks, noise, -1)).argmax(1)

    return act


def check_against_single(rollouts: list[Rollout], task, seeds: list[int]) -> int:
    """Replays what each environment was told in one of its own, resetting by hand; returns how many steps that took."""
    found = 0
    for number, seed in enumerate(seeds):
        env = gym.make(task.id, **task.kwargs)
        seen, info = env.reset(seed=seed)
        for rollout in rollouts:
            ends = {(t, e): seen for (t, e), seen in zip(rollout.ends.tolist(), rollout.end_observations, strict=True)}
            for t in range(len(rollout.rewards)):
                if not rollout.valid[t, number]:
                    assert rollout.rewards[t, number] == 0 and not rollout.ended[t, number]
                    continue
                torch.testing.assert_close(rollout.observations[t, number], torch.from_numpy(seen))
                if task.masked:
                    assert rollout.masks[t, number].tolist() == info["action_mask"].astype(bool).tolist()
                action = task.to_environment(rollout.actions[t, number : number + 1].numpy())[0]
                seen, reward, terminated, truncated, info = env.step(action)
                torch.testing.assert_close(float(rollout.rewards[t, number]), reward, rtol=1e-6, atol=1e-6)
                assert (bool(rollout.terminated[t, number]), bool(rollout.truncated[t, number])) == (terminated, truncated)
                last = t + 1 == len(rollout.rewards)
                beyond = rollout.last_observations[number] if last else rollout.observations[t + 1, number]
                torch.testing.assert_close(ends.get((t, number), beyond), torch.from_numpy(seen))
                if terminated or truncated:
                    seen, info = env.reset()
                found += 1
    return found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kwargs", [{}, {"masked": True}, {"numbers": True}], ids=["choices", "masked", "numbers"])
def test_every_transition_is_a_single_environments(mode, kwargs):
    collector = collector_of(kwargs, mode)
    policy, seeds = random_policy(collector), [3, 1, 4, 15]
    collector.reset(seeds)
    rollouts = [collector.collect(policy, steps) for steps in (37, 1, 24)]
    found = check_against_single(rollouts, collector.task, seeds)
    valid = sum(int(rollout.valid.sum()) for rollout in rollouts)
    assert found == valid == (ENVS * 62 if mode == "same_step" else valid) and valid > ENVS * 40
    kinds = torch.cat([torch.stack([r.terminated, r.truncated], -1)[r.ended] for r in rollouts]).unique(dim=0)
    assert len(kinds) == 3, "terminated, truncated, and both"


@pytest.mark.parametrize("mode", MODES)
def test_episodes_are_counted_across_rollouts(mode):
    collector = collector_of({}, mode)
    policy, seeds = random_policy(collector), [9, 2, 6, 5]
    collector.reset(seeds)
    rollouts = [collector.collect(policy, steps) for steps in (10, 3, 30, 2, 1)]
    expected: list[tuple[float, int]] = []
    for number in range(ENVS):
        total, length = 0.0, 0
        for index, rollout in enumerate(rollouts):
            for t in range(len(rollout.rewards)):
                total, length = total + float(rollout.rewards[t, number]), length + int(rollout.valid[t, number])
                if rollout.ended[t, number]:
                    expected.append((index, total, length))
                    total, length = 0.0, 0
    got = [(i, *pair) for i, r in enumerate(rollouts) for pair in zip(r.returns.tolist(), r.lengths.tolist(), strict=True)]
    assert len(got) > 30
    np.testing.assert_allclose(sorted(got), sorted(expected), rtol=1e-6)


def test_cartpoles_own_vector_form_obeys_the_laws_of_the_single_one():
    task = inspect("CartPole-v1")
    envs = make_vector(task, 6)
    assert type(envs).__name__ == "CartPoleVectorEnv"
    collector = Collector(envs, task)
    collector.reset(3)
    rollout = collector.collect(random_policy(collector), 120)
    single = gym.make("CartPole-v1").unwrapped
    single.reset(seed=0)
    assert 0 < int((~rollout.valid).sum()) == int(rollout.ended[:-1].sum())
    following = torch.cat([rollout.observations[1:], rollout.last_observations[None]])
    for t, env in rollout.valid.nonzero().tolist():
        single.state, single.steps_beyond_terminated = rollout.observations[t, env].double().numpy(), None
        seen, reward, terminated, _, _ = single.step(int(rollout.actions[t, env]))
        torch.testing.assert_close(following[t, env], torch.from_numpy(seen), rtol=1e-4, atol=1e-5)
        assert (reward, terminated) == (1.0, bool(rollout.terminated[t, env]))


def test_a_time_limit_truncates_and_the_last_observation_is_kept():
    task = inspect("Pendulum-v1")
    for mode in MODES:
        collector = Collector(make_vector(task, 2, "auto", mode), task)
        collector.reset([0, 1])
        rollout = collector.collect(random_policy(collector), 210)
        assert rollout.ended.nonzero().tolist() == [[199, 0], [199, 1]] and not rollout.terminated.any()
        assert rollout.lengths.tolist() == [200, 200]
        if mode == "next_step":
            assert len(rollout.ends) == 0 and rollout.valid.all(1).tolist() == [t != 200 for t in range(210)]
        else:
            assert rollout.ends.tolist() == [[199, 0], [199, 1]] and rollout.valid.all()


@pytest.mark.parametrize("mode", MODES)
def test_a_replay_leads_to_where_the_environments_were(mode):
    first, second = collector_of({"masked": True}, mode), collector_of({"masked": True}, mode)
    first.reset([1, 2, 3, 4])
    policy = random_policy(first)
    for _ in range(3):
        first.collect(policy, 7)
    second.reset([1, 2, 3, 4])
    second.replay(first.history())
    rollouts = []
    for collector in (first, second):
        rollouts.append(collector.collect(random_policy(collector, 5), 20))
    for name in ("observations", "rewards", "terminated", "truncated", "valid", "masks", "returns", "lengths"):
        assert torch.equal(getattr(rollouts[0], name), getattr(rollouts[1], name)), name
    assert torch.equal(second.history()["actions"], first.history()["actions"])


def test_an_environment_that_does_not_repeat_itself_is_not_resumed_into_something_else():
    first, second = collector_of({"seeded": False}, "next_step"), collector_of({"seeded": False}, "next_step")
    for collector in (first, second):
        collector.reset([1, 2, 3, 4])
    first.collect(random_policy(first), 5)
    with pytest.raises(UserError, match="does not repeat itself from its seed"):
        second.replay(first.history())


def test_an_environment_that_leaves_resetting_to_others_is_refused():
    task = inspect("Scripted-v0")
    envs = gym.make_vec("Scripted-v0", 2, vector_kwargs={"autoreset_mode": gym.vector.AutoresetMode.DISABLED})
    with pytest.raises(UserError, match="does not reset by itself"):
        Collector(envs, task)
