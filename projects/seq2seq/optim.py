"""Muon for the matrices inside the network with AdamW for the rest, as one optimizer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from common.nn.optim import orthogonalize


class MuonAdamW(AdamW):
    """Muon (Jordan et al., 2024) on the groups with `muon=True`, `torch.optim.AdamW` on the others.

    A Muon group holds matrices (out, in). Each moves by its orthogonalised Nesterov momentum, times `lr` and
    sqrt(out / in) where that is above 1, and shrinks by `lr` * `weight_decay` of itself, as in `torch.optim.Muon`; here all
    matrices of a shape are orthogonalised at once, as small products one by one leave a processor idle.

    One optimizer instead of two keeps Lightning's automatic optimisation, with its clipping and accumulation.

    Args:
        params: groups, as `parameter_groups` makes them.
        momentum: of the Muon groups.
        lr, betas, eps, weight_decay: as `torch.optim.AdamW`'s; a group's own go first.
    """

    def __init__(self, params: Iterable[dict[str, Any]], momentum: float = 0.95, **options: Any) -> None:
        super().__init__(params, fused=True, **options)
        for group in self.param_groups:
            group.setdefault("muon", False)
            group["momentum"] = momentum

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient."""
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
                self._step_matrices(group)
        return loss

    def _step_matrices(self, group: dict[str, Any]) -> None:
        by_shape: dict[torch.Size, tuple[list[Tensor], list[Tensor], list[Tensor]]] = defaultdict(lambda: ([], [], []))
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
                state["step"] = torch.tensor(0.0)  # AdamW asks for it when a state is loaded
            three = parameter, parameter.grad, state["momentum_buffer"]
            for column, tensor in zip(by_shape[parameter.shape], three, strict=True):
                column.append(tensor)
        for shape, (parameters, gradients, velocities) in by_shape.items():
            torch._foreach_lerp_(velocities, gradients, 1 - group["momentum"])
            directions = torch._foreach_lerp(gradients, velocities, group["momentum"])  # Nesterov: look one step ahead
            updates = orthogonalize(torch.stack(directions)).unbind()
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(parameters, updates, alpha=-group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5)


def parameter_groups(net: nn.Module, muon_lr: float | None) -> list[dict[str, Any]]:
    """The parameters of `net` as `MuonAdamW` takes them.

    The matrices inside the network go to Muon, if it has a rate. Embeddings and output layer do not: their rows are words,
    most of them in no sentence of a batch, and steps of one size in every direction would move those as well.
    """
    parameters = list(net.parameters())
    words = [net.get_submodule("output"), *(part for part in net.modules() if isinstance(part, nn.Embedding))]
    outside = {id(p) for part in words for p in part.parameters()}
    inside = [p for p in parameters if p.dim() == 2 and id(p) not in outside] if muon_lr is not None else []
    chosen = {id(p) for p in inside}
    rest = {"name": "adamw", "params": [p for p in parameters if id(p) not in chosen]}
    return [rest, {"name": "muon", "params": inside, "muon": True, "lr": muon_lr}] if inside else [rest]
