"""Muon for the matrices inside the network, AdamW for all other parameters, as one optimizer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from common.nn.optim import orthogonalize

ADAM_BETAS = 0.9, 0.98  # of Vaswani et al., arXiv 1706.03762, as is epsilon
ADAM_EPS = 1e-9
MUON_MOMENTUM = 0.95


class MuonAdamW(AdamW):
    """Muon (Jordan et al., 2024) on the groups with `muon=True`, `torch.optim.AdamW` on the others.

    A Muon group holds matrices (out, in). Each moves by its orthogonalized Nesterov momentum, times `lr` and
    sqrt(out / in) where that is above 1, with decoupled weight decay, as in `torch.optim.Muon`; here all matrices of a
    shape are orthogonalized at once, as small products one by one leave a processor idle.

    One optimizer instead of two keeps Lightning's automatic optimization, with its clipping and accumulation.

    Args:
        params: Groups, as of `parameter_groups`.
        fused: Fused AdamW; not with a gradient scaler, which would then leave Muon's gradients scaled.
        options: Those of `torch.optim.AdamW`; a group's own take precedence.
    """

    def __init__(self, params: Iterable[dict[str, Any]], fused: bool = True, **options: Any) -> None:
        super().__init__(params, fused=fused, **options)
        for group in self.param_groups:
            group.setdefault("muon", False)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = self.param_groups
        try:
            self.param_groups = [group for group in groups if not group["muon"]]
            super().step()
        finally:
            self.param_groups = groups
        for group in groups:
            if group["muon"]:
                self.muon_step(group)
        return loss

    def muon_step(self, group: dict[str, Any]) -> None:
        """One Muon step of a group of matrices."""
        by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)  # matrices and Nesterov momenta
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
                state["step"] = torch.tensor(0.0)  # AdamW asks for it when a state is loaded
            momentum = state["momentum_buffer"].lerp_(parameter.grad, 1 - MUON_MOMENTUM)
            by_shape[parameter.shape].append((parameter, parameter.grad.lerp(momentum, MUON_MOMENTUM)))
        for shape, pairs in by_shape.items():
            updates = orthogonalize(torch.stack([nesterov for _, nesterov in pairs]))
            lr = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
            for (parameter, _), update in zip(pairs, updates, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-lr)


def parameter_groups(net: nn.Module, muon_lr: float | None) -> list[dict[str, Any]]:
    """Parameter groups of `net` for `MuonAdamW`: matrices inside the network for Muon, if it has a learning rate.

    Embeddings and output layer are for AdamW: their rows are words, most of them in no sentence of a batch, and updates of
    one size in every direction would move those too.
    """
    word_layers = [net.get_submodule("output_layer"), *(part for part in net.modules() if isinstance(part, nn.Embedding))]
    words = {id(p) for part in word_layers for p in part.parameters()}
    matrices = [p for p in net.parameters() if p.dim() == 2 and id(p) not in words] if muon_lr is not None else []
    chosen = {id(p) for p in matrices}
    rest = {"name": "adamw", "params": [p for p in net.parameters() if id(p) not in chosen]}
    return [rest, {"name": "muon", "params": matrices, "muon": True, "lr": muon_lr}] if matrices else [rest]
