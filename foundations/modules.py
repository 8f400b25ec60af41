"""Comparison of a learner's module with torch's: state dict, and gradients of inputs and parameters."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from foundations.comparing import check_that, difference


def check_state_dict(ours: nn.Module, theirs: nn.Module) -> None:
    """Checks that the state dicts have the same names, shapes and dtypes, whatever their order, and the same parameters."""
    got = {name: (tuple(value.shape), str(value.dtype)) for name, value in ours.state_dict().items()}
    expected = {name: (tuple(value.shape), str(value.dtype)) for name, value in theirs.state_dict().items()}
    check_that(got.keys() == expected.keys(), "the state dict has other names", sorted(expected), sorted(got))
    for name in expected:
        check_that(got[name] == expected[name], f"{name} has another shape or dtype", expected[name], got[name])
    names = {name for name, _ in ours.named_parameters()}
    wanted = {name for name, _ in theirs.named_parameters()}
    check_that(names == wanted, "other parameters would be trained", sorted(wanted), sorted(names))


def load_same(ours: nn.Module, theirs: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Both modules with the weights of `theirs`. Raises Failure if its state dict does not fit."""
    check_state_dict(ours, theirs)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def check_gradients_of(ours: nn.Module, theirs: nn.Module, *inputs: Tensor, rtol: float = 1e-6, atol: float = 1e-8) -> None:
    """Checks result and gradients, in float64, with respect to the first input and to every parameter."""
    ours, theirs = copy.deepcopy(ours).double(), copy.deepcopy(theirs).double()
    results = []
    for module in (ours, theirs):
        values = [value.double() if value.is_floating_point() else value for value in inputs]
        if values[0].is_floating_point():
            values[0] = values[0].clone().requires_grad_()
        output = module(*values)
        output = output[0] if isinstance(output, tuple) else output
        weights = torch.randn(output.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        (output * weights).sum().backward()
        gradients = {name: parameter.grad for name, parameter in module.named_parameters()}
        results.append((output.detach(), values[0].grad, gradients))
    (output, grad, gradients), (want_output, want_grad, want_gradients) = results
    shown = {f"input {i}": value for i, value in enumerate(inputs, 1)}
    reason = difference(output, want_output, rtol, atol)
    check_that(not reason, f"in float64: {reason}", want_output, output, **shown)
    if want_grad is not None:
        reason = difference(grad, want_grad, rtol, atol)
        check_that(not reason, f"gradient of the input: {reason}", want_grad, grad, **shown)
    for name, want in want_gradients.items():
        got = gradients.get(name)
        if want is not None:
            reason = difference(torch.zeros_like(want) if got is None else got, want, rtol, atol)
            check_that(not reason, f"gradient of {name}: {reason}", want, got, **shown)
