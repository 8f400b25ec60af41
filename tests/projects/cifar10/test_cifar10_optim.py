"""Muon against the singular value decomposition, its SGD against torch's, Lookahead against its formula."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from projects.cifar10.lookahead import Lookahead
from projects.cifar10.networks import SpeedNet
from projects.cifar10.optim import MuonSGD, parameter_groups
from projects.cifar10.resnet import ResNet18


def polynomial(s: Tensor | float, steps: int) -> Tensor | float:
    """What `steps` Newton-Schulz steps make of a singular value."""
    for _ in range(steps):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return s


# Muon


def test_a_muon_step_is_the_one_computed_by_hand():
    filters = torch.tensor([[3.0, 0.0, 0.0], [0.0, 4.0, 0.0]]).view(2, 3, 1, 1).requires_grad_()
    filters.grad = torch.zeros(2, 3, 1, 1)
    filters.grad[0, 2] = 7.0  # of rank one: the only singular value is all of the norm
    optimizer = MuonSGD([{"params": [filters], "muon": True, "lr": 0.5, "momentum": 0.6}])
    optimizer.step()
    after = polynomial(1.0, 3)
    # the norm was 5 and becomes sqrt(2), then the one entry moves against its gradient
    expected = torch.tensor([[3.0, 0.0, 0.0], [0.0, 4.0, 0.0]]) * 2**0.5 / 5
    expected[0, 2] -= 0.5 * after
    torch.testing.assert_close(filters.detach().view(2, 3), expected, atol=0.04, rtol=0)

    # the second gradient points elsewhere: momentum 0.6 * 7 + Nesterov's 0.6 * that against (1 + 0.6) * 7
    filters.grad = torch.zeros(2, 3, 1, 1)
    filters.grad[1, 1] = 7.0
    start = filters.detach().clone().view(2, 3)
    optimizer.step()
    old, new = 0.6 * 0.6 * 7, 1.6 * 7
    norm = (old**2 + new**2) ** 0.5
    expected = start * 2**0.5 / start.norm()
    expected[0, 2] -= 0.5 * polynomial(old / norm, 3)
    expected[1, 1] -= 0.5 * polynomial(new / norm, 3)
    torch.testing.assert_close(filters.detach().view(2, 3), expected, atol=0.04, rtol=0)


def test_filters_are_scaled_to_the_norm_of_orthonormal_rows_before_each_step():
    filters = torch.randn(9, 4, 3, 3, requires_grad=True)
    optimizer = MuonSGD([{"params": [filters], "muon": True, "lr": 0.0}])
    filters.grad = torch.randn_like(filters)
    direction = filters.detach() / filters.detach().norm()
    optimizer.step()
    torch.testing.assert_close(filters.detach(), 3 * direction)


def test_a_muon_step_does_not_depend_on_the_size_of_the_gradient():
    results = []
    for size in (1e-4, 1.0, 1e4):
        filters = torch.ones(4, 2, 3, 3, requires_grad=True)
        filters.grad = size * torch.arange(72.0).cos().view(4, 2, 3, 3)
        MuonSGD([{"params": [filters], "muon": True, "lr": 0.1}]).step()
        results.append(filters.detach())
    assert (results[1] - results[1].mean()).abs().max() > 0.02
    torch.testing.assert_close(results[0], results[1], atol=5e-3, rtol=0)
    torch.testing.assert_close(results[2], results[1], atol=5e-3, rtol=0)


# SGD


@pytest.mark.parametrize("weight_decay", [0.0, 0.03])
def test_without_muon_it_is_nesterov_sgd(weight_decay):
    start = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 3))
    nets = [copy.deepcopy(start) for _ in range(2)]
    options = {"lr": 0.05, "momentum": 0.9, "weight_decay": weight_decay}
    optimizers = [MuonSGD([{"params": nets[0].parameters(), **options}])]
    optimizers += [torch.optim.SGD(nets[1].parameters(), nesterov=True, **options)]
    for step in range(50):
        x, y = torch.randn(8, 2, 6, 6), torch.randint(0, 3, (8,))
        for net, optimizer in zip(nets, optimizers, strict=True):
            optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 50)
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
    moved = (nets[1][3].weight - start[3].weight).abs().max()
    assert moved > 0.05
    for got, expected in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


def test_weight_decay_shrinks_weights_by_the_fraction_that_momentum_adds_up_to():
    weight = torch.ones(3, requires_grad=True)
    optimizer = MuonSGD([{"params": [weight], "lr": 335.0, "momentum": 0.85, "weight_decay": 1e-4 / 335}])
    weight.grad = torch.zeros(3)
    for _ in range(100):
        before = weight.detach().clone()
        optimizer.step()
    torch.testing.assert_close(1 - weight.detach() / before, torch.full((3,), 1e-4 / 0.15), rtol=0.02, atol=0)


def test_parameters_without_a_gradient_stay():
    still, moving = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    moving.grad = torch.ones(3)
    MuonSGD([{"params": [still, moving]}], lr=0.1, momentum=0.0, weight_decay=0.5).step()
    assert torch.equal(still, torch.ones(3))
    torch.testing.assert_close(moving.detach(), torch.full((3,), 1 - 0.1 * 1.5))


def test_the_closure_is_called_once_with_gradients():
    weight = torch.tensor([2.0], requires_grad=True)
    calls = []

    def closure() -> Tensor:
        calls.append(torch.is_grad_enabled())
        loss = (weight**2).sum()
        loss.backward()
        return loss

    loss = MuonSGD([{"params": [weight]}], lr=0.1, momentum=0.0).step(closure)
    assert (calls, loss.item(), weight.item()) == ([True], 4.0, pytest.approx(2 - 0.1 * 4))


def test_its_state_survives_saving():
    def new() -> tuple[Tensor, MuonSGD]:
        weight = torch.ones(4, 2, 3, 3, requires_grad=True)
        return weight, MuonSGD([{"params": [weight], "muon": True, "lr": 0.1}])

    def step(weight: Tensor, optimizer: MuonSGD, number: int) -> None:
        weight.grad = (torch.arange(72.0) + number).sin().view(4, 2, 3, 3)
        optimizer.step()

    weight, optimizer = new()
    step(weight, optimizer, 0)
    other, restored = new()
    other.data.copy_(weight)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(weight, optimizer, 1)
    step(other, restored, 1)
    assert torch.equal(weight, other)


# groups


@pytest.mark.parametrize(
    "make", [lambda: SpeedNet((8, 8, 8)), lambda: SpeedNet((8, 8, 8), (3, 3, 3)), ResNet18], ids=["two", "three", "resnet"]
)
def test_every_trainable_parameter_is_in_exactly_one_group(make):
    net = make()
    groups = parameter_groups(net, {"lr": 1.0, "muon": True}, {"lr": 2.0}, {"lr": 3.0})
    grouped = [id(p) for group in groups for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in net.parameters() if p.requires_grad}
    names = {id(p): name for name, p in net.named_parameters()}
    by_group = {group["name"]: [names[id(p)] for p in group["params"]] for group in groups}
    assert by_group["head"] == ["head.weight"]
    assert all(p.dim() == 4 for group in groups if group.get("muon") for p in group["params"])
    assert by_group.get("whiten", []) == (["whiten.bias"] if isinstance(net, SpeedNet) else [])
    assert {group["name"]: group["lr"] for group in groups if group["name"] != "whiten"} == {
        "filters": 1.0,
        "head": 2.0,
        "biases": 3.0,
    }


# Lookahead


def test_lookahead_follows_its_formula():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    lookahead = Lookahead(net)
    slow = {key: value.double().clone() for key, value in net.state_dict().items()}
    assert slow.keys() == {*lookahead.slow, "1.num_batches_tracked"}, "integers have no mean"
    for decay in (0.0, 0.3, 0.8, 1.0):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(torch.randn_like(parameter))
        net(torch.randn(5, 2))
        fast = {key: value.double().clone() for key, value in net.state_dict().items()}
        lookahead.update(net, decay)
        for key, value in net.state_dict().items():
            if key == "1.num_batches_tracked":
                assert torch.equal(value.double(), fast[key])
                continue
            slow[key] = decay * slow[key] + (1 - decay) * fast[key]
            torch.testing.assert_close(value.double(), slow[key], rtol=1e-5, atol=1e-6)
            assert torch.equal(value, lookahead.slow[key])


def test_lookahead_is_a_copy_that_follows_its_network_to_another_type_of_device():
    net = nn.Linear(2, 2)
    lookahead = Lookahead(net)
    before = lookahead.slow["weight"].clone()
    with torch.no_grad():
        net.weight.add_(1)
    assert torch.equal(lookahead.slow["weight"], before)
    lookahead.to(net.to("meta"))  # the only other device that every machine has
    assert lookahead.slow["weight"].device.type == "meta"
