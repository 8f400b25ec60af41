"""Muon against `torch.optim.Muon`, the rest against `torch.optim.AdamW`."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from projects.seq2seq.config import RecurrentConfig, TransformerConfig
from projects.seq2seq.optim import MuonAdamW, parameter_groups
from projects.seq2seq.recurrent import RecurrentModel
from projects.seq2seq.transformer import TransformerModel


class Little(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.tall, self.wide, self.tall_too = nn.Linear(4, 12), nn.Linear(12, 4), nn.Linear(4, 12)
        self.output_layer = nn.Linear(4, 7)


def test_every_parameter_moves_as_torchs_optimizers_move_it():
    ours = Little()
    theirs = copy.deepcopy(ours)
    optimizer = MuonAdamW(parameter_groups(ours, 0.02), lr=0.01, betas=(0.9, 0.98), weight_decay=0.1)
    matrices = [layer.weight for layer in (theirs.tall, theirs.wide, theirs.tall_too)]
    others = [p for p in theirs.parameters() if all(p is not matrix for matrix in matrices)]
    muon = torch.optim.Muon(matrices, 0.02, 0.1, adjust_lr_fn="original")
    adamw = torch.optim.AdamW(others, 0.01, (0.9, 0.98), weight_decay=0.1)
    start = copy.deepcopy(ours.state_dict())
    for _ in range(5):
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        optimizer.step()
        muon.step()
        adamw.step()
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        exact = all(q is not matrix for matrix in matrices)
        assert (p - start[name]).abs().max() > 0.03
        torch.testing.assert_close(p, q, atol=1e-6 if exact else 8e-3, rtol=0)  # Muon rounds to bfloat16


@pytest.mark.parametrize("tie", ["all", "none"])
@pytest.mark.parametrize(
    "kind, config", [(RecurrentModel, RecurrentConfig(8, 512)), (TransformerModel, TransformerConfig(8, 256))]
)
def test_embeddings_output_layer_and_vectors_are_for_adamw(kind, config, tie):
    net = kind((30, 30), config, tie)
    adamw, muon = parameter_groups(net, 0.02)
    assert {id(p) for group in (adamw, muon) for p in group["params"]} == {id(p) for p in net.parameters()}
    assert len(adamw["params"]) + len(muon["params"]) == len(list(net.parameters())), "each once"
    assert all(p.dim() == 2 and 30 not in p.shape for p in muon["params"])
    assert all(p.dim() == 1 or 30 in p.shape for p in adamw["params"])
    (everything,) = parameter_groups(net, None)
    assert len(everything["params"]) == len(list(net.parameters()))


def test_a_saved_state_goes_on_as_it_would_have():
    nets = [Little(), Little()]
    nets[1].load_state_dict(nets[0].state_dict())
    optimizers = [MuonAdamW(parameter_groups(net, 0.02), lr=0.01) for net in nets]
    gradients = [[torch.randn_like(p) for p in nets[0].parameters()] for _ in range(4)]

    def step(which: int, number: int) -> None:
        for p, gradient in zip(nets[which].parameters(), gradients[number], strict=True):
            p.grad = gradient.clone()
        optimizers[which].step()

    for number in range(4):
        step(0, number)
    for number in range(2):
        step(1, number)
    state = copy.deepcopy(optimizers[1].state_dict())
    optimizers[1] = MuonAdamW(parameter_groups(nets[1], 0.5), lr=0.5)
    optimizers[1].load_state_dict(state)
    for number in range(2, 4):
        step(1, number)
    for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(p, q)
