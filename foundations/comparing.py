"""Comparison of an answer with what is expected: type, shape, dtype, then values; nothing is broadcast."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

MAX_SHOWN_NUMBERS = 24
isclose = torch.isclose  # as it is before a learner's code can patch it


class Note(str):
    """Words in place of an expected value, shown as they are: two failures that differ in them alone count as the same.

    For what is random in an answer, such as the order that it has drawn.
    """


class Failure(Exception):
    """A property does not hold.

    Args:
        reason: What differs, in a few words.
        inputs: Arguments of the call that failed, by name.
        expected: What a correct answer gives; None where there is no single one.
        got: What the answer gave, or the exception that it raised.
    """

    def __init__(self, reason: str, inputs: Mapping[str, Any] | None = None, expected: Any = None, got: Any = None) -> None:
        super().__init__(reason)
        self.reason, self.inputs, self.expected, self.got = reason, dict(inputs or {}), expected, got


def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The answer's result. Raises Failure if it raises, or changes one of the tensors that it was given."""
    inputs = named_inputs(function, args, kwargs)
    before = {name: copy_of(value) for name, value in inputs.items()}
    try:
        result = function(*args, **kwargs)
    except NotImplementedError:
        raise
    except Exception as error:  # an answer may raise anything
        raise Failure(f"raises {type(error).__name__}", before, got=error) from error
    for name, value in inputs.items():
        if isinstance(value, Tensor) and difference(value.detach(), before[name].detach(), 0.0, 0.0):
            raise Failure(f"changes its input {name}", before, expected=before[name], got=value)
    return result


def check_equal(
    function: Callable[..., Any], *args: Any, expected: Any, rtol: float = 1e-5, atol: float = 1e-6, **kwargs: Any
) -> Any:
    """Checks that `function(*args, **kwargs)` gives `expected`, a tensor, number, or a tuple, list or dict of them.

    Raises:
        Failure: It raises, changes an input, or its result differs in type, shape, dtype, NaN pattern or values.
    """
    inputs = {name: copy_of(value) for name, value in named_inputs(function, args, kwargs).items()}
    got = call(function, *args, **kwargs)
    reason = difference(got, expected, rtol, atol)
    if reason:
        raise Failure(reason, inputs, expected=expected, got=got)
    return got


def check_raises(function: Callable[..., Any], *args: Any, error: type[Exception], **kwargs: Any) -> None:
    """Checks that the call raises `error`. Raises Failure if it returns, or raises another exception."""
    inputs = {name: copy_of(value) for name, value in named_inputs(function, args, kwargs).items()}
    try:
        got = function(*args, **kwargs)
    except error:
        return
    except NotImplementedError:
        raise
    except Exception as other:
        raise Failure(f"raises {type(other).__name__}, not {error.__name__}", inputs, got=other) from other
    raise Failure(f"does not raise {error.__name__}", inputs, expected=error.__name__, got=got)


def check_that(holds: bool | Tensor, reason: str, expected: Any = None, got: Any = None, **inputs: Any) -> None:
    """Raises Failure with `reason` unless `holds`. Words in place of a number that is expected are shown as they are."""
    if not bool(holds):
        if type(expected) is str and got is not None and type(got) is not str:
            expected = Note(expected)
        raise Failure(reason, inputs, expected=expected, got=got)


def check_gradients(
    function: Callable[..., Any], reference: Callable[..., Any], *args: Any, rtol: float = 1e-5, atol: float = 1e-7
) -> None:
    """Checks the gradients of a random projection of the result with respect to all floating-point tensors of `args`.

    Both functions get the same values in float64.

    Raises:
        Failure: A gradient is missing, not finite, or differs from the reference's.
    """
    ours, theirs = ([_leaf(value) for value in args] for _ in range(2))
    expected = reference(*theirs)
    weights = torch.randn(expected.shape, dtype=expected.dtype, generator=torch.Generator().manual_seed(0))
    names = list(named_inputs(function, args, {}))
    (expected * weights).sum().backward()
    got = call(function, *ours)
    reason = difference(got.detach(), expected.detach(), rtol, atol)
    if reason:
        raise Failure(f"in float64: {reason}", dict(zip(names, args, strict=True)), expected, got)
    if not got.requires_grad:
        raise Failure("the result does not depend on its inputs for autograd", dict(zip(names, args, strict=True)))
    (got * weights).sum().backward()
    for name, a, b in zip(names, ours, theirs, strict=True):
        if isinstance(a, Tensor) and b.requires_grad and b.grad is not None:
            reason = difference(torch.zeros_like(b.grad) if a.grad is None else a.grad, b.grad, rtol, atol)
            if reason:
                inputs = dict(zip(names, args, strict=True))
                raise Failure(f"gradient with respect to {name}: {reason}", inputs, expected=b.grad, got=a.grad)


def check_device(function: Callable[..., Any], *args: Any) -> None:
    """Checks that the function makes its helper tensors on the device of its inputs, as if that were a GPU.

    It is called with the inputs on torch's device "meta", which has shapes and no values. An answer that reads values
    there, such as a loop over entries, cannot be found wrong by it and passes.

    Raises:
        Failure: It mixes devices, or its result is on another one.
    """
    inputs = [value.detach().to("meta") if isinstance(value, Tensor) else value for value in args]
    try:
        got = function(*inputs)
    except Exception as error:
        if "expected device" in str(error) or "same device" in str(error):
            raise Failure("makes a tensor on the CPU, whatever device its inputs are on", got=error) from error
        return  # it reads values: nothing can be said
    if isinstance(got, Tensor) and got.device.type != "meta":
        raise Failure("the result is not on the device of the inputs", expected="the inputs' device", got=str(got.device))


def _leaf(value: Any) -> Any:
    """Copy of a floating-point tensor in float64 that requires a gradient; other values as they are."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach().double().clone().requires_grad_()
    return value


def difference(got: Any, expected: Any, rtol: float, atol: float) -> str:
    """What differs, in a few words; empty if nothing does."""
    if isinstance(expected, Tensor):
        return _tensor_difference(got, expected, rtol, atol)
    if isinstance(expected, dict):
        if not isinstance(got, dict) or got.keys() != expected.keys():
            return f"a dict with the keys {sorted(map(str, expected))} is expected, not {describe_type(got)}"
        pairs = [(f"[{key!r}]", got[key], expected[key]) for key in expected]
    elif isinstance(expected, tuple | list):
        if not isinstance(got, tuple | list) or len(got) != len(expected):
            return f"{len(expected)} values are expected, not {describe_type(got)}"
        pairs = [(f"[{i}]", a, b) for i, (a, b) in enumerate(zip(got, expected, strict=True))]
    elif isinstance(expected, float):
        if isinstance(got, Tensor) and got.ndim == 0:
            got = got.item()
        if isinstance(got, bool) or not isinstance(got, int | float):
            return f"a number is expected, not {describe_type(got)}"
        same = math.isclose(got, expected, rel_tol=rtol, abs_tol=atol) or (math.isnan(got) and math.isnan(expected))
        return "" if same else "the value differs"
    else:
        if isinstance(got, Tensor):
            return f"{describe_type(expected)} is expected, not {describe_type(got)}"
        return "" if type(got) is type(expected) and got == expected else "the value differs"
    for where, a, b in pairs:
        reason = difference(a, b, rtol, atol)
        if reason:
            return f"{where}: {reason}"
    return ""


def _tensor_difference(got: Any, expected: Tensor, rtol: float, atol: float) -> str:
    if not isinstance(got, Tensor):
        return f"a tensor is expected, not {describe_type(got)}"
    if got.shape != expected.shape:
        return f"shape {tuple(got.shape)} in place of {tuple(expected.shape)}"
    if got.dtype != expected.dtype:
        return f"{str(got.dtype)[6:]} in place of {str(expected.dtype)[6:]}"
    if got.device != expected.device:
        return f"on device {got.device} in place of {expected.device}"
    if expected.device.type == "meta":
        return ""
    got, expected = got.detach(), expected.detach()
    if expected.is_floating_point():
        wrong = ~isclose(got, expected, rtol=rtol, atol=atol, equal_nan=True)
    else:
        wrong = got != expected
    if not wrong.any():
        return ""
    first = tuple(wrong.nonzero()[0].tolist())
    return f"differs at {list(first)}" if first else "the value differs"


def named_inputs(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a call by the names of the function's parameters."""
    import inspect

    try:
        bound = inspect.signature(function).bind(*args, **kwargs)
    except (TypeError, ValueError):  # no signature, or one that does not take these arguments: the call says so
        return {**{f"argument {i}": value for i, value in enumerate(args, 1)}, **kwargs}
    named: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = inspect.signature(function).parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            named.update({f"{name}[{i}]": item for i, item in enumerate(value)})
        else:
            named.update(value if kind is inspect.Parameter.VAR_KEYWORD else {name: value})
    return named


def copy_of(value: Any) -> Any:
    """Copy that a later change of `value` does not reach; what cannot be copied is returned as it is."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    try:
        return copy.deepcopy(value)
    except Exception:  # generators, modules with hooks, open files
        return value


def describe_type(value: Any) -> str:
    """Type of a value, in words."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if value is None:
        return "None (is the `return` missing?)"
    shown = f" {value!r}" if isinstance(value, int | float | str | bool | tuple) else ""
    return f"{type(value).__name__}{shown}"[:80]


def describe(value: Any) -> str:
    """A value for a failure's lines: shape and dtype of a tensor, and its entries if they are few."""
    if isinstance(value, Note):
        return str(value)
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {' '.join(str(value).split())}"[:240]
    if isinstance(value, Tensor):
        shape = f"({', '.join(map(str, value.shape))})" if value.ndim else ""
        dtype = "" if value.dtype in (torch.float32, torch.int64) else f" {str(value.dtype)[6:]}"
        if value.device.type == "meta" or value.numel() > MAX_SHOWN_NUMBERS:
            return f"{shape}{dtype}"
        return f"{shape}{dtype} {_numbers(value.detach().tolist())}".strip()
    if isinstance(value, tuple | list):
        inner = ", ".join(describe(item) for item in value)
        return (f"({inner})" if isinstance(value, tuple) else f"[{inner}]")[:400]
    if isinstance(value, float):
        return f"{value:.6g}"
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))[:240]


def value_digest(value: Any) -> str:
    """Digest of a value to four digits, shape and dtype included; of an exception, its type and text."""
    import hashlib

    return hashlib.sha256(_rounded(value).encode()).hexdigest()[:16]


def _rounded(value: Any) -> str:
    if isinstance(value, Tensor):
        entries = "" if value.device.type == "meta" else _rounded(value.detach().tolist())
        return f"{tuple(value.shape)} {value.dtype} {entries}"
    if isinstance(value, tuple | list):
        return f"[{' '.join(map(_rounded, value))}]"
    if isinstance(value, dict):
        return _rounded(list(value.items()))
    if isinstance(value, float):
        return f"{value + 0.0:.4g}"
    return describe(value) if isinstance(value, BaseException | int | str | bool | None) else type(value).__name__


def _numbers(values: Any) -> str:
    if isinstance(values, list):
        return f"[{', '.join(_numbers(value) for value in values)}]"
    return f"{values:.4g}" if isinstance(values, float) else str(values)
