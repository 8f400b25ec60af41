"""Advantages and rewards-to-go are those of a slow reference that goes through one episode after the other."""

from __future__ import annotations

import pytest
import torch

from projects.policy_gradient.advantages import (
    discounted_sums,
    following_values,
    generalized_advantages,
    is_complete,
    rewards_to_go,
)


def sequences(seed: int) -> dict[str, torch.Tensor]:
    """Steps of a few environments with ends, truncations, both at once and steps that are none, anywhere; in float64."""
    generator = torch.Generator().manual_seed(seed)
    steps, envs = (int(torch.randint(1, high, (), generator=generator)) for high in (40, 5))
    chance = [0.0, 0.05, 0.3, 0.7][seed % 4]
    terminated, truncated = (torch.rand(steps, envs, generator=generator) < chance for _ in range(2))
    valid = torch.ones(steps, envs, dtype=torch.bool)
    if seed % 2:  # the step after an end begins the new episode; so may the first, for an end before the rollout
        for env in range(envs):
            for t in range(steps):
                over_before = (
                    terminated[t - 1, env] | truncated[t - 1, env] if t else torch.rand(1, generator=generator) < 0.5
                )
                if over_before:
                    valid[t, env] = terminated[t, env] = truncated[t, env] = False
    rewards, values, following = torch.randn(3, steps, envs, generator=generator, dtype=torch.float64)
    return {
        "rewards": rewards,
        "values": values,
        "next_values": following,
        "terminated": terminated,
        "truncated": truncated,
        "valid": valid,
    }


def episodes(terminated, truncated, valid):
    """The (step, environment) places of each episode, as far as it lies in the rows, and whether its end does."""
    steps, envs = valid.shape
    for env in range(envs):
        places: list[tuple[int, int]] = []
        for t in range(steps):
            if not valid[t, env]:
                assert not places
                continue
            places.append((t, env))
            if terminated[t, env] or truncated[t, env]:
                yield places, True
                places = []
        if places:
            yield places, False


@pytest.mark.parametrize("seed", range(24))
def test_advantages_are_those_of_the_definition_episode_by_episode(seed):
    s = sequences(seed)
    discount, trace = [(0.9, 0.8), (1.0, 1.0), (0.99, 0.0)][seed % 3]
    expected = torch.zeros_like(s["rewards"])
    for places, _ in episodes(s["terminated"], s["truncated"], s["valid"]):
        surprises = [
            s["rewards"][p] + (0.0 if s["terminated"][p] else discount * s["next_values"][p]) - s["values"][p]
            for p in places
        ]
        for i, place in enumerate(places):
            expected[place] = sum((discount * trace) ** k * surprise for k, surprise in enumerate(surprises[i:]))
    got = generalized_advantages(**s, discount=discount, trace=trace)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("seed", range(24))
def test_rewards_to_go_and_where_they_are_complete_are_those_of_the_definition(seed):
    s = sequences(seed)
    ended = s["terminated"] | s["truncated"]
    expected, complete = torch.zeros_like(s["rewards"]), torch.zeros_like(ended)
    for places, ends in episodes(s["terminated"], s["truncated"], s["valid"]):
        for i, place in enumerate(places):
            expected[place] = sum(0.9**k * s["rewards"][later] for k, later in enumerate(places[i:]))
            complete[place] = ends
    torch.testing.assert_close(rewards_to_go(s["rewards"], ended, s["valid"], 0.9), expected, rtol=1e-10, atol=1e-10)
    assert torch.equal(is_complete(ended, s["valid"]), complete)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 8, 9, 500])
def test_discounted_sums_are_the_recursion_and_leave_their_terms_alone(steps):
    terms, factors = torch.randn(steps, 3, dtype=torch.float64), torch.rand(steps, 3, dtype=torch.float64)
    before = terms.clone(), factors.clone()
    expected, following = torch.zeros_like(terms), torch.zeros(3, dtype=torch.float64)
    for t in reversed(range(steps)):
        expected[t] = following = terms[t] + factors[t] * following
    torch.testing.assert_close(discounted_sums(terms, factors), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(terms, before[0]) and torch.equal(factors, before[1])


def test_in_float32_a_long_episode_is_summed_as_exactly_as_by_the_recursion():
    terms, factors = torch.ones(4000, 1), torch.full((4000, 1), 0.999)
    exact = (1 - 0.999 ** torch.arange(4000, 0, -1, dtype=torch.float64)) / 0.001
    torch.testing.assert_close(discounted_sums(terms, factors)[:, 0].double(), exact, rtol=2e-5, atol=0)


def test_with_the_longest_trace_an_advantage_is_the_reward_to_go_minus_the_value():
    s = sequences(1)
    s["next_values"] = torch.cat([s["values"][1:], torch.zeros_like(s["values"][:1])])
    s["truncated"] &= False  # else the value beyond it counts
    ended = s["terminated"]
    got = generalized_advantages(**s, discount=0.9, trace=1.0)
    known = is_complete(ended, s["valid"])
    expected = rewards_to_go(s["rewards"], ended, s["valid"], 0.9) - s["values"]
    torch.testing.assert_close(got[known], expected[known])


def test_the_value_after_a_step_is_the_next_rows_or_the_last_observations_of_an_ended_episode():
    values, last = torch.arange(6.0).view(3, 2), torch.tensor([10.0, 11.0])
    following = following_values(values, last, torch.tensor([[0, 1], [2, 0]]), torch.tensor([-1.0, -2.0]))
    assert following.tolist() == [[2, -1], [4, 5], [-2, 11]]
    assert following_values(values, last, torch.empty(0, 2, dtype=torch.int64), torch.empty(0)).tolist() == [
        [2, 3],
        [4, 5],
        [10, 11],
    ]
