"""Networks and actors: heads are `torch.distributions`, an actor is the forward pass, RunningMeanStd forgets nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Categorical, Independent, Normal

from projects.policy_gradient.actor import Actor, StochasticActor, sample_noise
from projects.policy_gradient.networks import (
    CategoricalHead,
    GaussianHead,
    PolicyNetwork,
    RunningMeanStd,
    ValueNetwork,
    moments,
)


def perturbed(net: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return net


def update(obs_rms: RunningMeanStd, observations: torch.Tensor) -> None:
    count, *mean_and_var = moments(observations).split([1, *[observations.shape[1]] * 2])
    obs_rms.update(count[0], *mean_and_var)


def test_the_categorical_head_is_torchs_distribution():
    logits, actions = 3 * torch.randn(50, 4), torch.randint(0, 4, (50,))
    log_probs, entropy = CategoricalHead()(logits, actions)
    expected = Categorical(logits=logits)
    torch.testing.assert_close(log_probs, expected.log_prob(actions))
    torch.testing.assert_close(entropy, expected.entropy())


def test_masked_actions_have_no_probability_and_no_gradient():
    logits = (3 * torch.randn(50, 5)).requires_grad_()
    masks = torch.rand(50, 5) < 0.5
    masks[:, 2] = True
    log_probs, entropy = CategoricalHead()(logits, torch.full((50,), 2), masks)
    for row in range(50):
        allowed = Categorical(logits=logits[row, masks[row]])
        chosen = int(masks[row, :2].sum())
        torch.testing.assert_close(log_probs[row], allowed.log_prob(torch.tensor(chosen)))
        torch.testing.assert_close(entropy[row], allowed.entropy(), atol=1e-6, rtol=1e-5)
    (gradient,) = torch.autograd.grad((log_probs + entropy).sum(), logits)
    assert gradient.isfinite().all() and (gradient[~masks] == 0).all() and (gradient[masks] != 0).any()


def test_the_gaussian_head_is_torchs_distribution():
    head = GaussianHead(3, log_std_init=-0.5)
    with torch.no_grad():
        head.log_std.add_(torch.randn(3))
    means, actions = torch.randn(20, 3), torch.randn(20, 3)
    log_density, entropy = head(means, actions)
    expected = Independent(Normal(means, head.log_std.exp()), 1)
    torch.testing.assert_close(log_density, expected.log_prob(actions))
    torch.testing.assert_close(entropy, expected.entropy())


def test_initial_weights_are_orthogonal_and_the_initial_policy_nearly_uniform():
    policy, value = PolicyNetwork(6, [32, 16], 3, discrete=True), ValueNetwork(6, [32, 16])
    for net, gain in [(policy, 0.01), (value, 1.0)]:
        layers = [layer for layer in net.mlp if isinstance(layer, torch.nn.Linear)]
        assert [tuple(layer.weight.shape) for layer in layers[:2]] == [(32, 6), (16, 32)]
        for layer, expected in zip(layers, [math.sqrt(2), math.sqrt(2), gain], strict=True):
            torch.testing.assert_close(torch.linalg.svdvals(layer.weight), torch.full((min(layer.weight.shape),), expected))
            assert not layer.bias.any()
    _, entropy = policy(torch.randn(100, 6), torch.zeros(100, dtype=torch.int64))
    assert float(entropy.detach().min()) > math.log(3) - 1e-3


@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize("obs_rms", [None, RunningMeanStd(5)])
def test_an_actor_computes_what_the_network_computes(discrete, obs_rms):
    net = perturbed(PolicyNetwork(5, [16, 8], 3, discrete))
    if obs_rms is not None:
        update(obs_rms, 2 + 3 * torch.randn(100, 5))
    obs = torch.cat([2 + 3 * torch.randn(40, 5), torch.full((1, 5), 1e4)])  # a feature like no other is clipped
    if obs_rms is not None:
        assert (obs_rms(obs)[-1] == 10).all()
    expected = net.mlp(obs if obs_rms is None else obs_rms(obs))
    actor = Actor(net, obs_rms)
    np.testing.assert_allclose(actor.outputs(obs.numpy()), expected.detach().numpy(), rtol=1e-4, atol=1e-5)
    chosen = actor(obs.numpy(), None)
    assert np.array_equal(chosen, expected.argmax(1).numpy()) if discrete else chosen.shape == (41, 3)
    perturbed(net)
    np.testing.assert_allclose(
        actor.outputs(obs.numpy()), net.mlp(obs if obs_rms is None else obs_rms(obs)).detach().numpy(), rtol=1e-4, atol=1e-5
    )


def test_sampled_discrete_actions_have_the_policys_frequencies_and_keep_to_the_masks():
    net = perturbed(PolicyNetwork(2, [8], 4, discrete=True))
    obs = torch.randn(1, 2).expand(2, 2).contiguous()
    masks = np.array([[True] * 4, [True, False, True, True]])
    noise = sample_noise(20_000, 2, 4, True, torch.Generator().manual_seed(0))
    sampler = StochasticActor(Actor(net, None), noise)
    actions = np.stack([sampler(obs.numpy(), masks) for _ in range(20_000)])
    probabilities = net.mlp(obs[0]).softmax(0).detach().numpy().astype(float)
    for column, allowed in enumerate(masks):
        expected = np.where(allowed, probabilities, 0)
        expected *= 20_000 / expected.sum()
        counts = np.bincount(actions[:, column], minlength=4)
        assert counts[~allowed].sum() == 0
        assert stats.chisquare(counts[allowed], expected[allowed]).pvalue > 1e-3
    with pytest.raises(StopIteration):
        sampler(obs.numpy(), masks)


def test_sampled_continuous_actions_are_normal_around_the_means():
    net = perturbed(PolicyNetwork(2, [8], 2, discrete=False))
    obs = torch.randn(1, 2)
    sampler = StochasticActor(Actor(net, None), sample_noise(5000, 1, 2, False, torch.Generator().manual_seed(1)))
    actions = np.concatenate([sampler(obs.numpy(), None) for _ in range(5000)])
    means, deviations = net.mlp(obs)[0].detach().numpy(), net.head.log_std.exp().detach().numpy()
    for i in range(2):
        assert stats.kstest(actions[:, i], "norm", (means[i], deviations[i])).pvalue > 1e-3


def test_running_moments_are_those_of_all_observations_at_once():
    parts = [
        torch.randn(n, 3) * torch.tensor([1.0, 100.0, 0.01]) + torch.tensor([5.0, -300.0, 0.0]) for n in (10, 1, 500, 37)
    ]
    obs_rms = RunningMeanStd(3)
    torch.testing.assert_close(obs_rms(parts[0]), parts[0].clamp(-10, 10), msg="before the first update it only clips")
    for part in parts:
        update(obs_rms, part)
    everything = torch.cat(parts)
    assert obs_rms.count == len(everything)
    torch.testing.assert_close(obs_rms.mean, everything.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(obs_rms.var, everything.var(0, correction=0), rtol=1e-4, atol=1e-8)
    restored = RunningMeanStd(3)
    restored.load_state_dict(obs_rms.state_dict())
    torch.testing.assert_close(restored(everything).std(0, correction=0), torch.ones(3), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("value", [7.1, 0.0, -1e6])
def test_a_constant_feature_is_normalized_to_zero_and_its_first_change_is_not_enlarged(value):
    obs_rms = RunningMeanStd(2)
    for _ in range(3):
        update(obs_rms, torch.tensor([[value, 1.0], [value, 2.0], [value, 5.0]]))
    normalized = obs_rms(torch.tensor([[value, 1.0], [value + 1, 1.0]]))[:, 0]
    assert normalized.tolist() == pytest.approx([0, 1], abs=0.1)
