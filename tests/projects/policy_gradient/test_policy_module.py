"""The module's steps are the papers': the analytic gradient on a bandit, and a plain loop written out for the rest."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch.distributions import Categorical

from common.callbacks.gradients import GradientMonitor
from common.errors import UserError
from projects.policy_gradient.chance import MINIBATCHES, generator_of
from projects.policy_gradient.data import PolicyGradientData
from projects.policy_gradient.losses import clipped_policy_loss, explained_variance
from projects.policy_gradient.module import PolicyGradientModule
from projects.policy_gradient.rollout import Rollout
from projects.policy_gradient.samples import deal

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


def fit(module, data, *callbacks, epochs=1, **options):
    options = {"limit_val_batches": 0, **options}
    trainer = Trainer(max_epochs=epochs, accelerator="cpu", callbacks=list(callbacks), **QUIET, **options)
    trainer.fit(module, datamodule=data)
    return trainer


def small_data(**options):
    return PolicyGradientData(**{"envs": 3, "steps": 24, "rollouts": 4, "eval_episodes": 2, **options})


class Batches(Callback):
    """Keeps the rollouts of a run."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append(batch)


def bandit(actions: list[int], arms: list[float]) -> Rollout:
    """Episodes of one step: an arm is pulled, its reward paid."""
    count = len(actions)
    yes, no = torch.ones(count, 1, dtype=torch.bool), torch.zeros(count, 1, dtype=torch.bool)
    return Rollout(
        observations=torch.ones(count, 1, 1),
        actions=torch.tensor(actions)[:, None],
        rewards=torch.tensor([arms[a] for a in actions])[:, None],
        terminated=yes,
        truncated=no,
        valid=yes,
        masks=None,
        last_observations=torch.ones(1, 1),
        ends=torch.empty(0, 2, dtype=torch.int64),
        end_observations=torch.empty(0, 1),
        returns=torch.empty(0),
        lengths=torch.empty(0),
    )


@pytest.mark.parametrize("clip", [0.0, 0.2])
@pytest.mark.parametrize("arms", [[1.0, 3.0], [-2.0, 5.0]])
def test_the_losss_gradient_is_the_analytic_policy_gradient_on_a_bandit(arms, clip):
    # softmax policy over two arms: dJ/d logit_0 = p0 p1 (r0 - r1), and the opposite for logit_1
    module = PolicyGradientModule(1, 2, hidden=[], baseline=False, gae_lambda=1, normalize_advantages=False, clip_ratio=clip)
    layer = module.policy.stack[0]
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(torch.tensor([0.25, 0.75]).log())
    module.compute_loss(bandit([0, 1, 1, 1], arms)).backward()  # each arm as often as its probability says
    slope = 0.25 * 0.75 * (arms[0] - arms[1])
    torch.testing.assert_close(layer.bias.grad, torch.tensor([-slope, slope]))
    torch.testing.assert_close(layer.weight.grad[:, 0], torch.tensor([-slope, slope]))


def test_a_baseline_leaves_the_expected_gradient_and_the_entropy_adds_its_own():
    gradients = []
    for options in [{"baseline": False}, {"baseline": True}, {"baseline": True, "entropy": 0.3}]:
        module = PolicyGradientModule(1, 2, hidden=[], gae_lambda=1, normalize_advantages=False, **options)
        with torch.no_grad():
            module.policy.stack[0].bias.copy_(torch.tensor([0.25, 0.75]).log())
            module.policy.stack[0].weight.zero_()
        module.compute_loss(bandit([0, 1, 1, 1], [1.0, 3.0])).backward()
        gradients.append(module.policy.stack[0].bias.grad)
    torch.testing.assert_close(gradients[1], gradients[0])
    logits = torch.tensor([0.25, 0.75]).log().requires_grad_()
    (expected,) = torch.autograd.grad(-0.3 * Categorical(logits=logits).entropy(), logits)
    torch.testing.assert_close(gradients[2] - gradients[1], expected)


def test_beyond_the_clip_there_is_no_gradient_towards_more_of_it():
    ratios = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1, 0.9]).log().requires_grad_()
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0, 2.0, -2.0])
    loss = clipped_policy_loss(ratios, torch.zeros(6), advantages, 0.2)
    torch.testing.assert_close(loss, torch.tensor([-1.2, 1.5, -0.5, 0.8, -2.2, 1.8]))
    (gradient,) = torch.autograd.grad(loss.sum(), ratios)
    assert (gradient == 0).tolist() == [True, False, False, True, False, False]


def test_explained_variance_is_1_for_perfect_values_and_0_for_a_constant():
    targets = torch.randn(30)
    assert explained_variance(targets, targets) == 1
    assert float(explained_variance(torch.full((30,), 7.0), targets)) == pytest.approx(0, abs=1e-5)


def slow_advantages(rollout, values, last_values, discount, trace):
    """The definition's recursion for NEXT_STEP rollouts, step by step and environment by environment."""
    steps, envs = rollout.rewards.shape
    advantages = torch.zeros(steps, envs, dtype=values.dtype)
    for env in range(envs):
        following = 0.0
        for t in reversed(range(steps)):
            if not rollout.valid[t, env]:
                following = 0.0
                continue
            beyond = values[t + 1, env] if t + 1 < steps else last_values[env]
            if rollout.terminated[t, env]:
                beyond = 0.0
            if rollout.ended[t, env]:
                following = 0.0
            surprise = rollout.rewards[t, env].to(values.dtype) + discount * beyond - values[t, env]
            advantages[t, env] = following = surprise + discount * trace * following
    return advantages


def plain_loop(start, rollouts, seed):
    """Clipped passes with all options, written out; returns the networks and the scale at the end."""
    policy, value = copy.deepcopy(start.policy), copy.deepcopy(start.value)
    parameters = [*policy.parameters(), *value.parameters()]
    adam = torch.optim.Adam(parameters, 1e-2, eps=1e-5)
    everything, mean, deviation = [], torch.zeros(4).double(), torch.ones(4).double()
    for number, rollout in enumerate(rollouts):
        for group in adam.param_groups:
            group["lr"] = 1e-2 * (1 - number / len(rollouts))
        seen, last = ((x.double() - mean) / deviation for x in (rollout.observations, rollout.last_observations))
        with torch.no_grad():
            values = value(seen)
            advantages = slow_advantages(rollout, values, value(last), 0.95, 0.9)[rollout.valid]
            targets = advantages + values[rollout.valid]
            advantages = (advantages - advantages.mean()) / advantages.std(correction=0)
            observations, actions = seen[rollout.valid], rollout.actions[rollout.valid]
            old = Categorical(logits=policy.stack(observations)).log_prob(actions)
        for batch in deal(rollout.valid, 3, 2, generator_of(seed, MINIBATCHES, number)):
            distribution = Categorical(logits=policy.stack(observations[batch]))
            ratio = (distribution.log_prob(actions[batch]) - old[batch]).exp()
            a = advantages[batch]
            loss = -torch.min(ratio * a, ratio.clamp(0.8, 1.2) * a) - 0.02 * distribution.entropy()
            loss = loss + 0.7 * (value(observations[batch]) - targets[batch]) ** 2
            adam.zero_grad()
            loss.mean().backward()
            torch.nn.utils.clip_grad_norm_(parameters, 0.4)
            adam.step()
        everything.append(rollout.observations.double().flatten(0, 1))
        mean, deviation = torch.cat(everything).mean(0), (torch.cat(everything).var(0, correction=0) + 1e-8).sqrt()
    return policy, value, mean, deviation


def test_training_is_the_plain_loop_and_counts_rollouts():
    module = PolicyGradientModule(
        hidden=[16],
        discount=0.95,
        gae_lambda=0.9,
        normalize_observations=True,
        entropy=0.02,
        passes=3,
        minibatches=2,
        clip_ratio=0.2,
        value_weight=0.7,
        lr=1e-2,
        schedule="linear",
        clip_norm=0.4,
    ).double()
    start, data, batches = copy.deepcopy(module), small_data(), Batches()
    trainer = fit(module, data, batches, precision="64-true")
    assert trainer.global_step == len(batches.seen) == 4
    assert any(rollout.ended.any() for rollout in batches.seen) and not all(r.valid.all() for r in batches.seen)
    policy, value, mean, deviation = plain_loop(start, batches.seen, data.seed)
    for ours, theirs in [(module.policy, policy), (module.value, value)]:
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(module.scale.mean, mean, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(module.scale.deviation, deviation, rtol=1e-7, atol=1e-9)


def test_plain_reinforce_is_the_sum_of_log_probabilities_times_rewards_to_go():
    options = {"baseline": False, "gae_lambda": 1.0, "normalize_advantages": False, "clip_norm": 0.0, "lr": 1e-2}
    module, data, batches = PolicyGradientModule(hidden=[16], **options).double(), small_data(steps=40), Batches()
    start = copy.deepcopy(module.policy)
    fit(module, data, batches, precision="64-true")
    adam = torch.optim.Adam(start.parameters(), 1e-2, eps=1e-5)
    for rollout in batches.seen:
        terms = []
        for env in range(3):
            begun = 0
            for t in range(40):
                if not rollout.valid[t, env]:
                    begun = t + 1
                elif rollout.ended[t, env]:
                    for k in range(begun, t + 1):
                        to_go = sum(0.99 ** (j - k) * float(rollout.rewards[j, env]) for j in range(k, t + 1))
                        chosen = Categorical(logits=start.stack(rollout.observations[k, env].double()))
                        terms.append(-chosen.log_prob(rollout.actions[k, env]) * to_go)
                    begun = t + 1
        adam.zero_grad()
        (sum(terms) / len(terms)).backward()
        adam.step()
    for a, b in zip(module.policy.parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def test_each_rollout_is_made_by_the_policy_that_then_learns_from_it():
    module, data = PolicyGradientModule(hidden=[8], lr=0.05, normalize_observations=True), small_data()
    made, learned = [], []

    def state() -> torch.Tensor:
        return torch.cat([value.flatten() for value in module.state_dict().values()]).clone()

    original = module.actor

    def actor():
        act = original()

        def outputs(seen, usual=act.outputs):
            made[-1].append(state())
            return usual(seen)

        act.outputs = outputs
        made.append([])
        return act

    module.actor = actor
    step = module.training_step

    def training_step(rollout, batch_idx):
        learned.append(state())
        return step(rollout, batch_idx)

    module.training_step = training_step
    fit(module, data, epochs=2)
    assert [len(states) for states in made] == [24] * 8 and len(learned) == 8
    for acted, before in zip(made, learned, strict=True):
        assert all(torch.equal(now, before) for now in acted)
    assert all(not torch.equal(a, b) for a, b in pairwise(learned)), "it has to learn to prove anything"


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_minibatches_take_each_counted_transition_once_a_pass_and_processes_share_those_of_one(world_size):
    counted = torch.rand(30, 2 * world_size) < 0.8
    whole = deal(counted, 2, 4, torch.Generator().manual_seed(5))
    assert len(whole) == 8
    for batches in (whole[:4], whole[4:]):
        assert torch.equal(torch.cat(batches).sort().values, torch.arange(int(counted.sum())))
        assert max(map(len, batches)) - min(map(len, batches)) < 20
    assert not torch.equal(whole[0].sort().values, whole[4].sort().values), "another order in each pass"
    numbers = torch.full(counted.shape, -1)
    numbers[counted] = torch.arange(int(counted.sum()))
    shares = []
    for rank in range(world_size):
        mine = slice(2 * rank, 2 * rank + 2)
        batches = deal(counted[:, mine], 2, 4, torch.Generator().manual_seed(5), rank, world_size)
        shares.append([numbers[:, mine][counted[:, mine]][batch] for batch in batches])
    for number, batch in enumerate(whole):
        together = torch.cat([share[number] for share in shares])
        assert torch.equal(together.sort().values, batch.sort().values)


def test_training_stops_once_a_validation_reaches_the_threshold():
    module, data = PolicyGradientModule(threshold=0.0), small_data()
    assert fit(module, data, epochs=5, limit_val_batches=None).global_step == 4
    module = PolicyGradientModule(threshold=501.0)
    assert fit(module, small_data(), epochs=2, limit_val_batches=None).global_step == 8


def test_weights_that_are_not_finite_stop_the_run(tmp_path):
    module, data = PolicyGradientModule(clip_ratio=0.2, passes=2), small_data()
    with torch.no_grad():
        module.value.stack[0].weight[0, 0] = math.nan
    with pytest.raises(UserError, match="the loss is nan"):
        fit(module, data, GradientMonitor(tmp_path))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"schedule": "cosine"}, "--model.schedule cosine: use one of constant, linear"),
        ({"passes": 4}, "--model.clip_ratio 0: after one step"),
        ({"baseline": False}, "--model.gae_lambda 0.95: below 1 it needs a value network"),
        ({"discount": 1.1}, "--model.discount and gae_lambda are from 0 to 1"),
        ({"hidden": [0]}, "hidden are at least 1"),
        ({"entropy": -1.0}, "entropy, clip_ratio"),
    ],
)
def test_settings_that_cannot_be_are_named(options, line):
    with pytest.raises(UserError) as error:
        PolicyGradientModule(**options)
    assert line in str(error.value)
