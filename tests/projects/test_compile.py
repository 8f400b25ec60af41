"""`--compile`: each network compiles to one graph for a shape, and trains as it does uncompiled."""

from __future__ import annotations

import copy
import importlib
from typing import Any

import pytest
import torch
from test_host_syncs import BERT, CASES, small_samples  # noqa: F401  (the last is a fixture)
from torch import Tensor, nn

from common.cli.parser import CapstoneCLI
from common.errors import UserError
from common.run.build import compile_networks

DCGAN = ["--model.network=dcgan", "--model.dcgan.channels=4", "--model.latent_dim=4", "--model.augment=[]"]
NETWORKS = {
    ("blank", "default"): [],
    ("cifar10", "default"): ["--model.speednet.block_channels=[8,8,8]"],
    ("cifar10", "accuracy"): ["--model.speednet.block_channels=[8,8,8]"],
    ("cifar10", "resnet18"): [],
    ("seq2seq", "transformer"): CASES["seq2seq", "transformer"],
    ("bert_sentiment", "sample"): BERT,
    ("gan", "default"): CASES["gan", "default"],
    ("gan", "images"): CASES["gan", "images"],
    ("gan", "dcgan"): DCGAN,
    ("policy_gradient", "default"): CASES["policy_gradient", "default"],
    ("policy_gradient", "pendulum"): CASES["policy_gradient", "pendulum"],
}


def build(capstone: str, recipe: str, flags: list[str]) -> Any:
    """Module of a capstone on the sample."""
    project = importlib.import_module(f"projects.{capstone}.train").PROJECT
    source = [] if capstone in ("gan", "policy_gradient") and recipe not in ("images", "dcgan") else ["--data.source=sample"]
    path = project.folder / "recipes" / f"{recipe}.yaml"
    torch.manual_seed(0)
    return CapstoneCLI(project, ["--config", str(path), *source, *flags]).request().build()[0]


def inputs(capstone: str, recipe: str, network: str, batch: int) -> tuple[Tensor, ...]:
    """Inputs of a network, for a batch."""
    ids, classes = torch.randint(5, 200, (batch, 7)), torch.arange(batch) % 3
    images = torch.randint(0, 256, (batch, 3, 32, 32), dtype=torch.uint8)
    return {
        "blank": lambda: (torch.randn(batch, 2),),
        "cifar10": lambda: (images,),
        "seq2seq": lambda: (ids, torch.arange(batch) % 7 + 1, ids[:, :5]),
        "bert_sentiment": lambda: (ids, (torch.arange(7) <= torch.arange(batch)[:, None] + 3).long()),
        "gan": lambda: (
            torch.randn(batch, 3 if recipe == "default" else 4)
            if network == "generator"
            else (torch.randn(batch, 2) if recipe == "default" else images / 127.5 - 1),
            classes,
        ),
        "policy_gradient": lambda: (
            torch.randn(batch, 4 if recipe == "default" else 3),
            *(() if network == "value" else (torch.arange(batch) % 2 if recipe == "default" else torch.randn(batch, 1),)),
        ),
    }[capstone]()


def gradients(network: nn.Module, arguments: tuple[Tensor, ...]) -> list[Tensor]:
    """Outputs of a training step, and gradients of their squares."""
    network.zero_grad()
    outputs = network(*arguments)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    sum(output.square().sum() for output in outputs).backward()
    return [*outputs, *(p.grad for p in network.parameters() if p.grad is not None)]


@pytest.mark.slow
@pytest.mark.timeout(1200)  # a C++ compiler's minutes
@pytest.mark.parametrize("backend", ["eager", "inductor"])
@pytest.mark.parametrize("case", NETWORKS, ids="-".join)
def test_a_network_is_one_graph_for_a_shape_and_computes_the_same(case, backend):
    torch._dynamo.reset()
    torch.manual_seed(0)
    module = build(*case, NETWORKS[case]).double()  # in float32 batch norms of few samples enlarge what sums round
    for network in module.modules():
        if isinstance(network, nn.Dropout):
            network.p = 0.0  # a compiled network has random numbers of its own
    usual = copy.deepcopy(module)
    compile_networks(module, backend=backend, fullgraph=True)
    named = [(name, part) for name, part in module.named_children() if part._compiled_call_impl is not None]
    assert named
    for name, network in named:
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        for _ in range(2):
            arguments = tuple(x.double() if x.is_floating_point() else x for x in inputs(*case, name, 6))
            found, expected = (gradients(net, arguments) for net in (network, usual.get_submodule(name)))
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs + 1, name
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("case", NETWORKS, ids="-".join)
def test_a_compiled_network_has_finite_gradients_under_mixed_precision(case):
    torch._dynamo.reset()
    torch.manual_seed(0)
    module = build(*case, NETWORKS[case])
    for network in module.modules():
        if isinstance(network, nn.Dropout):
            network.p = 0.0
    usual = copy.deepcopy(module)
    compile_networks(module)
    for name, network in [(name, part) for name, part in module.named_children() if part._compiled_call_impl is not None]:
        arguments = inputs(*case, name, 6)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found, expected = (gradients(net, arguments) for net in (network, usual.get_submodule(name)))
        assert all(value.isfinite().all() for value in found), name
        assert (found[0] - expected[0]).norm() <= 0.1 * expected[0].norm(), name


def test_penalties_spectral_norm_and_packed_sequences_are_not_compiled():
    module = build("gan", "default", CASES["gan", "default"])
    assert module.networks_to_compile == [module.generator]
    module = build("gan", "images", CASES["gan", "images"])
    assert module.networks_to_compile == [module.generator]
    module = build("gan", "dcgan", DCGAN)
    assert module.networks_to_compile == [module.generator, module.discriminator]
    with pytest.raises(UserError, match="--compile true"):
        compile_networks(build("seq2seq", "default", CASES["seq2seq", "default"]))
