"""Advantage estimation: returns and GAE equal a slow reference that goes through one episode after the other."""

from __future__ import annotations

import pytest
import torch

from projects.policy_gradient.advantages import (
    discounted_cumsum,
    generalized_advantage_estimate,
    is_complete,
    next_values,
    rewards_to_go,
)


def random_steps(seed: int) -> dict[str, torch.Tensor]:
    """Steps of a few environments with terminations, truncations, both at once, and invalid steps, in float64."""
    generator = torch.Generator().manual_seed(seed)
    steps, envs = (int(torch.randint(1, high, (), generator=generator)) for high in (40, 5))
    probability = [0.0, 0.05, 0.3, 0.7][seed % 4]
    terminated, truncated = (torch.rand(steps, envs, generator=generator) < probability for _ in range(2))
    valid = torch.ones(steps, envs, dtype=torch.bool)
    if seed % 2:  # the step after an end resets; so may the first, for an end before the rollout
        for env in range(envs):
            for t in range(steps):
                done_before = (
                    terminated[t - 1, env] | truncated[t - 1, env] if t else torch.rand(1, generator=generator) < 0.5
                )
                if done_before:
                    valid[t, env] = terminated[t, env] = truncated[t, env] = False
    rewards, values, next_values = torch.randn(3, steps, envs, generator=generator, dtype=torch.float64)
    return {
        "rewards": rewards,
        "values": values,
        "next_values": next_values,
        "terminated": terminated,
        "truncated": truncated,
        "valid": valid,
    }


def episodes(terminated, truncated, valid):
    """(step, env) indices of each episode, as far as it lies in the rows, and whether its end does."""
    steps, envs = valid.shape
    for env in range(envs):
        indices: list[tuple[int, int]] = []
        for t in range(steps):
            if not valid[t, env]:
                assert not indices
                continue
            indices.append((t, env))
            if terminated[t, env] or truncated[t, env]:
                yield indices, True
                indices = []
        if indices:
            yield indices, False


@pytest.mark.parametrize("seed", range(24))
def test_gae_is_the_definition_episode_by_episode(seed):
    s = random_steps(seed)
    gamma, gae_lambda = [(0.9, 0.8), (1.0, 1.0), (0.99, 0.0)][seed % 3]
    expected = torch.zeros_like(s["rewards"])
    for indices, _ in episodes(s["terminated"], s["truncated"], s["valid"]):
        td_errors = [
            s["rewards"][i] + (0.0 if s["terminated"][i] else gamma * s["next_values"][i]) - s["values"][i] for i in indices
        ]
        for n, i in enumerate(indices):
            expected[i] = sum((gamma * gae_lambda) ** k * td_error for k, td_error in enumerate(td_errors[n:]))
    actual = generalized_advantage_estimate(**s, gamma=gamma, gae_lambda=gae_lambda)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("seed", range(24))
def test_rewards_to_go_and_their_completeness_are_the_definition(seed):
    s = random_steps(seed)
    done = s["terminated"] | s["truncated"]
    expected, complete = torch.zeros_like(s["rewards"]), torch.zeros_like(done)
    for indices, ends in episodes(s["terminated"], s["truncated"], s["valid"]):
        for n, i in enumerate(indices):
            expected[i] = sum(0.9**k * s["rewards"][later] for k, later in enumerate(indices[n:]))
            complete[i] = ends
    torch.testing.assert_close(rewards_to_go(s["rewards"], done, s["valid"], 0.9), expected, rtol=1e-10, atol=1e-10)
    assert torch.equal(is_complete(done, s["valid"]), complete)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 8, 9, 500])
def test_discounted_cumsum_is_the_recursion_and_leaves_its_inputs_alone(steps):
    terms, factors = torch.randn(steps, 3, dtype=torch.float64), torch.rand(steps, 3, dtype=torch.float64)
    before = terms.clone(), factors.clone()
    expected, following = torch.zeros_like(terms), torch.zeros(3, dtype=torch.float64)
    for t in reversed(range(steps)):
        expected[t] = following = terms[t] + factors[t] * following
    torch.testing.assert_close(discounted_cumsum(terms, factors), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(terms, before[0]) and torch.equal(factors, before[1])


def test_in_float32_a_long_episode_is_summed_as_exactly_as_by_the_recursion():
    terms, factors = torch.ones(4000, 1), torch.full((4000, 1), 0.999)
    exact = (1 - 0.999 ** torch.arange(4000, 0, -1, dtype=torch.float64)) / 0.001
    torch.testing.assert_close(discounted_cumsum(terms, factors)[:, 0].double(), exact, rtol=2e-5, atol=0)


def test_with_lambda_1_an_advantage_is_the_return_minus_the_value():
    s = random_steps(1)
    s["next_values"] = torch.cat([s["values"][1:], torch.zeros_like(s["values"][:1])])
    s["truncated"] &= False  # else the value beyond it counts
    done = s["terminated"]
    actual = generalized_advantage_estimate(**s, gamma=0.9, gae_lambda=1.0)
    known = is_complete(done, s["valid"])
    expected = rewards_to_go(s["rewards"], done, s["valid"], 0.9) - s["values"]
    torch.testing.assert_close(actual[known], expected[known])


def test_next_values_are_the_next_rows_or_those_of_final_observations():
    values, last = torch.arange(6.0).view(3, 2), torch.tensor([10.0, 11.0])
    actual = next_values(values, last, torch.tensor([[0, 1], [2, 0]]), torch.tensor([-1.0, -2.0]))
    assert actual.tolist() == [[2, -1], [4, 5], [-2, 11]]
    no_ends = torch.empty(0, 2, dtype=torch.int64)
    assert next_values(values, last, no_ends, torch.empty(0)).tolist() == [[2, 3], [4, 5], [10, 11]]
