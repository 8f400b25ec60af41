"""Autograd engine: reverse-mode differentiation in sixty lines

Each value remembers what it was computed from, and how a gradient goes back. That is all of it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Value:
    """Value in a graph: a tensor, its gradient, and the values that it was computed from.

    Attributes:
        data: Tensor, without a gradient of torch's.
        grad: Gradient of the last `backward`, of the shape of `data`; zeros before. Of inputs it adds up over several calls
            of `backward`, as in torch.
    """

    def __init__(self, data: Tensor) -> None:
        """An input of the graph."""
        self.data = data
        self.grad = torch.zeros_like(data)
        self._parents: tuple[Value, ...] = ()
        self._backward: Callable[[Tensor], tuple[Tensor, ...]] = lambda grad: ()

    def __add__(self, other: Value) -> Value:
        """Sum, with broadcasting."""
        return _result(self.data + other.data, (self, other), lambda grad: (grad, grad))

    def __mul__(self, other: Value) -> Value:
        """Product of entries, with broadcasting."""
        return _result(self.data * other.data, (self, other), lambda grad: (grad * other.data, grad * self.data))

    def __matmul__(self, other: Value) -> Value:
        """Matrix product of two matrices."""
        return _result(self.data @ other.data, (self, other), lambda grad: (grad @ other.data.t(), self.data.t() @ grad))

    def tanh(self) -> Value:
        """Hyperbolic tangent."""
        out = self.data.tanh()
        return _result(out, (self,), lambda grad: (grad * (1 - out * out),))

    def sum(self) -> Value:
        """Sum of all entries, of shape ()."""
        return _result(self.data.sum(), (self,), lambda grad: (grad.expand(self.data.shape),))

    def backward(self) -> None:
        """Gradient of this value, of one entry, with respect to every input, added to their `grad`."""
        order: list[Value] = []
        seen: set[int] = set()
        stack = [(self, False)]
        while stack:  # depth first, without recursion: a long chain is no trouble
            value, expanded = stack.pop()
            if expanded:
                order.append(value)
            elif id(value) not in seen:
                seen.add(id(value))
                stack.append((value, True))
                stack += [(parent, False) for parent in value._parents]
        grads = {id(self): torch.ones_like(self.data)}
        for value in reversed(order):
            grad = grads.pop(id(value))
            value.grad = grad if value._parents else value.grad + grad
            for parent, part in zip(value._parents, value._backward(grad), strict=True):
                part = _sum_to(part, parent.data)
                grads[id(parent)] = grads[id(parent)] + part if id(parent) in grads else part


def _result(data: Tensor, parents: tuple[Value, ...], backward: Callable[[Tensor], tuple[Tensor, ...]]) -> Value:
    value = Value(data)
    value._parents, value._backward = parents, backward
    return value


def _sum_to(grad: Tensor, data: Tensor) -> Tensor:
    """`grad` summed over the dimensions along which `data` was stretched."""
    grad = grad.sum(tuple(range(grad.ndim - data.ndim))) if grad.ndim > data.ndim else grad
    stretched = tuple(i for i, size in enumerate(data.shape) if size == 1)
    return grad.sum(stretched, keepdim=True) if stretched else grad
