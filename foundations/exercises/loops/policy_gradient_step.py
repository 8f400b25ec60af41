"""Exercise policy_gradient_step: which rewards an action is credited with, and where the gradient goes."""

import random
from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from foundations.comparing import check_device, check_equal, check_that, difference
from foundations.exercise import Exercise

exercise = Exercise(
    title="The policy gradient: REINFORCE with rewards-to-go and a baseline",
    level="core",
    minutes=20,
    link="projects.policy_gradient.advantages:rewards_to_go",
    why="the returns of the recipe without a value network, computed for all environments at once",
    hints=(
        "Go from the last step to the first; at an episode's end begin anew. Weigh the log-probability of what was sampled.",
        "G[t] = r[t] + gamma * G[t + 1], if not done[t]; loss = -mean(log pi(a) * (G - V)), with V constant.",
        "following = rewards[t] + gamma * following * ~done[t]; logits.log_softmax(-1).gather(-1, actions[..., None])",
    ),
    source="torch.distributions.categorical:Categorical.log_prob",
    look_at="It gathers from self.logits. Where, in __init__, do the logits become log-probabilities?",
)


def reference_returns(rewards: Tensor, done: Tensor, gamma: float) -> Tensor:
    """Each step's sum on its own."""
    returns = torch.zeros_like(rewards)
    for t in range(rewards.shape[0]):
        for n in range(rewards.shape[1]):
            for later in range(t, rewards.shape[0]):
                returns[t, n] += gamma ** (later - t) * rewards[later, n]
                if done[later, n]:
                    break
    return returns


def reference_loss(logits: Tensor, actions: Tensor, rewards: Tensor, done: Tensor, values: Tensor, gamma: float) -> Tensor:
    """By torch.distributions."""
    log_probs = torch.distributions.Categorical(logits=logits).log_prob(actions)
    weights = (reference_returns(rewards, done, gamma) - values).detach()
    return -(log_probs * weights).sum() / weights.numel()


def ends(t: int, n: int, *steps: int) -> Tensor:
    """Flags (t, n), true for all environments at the given steps."""
    done = torch.zeros(t, n, dtype=torch.bool)
    done[list(steps)] = True
    return done


def case(t: int, n: int, a: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Random logits, actions, rewards, ends and values."""
    done = torch.rand(t, n) < 0.3
    return torch.randn(t, n, a), torch.randint(a, (t, n)), torch.randn(t, n), done, torch.randn(t, n)


@exercise.property("rewards-to-go of one episode")
def one_episode(answer: ModuleType, rng: random.Random) -> None:
    for is_over in (False, True):  # without an end, the rows end before the episode does
        for rewards, gamma in [([1.0], 0.5), ([0.0, 1.0], 0.5), ([1.0, 2.0, 4.0], 0.5), ([1.0, 2.0, 4.0], 1.0)]:
            column, done = torch.tensor(rewards)[:, None], ends(len(rewards), 1)
            done[-1] = is_over
            check_equal(answer.rewards_to_go, column, done, gamma, expected=reference_returns(column, done, gamma))


@exercise.property("an episode's end between")
def ends_between(answer: ModuleType, rng: random.Random) -> None:
    for length, steps in [(2, [0]), (3, [1]), (4, [0, 2])]:
        rewards, done = torch.arange(1.0, length + 1)[:, None], ends(length, 1, *steps)
        check_equal(answer.rewards_to_go, rewards, done, 0.5, expected=reference_returns(rewards, done, 0.5))


@exercise.property("several environments")
def environments(answer: ModuleType, rng: random.Random) -> None:
    for t, n in [(3, 2), (2, 5), (3, 3), (6, 1), (5, 4)]:
        _, _, rewards, done, _ = case(t, n, 2)
        check_equal(answer.rewards_to_go, rewards, done, 0.9, expected=reference_returns(rewards, done, 0.9))
    rewards, done = torch.randn(3, 4).t(), (torch.rand(3, 4) < 0.3).t()
    check_equal(answer.rewards_to_go, rewards, done, 0.9, expected=reference_returns(rewards, done, 0.9))
    for t, n in [(0, 2), (2, 0)]:
        rewards, done = torch.zeros(t, n), ends(t, n)
        check_equal(answer.rewards_to_go, rewards, done, 0.9, expected=rewards)


@exercise.property("the loss of one step")
def one_step(answer: ModuleType, rng: random.Random) -> None:
    flag = torch.tensor([[True]])
    cases = [([0.0, 0.0], 0, 1.0, 0.0), ([2.0, 0.0], 1, 1.0, 0.0), ([0.0, 1.0, 2.0], 0, 3.0, 1.0)]
    for logits, action, reward, value in cases:
        given = torch.tensor([[logits]]), torch.tensor([[action]]), torch.tensor([[reward]]), flag, torch.tensor([[value]])
        check_equal(answer.policy_gradient_loss, *given, 0.9, expected=reference_loss(*given, 0.9))


@exercise.property("the loss")
def loss(answer: ModuleType, rng: random.Random) -> None:
    for t, n, a in [(2, 1, 2), (1, 2, 3), (4, 3, 2), (3, 3, 3), (5, 2, 4)]:
        given = case(t, n, a)
        check_equal(answer.policy_gradient_loss, *given, 0.9, expected=reference_loss(*given, 0.9))


@exercise.property("the gradient reaches the logits alone")
def gradient(answer: ModuleType, rng: random.Random) -> None:
    for t, n, a in [(1, 1, 2), (4, 2, 3), (3, 3, 3)]:
        logits, actions, rewards, done, values = (x.double() if x.is_floating_point() else x for x in case(t, n, a))
        ours, theirs, baseline = (x.clone().requires_grad_() for x in (logits, logits, values))
        got = answer.policy_gradient_loss(ours, actions, rewards, done, baseline, 0.9)
        reference_loss(theirs, actions, rewards, done, values, 0.9).backward()
        shown = {"logits": logits, "actions": actions, "rewards": rewards, "done": done, "values": values}
        check_that(got.requires_grad, "the loss has no graph", **shown)
        got.backward()
        at_values = None if baseline.grad is None or not baseline.grad.any() else baseline.grad
        check_that(at_values is None, "the loss has a gradient with respect to values", None, at_values, **shown)
        reason = difference(ours.grad, theirs.grad, 1e-6, 1e-8)
        check_that(not reason, f"gradient with respect to logits: {reason}", theirs.grad, ours.grad, **shown)


@exercise.property("large logits")
def large(answer: ModuleType, rng: random.Random) -> None:
    for action in (0, 1):
        given = torch.tensor([[[1e4, -1e4]]]), torch.tensor([[action]]), torch.ones(1, 1), ends(1, 1, 0), torch.zeros(1, 1)
        check_equal(answer.policy_gradient_loss, *given, 1.0, expected=reference_loss(*given, 1.0))


@exercise.property("any device")
def device(answer: ModuleType, rng: random.Random) -> None:
    check_device(lambda rewards, done: answer.rewards_to_go(rewards, done, 0.9), torch.randn(3, 2), ends(3, 2, 1))
    check_device(lambda *given: answer.policy_gradient_loss(*given, 0.9), *case(3, 2, 2))


def returns_with(fault: str) -> Callable[[Tensor, Tensor, float], Tensor]:
    """Rewards-to-go with one of the known faults."""

    def rewards_to_go(rewards: Tensor, done: Tensor, gamma: float) -> Tensor:
        steps, returns = len(rewards), torch.zeros_like(rewards)
        following = torch.zeros(rewards.shape[1:], device="cpu" if fault == "cpu" else rewards.device, dtype=rewards.dtype)
        for t in range(steps) if fault == "so_far" else reversed(range(steps)):
            begins = t == steps - 1 or done[min(t + 1, steps - 1)]
            over = {"through": torch.zeros_like(done[t]), "one_off": begins}.get(fault, done[t])
            factor = 1.0 if fault == "undiscounted" else gamma
            following = rewards[t] + factor * torch.where(torch.as_tensor(over), torch.zeros_like(following), following)
            returns[t] = following
        return returns

    return rewards_to_go


@exercise.wrong(
    "rewards_to_go",
    "Every step gets the return of the whole episode: an action cannot have caused the rewards before it.",
    seen="https://github.com/huggingface/deep-rl-class/pull/70",
)
def whole_return(rewards: Tensor, done: Tensor, gamma: float) -> Tensor:
    returns, begin = torch.zeros_like(rewards), [0] * rewards.shape[1]
    for t in range(len(rewards)):
        for n in range(rewards.shape[1]):
            if done[t, n] or t == len(rewards) - 1:
                own = rewards[begin[n] : t + 1, n]
                returns[begin[n] : t + 1, n] = (own * gamma ** torch.arange(len(own))).sum()
                begin[n] = t + 1
    return returns


exercise.wrong("rewards_to_go", "The sum runs over an episode's end: its last action is credited with the next episode.")(
    returns_with("through")
)
exercise.wrong("rewards_to_go", "The end is one step off: done[t] means that nothing after step t counts for step t.")(
    returns_with("one_off")
)
exercise.wrong("rewards_to_go", "The sum runs forward: these are the rewards so far, and an action causes those to come.")(
    returns_with("so_far")
)
exercise.wrong("rewards_to_go", "gamma is not used: each step further away counts gamma times less.")(
    returns_with("undiscounted")
)
exercise.wrong(
    "rewards_to_go", "The zeros to begin with are on the CPU, wherever the rewards are: take zeros_like, or 0.0."
)(returns_with("cpu"))
exercise.also_right("rewards_to_go")(returns_with(""))


@exercise.also_right("rewards_to_go")
def by_a_matrix(rewards: Tensor, done: Tensor, gamma: float) -> Tensor:
    if not len(rewards):
        return rewards.clone()
    steps = torch.arange(len(rewards), device=rewards.device)
    ended = torch.cat([torch.zeros_like(done[:1]), done[:-1]]).long().cumsum(0)  # episodes that were over before the step
    same = ended[None] == ended[:, None]
    weights = (gamma ** (steps[None] - steps[:, None]).to(rewards.dtype)).triu()
    return torch.einsum("ts,tsn,sn->tn", weights, same.to(rewards.dtype), rewards)


def loss_with(fault: str) -> Callable[..., Tensor]:
    """The loss with one of the known faults."""

    def policy_gradient_loss(
        logits: Tensor, actions: Tensor, rewards: Tensor, done: Tensor, values: Tensor, gamma: float
    ) -> Tensor:
        taken = logits.argmax(-1) if fault == "argmax" else actions
        log_all = logits.softmax(-1).log() if fault == "log_of_softmax" else logits.log_softmax(-1)
        scores = logits.softmax(-1) if fault == "probability" else log_all
        chosen = scores.gather(-1, taken.unsqueeze(-1)).squeeze(-1)
        advantages = reference_returns(rewards, done, gamma) - (values if fault == "attached" else values.detach())
        terms = chosen * advantages
        total = terms.sum() if fault == "summed" else terms.mean()
        return total if fault == "sign" else -total

    return policy_gradient_loss


exercise.wrong("policy_gradient_loss", "The sign: an optimizer minimizes, and good actions are to become more likely.")(
    loss_with("sign")
)
exercise.wrong(
    "policy_gradient_loss",
    "The baseline is not detached: the loss would move the value network, too, and not toward the returns.",
    seen="https://github.com/batra-mlp-lab/visdial-rl/issues/13",
)(loss_with("attached"))
exercise.wrong(
    "policy_gradient_loss", "This is the log-probability of the greedy action (argmax), not of the one that was taken."
)(loss_with("argmax"))
exercise.wrong("policy_gradient_loss", "The probability in place of its logarithm: rare actions would hardly learn.")(
    loss_with("probability")
)
exercise.wrong("policy_gradient_loss", "log(softmax) is -inf where the softmax is rounded to 0: use log_softmax.")(
    loss_with("log_of_softmax")
)
exercise.wrong("policy_gradient_loss", "A sum over the steps: the gradient grows with their number. Take the mean.")(
    loss_with("summed")
)
exercise.also_right("policy_gradient_loss")(loss_with(""))


@exercise.also_right("policy_gradient_loss")
def as_weighted_cross_entropy(logits, actions, rewards, done, values, gamma):
    flat = torch.nn.functional.cross_entropy(logits.flatten(0, 1), actions.flatten(), reduction="none")
    with torch.no_grad():
        weight = reference_returns(rewards, done, gamma) - values
    return torch.dot(flat, weight.flatten()) / flat.numel()
