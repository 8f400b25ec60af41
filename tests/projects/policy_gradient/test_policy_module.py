"""PPO and REINFORCE updates: the analytic policy gradient on a bandit, and a plain loop written out for the rest."""

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
from common.io.csv_metrics import csv_logger
from common.io.metrics import read_metrics
from projects.policy_gradient.data import PolicyGradientData
from projects.policy_gradient.losses import explained_variance, ppo_clip_loss
from projects.policy_gradient.minibatches import minibatch_indices
from projects.policy_gradient.module import PolicyGradientModule
from projects.policy_gradient.rollout import Rollout
from projects.policy_gradient.seeding import MINIBATCHES, make_generator

ONE_STEP = {"update_epochs": 1, "num_minibatches": 1}
REINFORCE = {**ONE_STEP, "clip_coef": 0.0}
SCALE = 0.3  # of rewards
QUIET = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


def fit(module, data, *callbacks, epochs=1, **options):
    options = {"limit_val_batches": 0, "logger": False, **options}
    trainer = Trainer(max_epochs=epochs, accelerator="cpu", callbacks=list(callbacks), **QUIET, **options)
    trainer.fit(module, datamodule=data)
    return trainer


def small_data(**options):
    return PolicyGradientData(**{"num_envs": 3, "num_steps": 24, "rollouts_per_epoch": 4, "eval_episodes": 2, **options})


class Batches(Callback):
    """Keeps the rollouts of a run."""

    def __init__(self):
        self.rollouts = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.rollouts.append(batch)


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
        action_masks=None,
        next_obs=torch.ones(1, 1),
        final_obs_index=torch.empty(0, 2, dtype=torch.int64),
        final_obs=torch.empty(0, 1),
        episode_returns=torch.empty(0),
        episode_lengths=torch.empty(0),
    )


@pytest.mark.parametrize("clip_coef", [0.0, 0.2])
@pytest.mark.parametrize("arms", [[1.0, 3.0], [-2.0, 5.0]])
def test_the_gradient_is_the_analytic_policy_gradient_on_a_bandit(arms, clip_coef):
    # softmax policy over two arms: dJ/d logit_0 = p0 p1 (r0 - r1), and the opposite for logit_1
    module = PolicyGradientModule(
        1,
        2,
        hidden_dims=[],
        baseline=False,
        gae_lambda=1,
        reward_scale=1.0,
        normalize_advantages=False,
        clip_coef=clip_coef,
        **ONE_STEP,
    )
    layer = module.policy.mlp[0]
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(torch.tensor([0.25, 0.75]).log())
    module.compute_loss(bandit([0, 1, 1, 1], arms)).backward()  # each arm as often as its probability says
    gradient = 0.25 * 0.75 * (arms[0] - arms[1])
    torch.testing.assert_close(layer.bias.grad, torch.tensor([-gradient, gradient]))
    torch.testing.assert_close(layer.weight.grad[:, 0], torch.tensor([-gradient, gradient]))


def test_a_baseline_leaves_the_expected_gradient_and_the_entropy_bonus_adds_its_own():
    gradients = []
    for options in [{"baseline": False}, {"baseline": True}, {"baseline": True, "ent_coef": 0.3}]:
        module = PolicyGradientModule(1, 2, hidden_dims=[], gae_lambda=1, normalize_advantages=False, **REINFORCE, **options)
        with torch.no_grad():
            module.policy.mlp[0].bias.copy_(torch.tensor([0.25, 0.75]).log())
            module.policy.mlp[0].weight.zero_()
        module.compute_loss(bandit([0, 1, 1, 1], [1.0, 3.0])).backward()
        gradients.append(module.policy.mlp[0].bias.grad)
    torch.testing.assert_close(gradients[1], gradients[0])
    logits = torch.tensor([0.25, 0.75]).log().requires_grad_()
    (expected,) = torch.autograd.grad(-0.3 * Categorical(logits=logits).entropy(), logits)
    torch.testing.assert_close(gradients[2] - gradients[1], expected)


def test_beyond_the_clip_range_there_is_no_gradient():
    ratios = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1, 0.9]).requires_grad_()
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0, 2.0, -2.0])
    loss = ppo_clip_loss(ratios, advantages, 0.2)
    torch.testing.assert_close(loss, torch.tensor([-1.2, 1.5, -0.5, 0.8, -2.2, 1.8]))
    (gradient,) = torch.autograd.grad(loss.sum(), ratios)
    assert (gradient == 0).tolist() == [True, False, False, True, False, False]


def test_approx_kl_and_clip_fraction_are_those_worked_out_by_hand():
    # old probabilities 0.25 and 0.75, new ones 0.5 each: ratios 2 and 2/3, so that ratio - 1 - log(ratio) is 0.307 and 0.072
    module = PolicyGradientModule(1, 2, hidden_dims=[], clip_coef=0.4)
    with torch.no_grad():
        module.policy.mlp[0].weight.zero_()
    batch, _ = module.compute_advantages(bandit([0, 1], [1.0, 3.0]))
    batch.old_log_probs = torch.tensor([0.25, 0.75]).log()
    _, metrics = module.ppo_losses(batch)
    torch.testing.assert_close(metrics["approx_kl"], torch.tensor([0.3068528, 0.0721318]))
    assert metrics["clip_fraction"].tolist() == [1.0, 0.0]


def test_explained_variance_is_1_for_perfect_values_and_0_for_a_constant():
    returns = torch.randn(30)
    assert explained_variance(returns, returns) == 1
    assert float(explained_variance(torch.full((30,), 7.0), returns)) == pytest.approx(0, abs=1e-5)


def slow_advantages(rollout, values, last_values, gamma, gae_lambda):
    """The definition's recursion for NEXT_STEP rollouts, step by step and environment by environment."""
    steps, envs = rollout.rewards.shape
    advantages = torch.zeros(steps, envs, dtype=values.dtype)
    for env in range(envs):
        next_advantage = 0.0
        for t in reversed(range(steps)):
            if not rollout.valid[t, env]:
                next_advantage = 0.0
                continue
            next_value = values[t + 1, env] if t + 1 < steps else last_values[env]
            if rollout.terminated[t, env]:
                next_value = 0.0
            if rollout.done[t, env]:
                next_advantage = 0.0
            td_error = SCALE * rollout.rewards[t, env].to(values.dtype) + gamma * next_value - values[t, env]
            advantages[t, env] = next_advantage = td_error + gamma * gae_lambda * next_advantage
    return advantages


def plain_loop(start, rollouts, seed):
    """PPO with all options, written out; returns the networks and the running mean and standard deviation at the end."""
    policy, value = copy.deepcopy(start.policy), copy.deepcopy(start.value)
    parameters = [*policy.parameters(), *value.parameters()]
    adam = torch.optim.Adam(parameters, 1e-2, eps=1e-5)
    everything, mean, std = [], torch.zeros(4).double(), torch.ones(4).double()
    for rollout_idx, rollout in enumerate(rollouts):
        for group in adam.param_groups:
            group["lr"] = 1e-2 * (1 - rollout_idx / len(rollouts))
        obs, last = ((x.double() - mean) / std for x in (rollout.observations, rollout.next_obs))
        with torch.no_grad():
            values = value(obs)
            advantages = slow_advantages(rollout, values, value(last), 0.95, 0.9)[rollout.valid]
            targets = advantages + values[rollout.valid]
            advantages = (advantages - advantages.mean()) / advantages.std(correction=0)
            observations, actions = obs[rollout.valid], rollout.actions[rollout.valid]
            old = Categorical(logits=policy.mlp(observations)).log_prob(actions)
        generator = make_generator(seed, MINIBATCHES, rollout_idx)
        for batch in [index for _ in range(3) for index, _ in minibatch_indices(rollout.valid[None], 2, generator)]:
            distribution = Categorical(logits=policy.mlp(observations[batch]))
            ratio = (distribution.log_prob(actions[batch]) - old[batch]).exp()
            a = advantages[batch]
            loss = -torch.min(ratio * a, ratio.clamp(0.8, 1.2) * a) - 0.02 * distribution.entropy()
            loss = loss + 0.7 * (value(observations[batch]) - targets[batch]) ** 2
            adam.zero_grad()
            loss.mean().backward()
            torch.nn.utils.clip_grad_norm_(parameters, 0.4)
            adam.step()
        everything.append(rollout.observations.double().flatten(0, 1))
        mean, std = torch.cat(everything).mean(0), (torch.cat(everything).var(0, correction=0) + 1e-8).sqrt()
    return policy, value, mean, std


def test_ppo_is_the_plain_loop_and_counts_rollouts():
    module = PolicyGradientModule(
        hidden_dims=[16],
        gamma=0.95,
        reward_scale=SCALE,
        gae_lambda=0.9,
        normalize_observations=True,
        ent_coef=0.02,
        update_epochs=3,
        num_minibatches=2,
        clip_coef=0.2,
        vf_coef=0.7,
        lr=1e-2,
        schedule="linear",
        max_grad_norm=0.4,
    ).double()
    start, data, batches = copy.deepcopy(module), small_data(), Batches()
    trainer = fit(module, data, batches, precision="64-true")
    assert trainer.global_step == len(batches.rollouts) == 4
    assert any(rollout.done.any() for rollout in batches.rollouts) and not all(r.valid.all() for r in batches.rollouts)
    policy, value, mean, std = plain_loop(start, batches.rollouts, data.seed)
    for ours, theirs in [(module.policy, policy), (module.value, value)]:
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(module.obs_rms.mean, mean, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(module.obs_rms.std, std, rtol=1e-7, atol=1e-9)


def test_reinforce_is_the_mean_of_log_probabilities_times_rewards_to_go():
    options = {
        "baseline": False,
        "gae_lambda": 1.0,
        "normalize_advantages": False,
        "max_grad_norm": 0.0,
        "lr": 1e-2,
        "reward_scale": SCALE,
    }
    module, data, batches = (
        PolicyGradientModule(hidden_dims=[16], **options, **REINFORCE).double(),
        small_data(num_steps=90),
        Batches(),
    )
    start = copy.deepcopy(module.policy)
    fit(module, data, batches, precision="64-true")
    adam = torch.optim.Adam(start.parameters(), 1e-2, eps=1e-5)
    for rollout in batches.rollouts:
        terms = []
        for env in range(3):
            begun = 0
            for t in range(90):
                if not rollout.valid[t, env]:
                    begun = t + 1
                elif rollout.done[t, env]:
                    for k in range(begun, t + 1):
                        to_go = SCALE * sum(0.99 ** (j - k) * float(rollout.rewards[j, env]) for j in range(k, t + 1))
                        chosen = Categorical(logits=start.mlp(rollout.observations[k, env].double()))
                        terms.append(-chosen.log_prob(rollout.actions[k, env]) * to_go)
                    begun = t + 1
        adam.zero_grad()
        (sum(terms) / len(terms)).backward()
        adam.step()
    for a, b in zip(module.policy.parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def test_without_a_value_network_a_rollout_without_an_end_changes_nothing_and_is_reported(capsys):
    module = PolicyGradientModule(hidden_dims=[8], baseline=False, gae_lambda=1.0, **REINFORCE)
    before, data = copy.deepcopy(module.state_dict()), small_data(num_steps=3)
    trainer = fit(module, data)
    assert trainer.global_step == 4 and all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("NOTE: no episode ended in a rollout of 3 steps") and "--data.num_steps" in line
    fit(module, small_data(num_steps=100))
    assert not all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    assert not capsys.readouterr().out


def test_returns_are_logged_only_where_an_episode_ended(tmp_path):
    module, data, batches = PolicyGradientModule(hidden_dims=[8]), small_data(num_steps=6, rollouts_per_epoch=12), Batches()
    fit(module, data, batches, logger=csv_logger(tmp_path), log_every_n_steps=1)
    rows = {int(row["step"]): row for row in read_metrics(tmp_path / "metrics.csv") if "train/loss" in row}
    ended = [len(rollout.episode_returns) > 0 for rollout in batches.rollouts]
    assert [("train/return_mean" in rows[step]) for step in range(12)] == ended and 0 < sum(ended) < 12
    for step, rollout in enumerate(batches.rollouts):
        if ended[step]:
            assert rows[step]["train/return_mean"] == pytest.approx(float(rollout.episode_returns.mean()))


def test_each_rollout_is_collected_by_the_policy_that_then_learns_from_it():
    module, data = PolicyGradientModule(hidden_dims=[8], lr=0.05, normalize_observations=True), small_data()
    collected, learned = [], []

    def state() -> torch.Tensor:
        return torch.cat([value.flatten() for value in module.state_dict().values()]).clone()

    original = module.actor

    def actor():
        act = original()

        def outputs(obs, usual=act.outputs):
            collected[-1].append(state())
            return usual(obs)

        act.outputs = outputs
        collected.append([])
        return act

    module.actor = actor
    step = module.training_step

    def training_step(rollout, batch_idx):
        learned.append(state())
        return step(rollout, batch_idx)

    module.training_step = training_step
    fit(module, data, epochs=2)
    assert [len(states) for states in collected] == [24] * 8 and len(learned) == 8
    for acted, before in zip(collected, learned, strict=True):
        assert all(torch.equal(now, before) for now in acted)
    assert all(not torch.equal(a, b) for a, b in pairwise(learned)), "it has to learn to prove anything"


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_minibatches_have_each_transition_once_an_epoch_and_processes_split_those_of_one(world_size):
    steps, envs = 30, 2
    valid = torch.rand(world_size, steps, envs) < 0.8
    generators = [torch.Generator().manual_seed(5) for _ in range(world_size)]
    one_process = valid.transpose(0, 1).reshape(1, steps, world_size * envs)
    ids = torch.full(one_process.shape[1:], -1)
    ids[one_process[0]] = torch.arange(int(valid.sum()))
    own_ids = [ids[:, 2 * rank : 2 * rank + 2][valid[rank]] for rank in range(world_size)]
    generator, orders = torch.Generator().manual_seed(5), []
    for _ in range(2):
        whole = list(minibatch_indices(one_process, 4, generator))
        assert torch.equal(torch.cat([index for index, _ in whole]).sort().values, torch.arange(int(valid.sum())))
        sizes = [size for _, size in whole]
        assert sizes == [len(index) for index, _ in whole] and max(sizes) - min(sizes) < 20
        parts = [list(minibatch_indices(valid, 4, each, rank)) for rank, each in enumerate(generators)]
        for i, (index, size) in enumerate(whole):
            together = torch.cat([own_ids[rank][part[i][0]] for rank, part in enumerate(parts)])
            assert torch.equal(together.sort().values, index.sort().values)
            assert all(part[i][1] == size for part in parts)
        orders.append(whole[0][0].sort().values)
    assert not torch.equal(*orders), "another order in each epoch"


def test_training_stops_once_a_validation_reaches_the_threshold():
    module, data = PolicyGradientModule(reward_threshold=0.0), small_data(rollouts_per_epoch=2)
    assert fit(module, data, epochs=5, limit_val_batches=None).global_step == 2
    module = PolicyGradientModule(reward_threshold=501.0)
    assert fit(module, small_data(rollouts_per_epoch=2), epochs=2, limit_val_batches=None).global_step == 4


def test_weights_that_are_not_finite_stop_the_run(tmp_path):
    module, data = PolicyGradientModule(), small_data()
    with torch.no_grad():
        module.value.mlp[0].weight[0, 0] = math.nan
    with pytest.raises(UserError, match="the loss is nan"):
        fit(module, data, GradientMonitor(tmp_path))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"clip_coef": 0}, "--model.clip_coef 0: after one optimizer step"),
        ({"baseline": False}, "--model.gae_lambda 0.9: below 1 it needs a value network"),
    ],
)
def test_options_that_contradict_each_other_are_named(options, line):
    with pytest.raises(UserError, match=line):
        PolicyGradientModule(**options)
