"""Heads are torch's own distributions, acting is the network's forward pass, and the running scale forgets nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Categorical, Independent, Normal

from projects.policy_gradient.acting import Actor, Sampler, draw_noise
from projects.policy_gradient.networks import (
    CategoricalHead,
    GaussianHead,
    PolicyNetwork,
    RunningScale,
    ValueNetwork,
    moments,
)


def perturbed(net: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return net


def test_choices_have_the_probabilities_and_entropy_of_torchs_distribution():
    logits, actions = 3 * torch.randn(50, 4), torch.randint(0, 4, (50,))
    log_probs, entropy = CategoricalHead()(logits, actions)
    expected = Categorical(logits=logits)
    torch.testing.assert_close(log_probs, expected.log_prob(actions))
    torch.testing.assert_close(entropy, expected.entropy())


def test_what_is_not_allowed_has_no_probability_and_no_gradient():
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


def test_numbers_have_the_density_and_entropy_of_torchs_distribution():
    head = GaussianHead(3, log_std=-0.5)
    with torch.no_grad():
        head.log_std.add_(torch.randn(3))
    means, actions = torch.randn(20, 3), torch.randn(20, 3)
    log_density, entropy = head(means, actions)
    expected = Independent(Normal(means, head.log_std.exp()), 1)
    torch.testing.assert_close(log_density, expected.log_prob(actions))
    torch.testing.assert_close(entropy, expected.entropy())


def test_networks_begin_orthogonal_and_a_policy_nearly_indifferent():
    policy, value = PolicyNetwork(6, [32, 16], 3, discrete=True), ValueNetwork(6, [32, 16])
    for net, gain in [(policy, 0.01), (value, 1.0)]:
        layers = [layer for layer in net.stack if isinstance(layer, torch.nn.Linear)]
        assert [tuple(layer.weight.shape) for layer in layers[:2]] == [(32, 6), (16, 32)]
        for layer, expected in zip(layers, [math.sqrt(2), math.sqrt(2), gain], strict=True):
            torch.testing.assert_close(torch.linalg.svdvals(layer.weight), torch.full((min(layer.weight.shape),), expected))
            assert not layer.bias.any()
    _, entropy = policy(torch.randn(100, 6), torch.zeros(100, dtype=torch.int64))
    assert float(entropy.detach().min()) > math.log(3) - 1e-3


@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize("scale", [None, RunningScale(5)])
def test_an_actor_computes_what_the_network_computes(discrete, scale):
    net = perturbed(PolicyNetwork(5, [16, 8], 3, discrete))
    if scale is not None:
        scale.take_in(*moments(2 + 3 * torch.randn(100, 5)))
    seen = 2 + 3 * torch.randn(40, 5)
    expected = net.stack(seen if scale is None else scale(seen))
    actor = Actor(net, scale)
    np.testing.assert_allclose(actor.outputs(seen.numpy()), expected.detach().numpy(), rtol=1e-4, atol=1e-5)
    chosen = actor(seen.numpy(), None)
    assert np.array_equal(chosen, expected.argmax(1).numpy()) if discrete else chosen.shape == (40, 3)
    perturbed(net)
    np.testing.assert_allclose(
        actor.outputs(seen.numpy()), net.stack(seen if scale is None else scale(seen)).detach().numpy(), rtol=1e-4, atol=1e-5
    )


def test_drawn_choices_have_the_policys_frequencies_and_keep_to_the_masks():
    net = perturbed(PolicyNetwork(2, [8], 4, discrete=True))
    seen = torch.randn(1, 2).expand(2, 2).contiguous()
    masks = np.array([[True] * 4, [True, False, True, True]])
    noise = draw_noise(20_000, 2, 4, True, torch.Generator().manual_seed(0))
    sampler = Sampler(Actor(net, None), noise)
    drawn = np.stack([sampler(seen.numpy(), masks) for _ in range(20_000)])
    probabilities = net.stack(seen[0]).softmax(0).detach().numpy().astype(float)
    for column, allowed in enumerate(masks):
        expected = np.where(allowed, probabilities, 0)
        expected *= 20_000 / expected.sum()
        counts = np.bincount(drawn[:, column], minlength=4)
        assert counts[~allowed].sum() == 0
        assert stats.chisquare(counts[allowed], expected[allowed]).pvalue > 1e-3
    with pytest.raises(StopIteration):
        sampler(seen.numpy(), masks)


def test_drawn_numbers_are_normal_around_the_networks_outputs():
    net = perturbed(PolicyNetwork(2, [8], 2, discrete=False))
    seen = torch.randn(1, 2)
    sampler = Sampler(Actor(net, None), draw_noise(5000, 1, 2, False, torch.Generator().manual_seed(1)))
    drawn = np.concatenate([sampler(seen.numpy(), None) for _ in range(5000)])
    means, deviations = net.stack(seen)[0].detach().numpy(), net.head.log_std.exp().detach().numpy()
    for i in range(2):
        assert stats.kstest(drawn[:, i], "norm", (means[i], deviations[i])).pvalue > 1e-3


def test_the_running_scale_knows_all_it_has_seen_as_if_at_once():
    parts = [
        torch.randn(n, 3) * torch.tensor([1.0, 100.0, 0.01]) + torch.tensor([5.0, -300.0, 0.0]) for n in (10, 1, 500, 37)
    ]
    scale = RunningScale(3)
    torch.testing.assert_close(scale(parts[0]), parts[0], msg="before it has seen anything it changes nothing")
    for part in parts:
        scale.take_in(*moments(part))
    everything = torch.cat(parts)
    assert scale.count == len(everything)
    torch.testing.assert_close(scale.mean, everything.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(scale.variance, everything.var(0, correction=0), rtol=1e-4, atol=1e-8)
    restored = RunningScale(3)
    restored.load_state_dict(scale.state_dict())
    torch.testing.assert_close(restored(everything).std(0, correction=0), torch.ones(3), rtol=1e-3, atol=1e-3)


def test_a_number_that_never_changes_is_scaled_to_zero_and_not_to_infinity():
    scale = RunningScale(2)
    scale.take_in(*moments(torch.tensor([[7.0, 1.0], [7.0, 2.0]])))
    assert scale(torch.tensor([7.0, 1.0]))[0] == 0
