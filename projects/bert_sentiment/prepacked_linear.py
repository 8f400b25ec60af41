"""Weight prepacking of oneDNN: linear layers for float32 inference on a CPU, laid out once in the order of multiplication.

`torch.ops.mkldnn` is private to torch and is used in this file alone; `test_bert_prepacked_linear.py` fails if it changes.
"""

from __future__ import annotations

import copy
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor, nn

Net = TypeVar("Net", bound=nn.Module)


class PrepackedLinear(nn.Module):
    """`linear` in float32, without a gradient, and a fifth faster where matrices are large.

    It calls the operators that `torch.compile` emits, without a compiler.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return y


def prepack_linear(net: Net) -> Net:
    """Copy of `net` with a `PrepackedLinear` for every linear layer in float32; all other weights are those of `net`.

    It is `net` itself where torch has no oneDNN.
    """
    if not torch.backends.mkldnn.is_available():
        return net
    shared = {id(tensor): tensor for tensor in chain(net.parameters(), net.buffers())}
    prepacked = copy.deepcopy(net, shared)
    for parent in list(prepacked.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and child.weight.dtype == torch.float32:
                setattr(parent, name, PrepackedLinear(child))
    return prepacked
