"""Functions that would give an exercise away: they raise while a learner's code is on the stack, and work for our checks."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode, resolve_name


class Barred(Exception):
    """A learner's code used a function that the exercise asks to be written."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is what this exercise builds: write it without")


def called_from(folders: Sequence[str]) -> bool:
    """Whether a function of one of the files or folders is on the stack."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.startswith(tuple(folders)):
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


class BarredFunctions(TorchFunctionMode):
    """TorchFunctionMode that raises Barred for torch functions of the given last names, called as function or method.

    Args:
        names: Such as `softmax`, for `torch.softmax`, `Tensor.softmax` and `torch.nn.functional.softmax`.
        folders: Where the learner's code is.
    """

    def __init__(self, names: Sequence[str], folders: Sequence[str]) -> None:
        super().__init__()
        self.names, self.folders = frozenset(names), folders
        self.known: dict[Any, bool] = {}  # function -> whether it is barred: resolve_name takes longer than most functions

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in self.known:
            self.known[func] = bool(self.names & {_name_of(func), (resolve_name(func) or "").rpartition(".")[2]})
        if self.known[func] and called_from(self.folders):
            raise Barred(_name_of(func))
        return func(*args, **(kwargs or {}))


def _name_of(function: Any) -> str:
    return getattr(function, "__name__", "") or ""


class GuardedOperator:
    """Operator of `torch.ops.aten` that raises Barred for a learner's code, and else is the operator: torch's own modules,
    which may be imported only now, register its overloads.

    Args:
        operator: The operator.
        name: Its name.
        folders: Where the learner's code is.
    """

    def __init__(self, operator: Any, name: str, folders: Sequence[str]) -> None:
        self._operator, self._name, self._folders = operator, name, folders

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self._operator)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _guard(self._operator, self._name, self._folders)(*args, **kwargs)

    def __getattr__(self, key: str) -> Any:
        value = getattr(self._operator, key)
        asked_by = sys._getframe(1).f_code.co_filename
        if callable(value) and asked_by.startswith(tuple(self._folders)):
            return _guard(value, f"{self._name}.{key}", self._folders)
        return value

    def __eq__(self, other: object) -> bool:
        return self is other or self._operator is other

    def __hash__(self) -> int:
        return hash(self._operator)

    def __repr__(self) -> str:
        return repr(self._operator)


@contextmanager
def barred(names: Sequence[str], folders: Sequence[str]) -> Iterator[None]:
    """Bars `names` for code of `folders`, for good in this process: last names of torch functions, and whole paths.

    A whole path is a class (its instances cannot be made) or a Python function, such as `torch.nn.utils.rnn.pad_sequence` or
    `numpy.broadcast_shapes`.
    """
    short = [name for name in names if "." not in name]
    for name in short:
        if hasattr(torch.ops.aten, name):  # operators do not pass through a TorchFunctionMode
            setattr(torch.ops.aten, name, GuardedOperator(getattr(torch.ops.aten, name), name, folders))
    for path in set(names) - set(short):
        module_name, _, name = path.rpartition(".")
        owner = importlib.import_module(module_name)
        value, root = getattr(owner, name), path.partition(".")[0]
        if isinstance(value, type):
            value.__init__ = _guard(value.__init__, path, folders)  # type: ignore[misc]
        else:
            _replace_everywhere(value, _guard(value, path, folders), root)
    with BarredFunctions(short, folders) if short else nullcontext():  # the mode slows every operation down
        yield


def _guard(function: Callable[..., Any], name: str, folders: Sequence[str]) -> Callable[..., Any]:
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if called_from(folders):
            raise Barred(name)
        return function(*args, **kwargs)

    return functools.wraps(function)(guarded) if hasattr(function, "__name__") else guarded


def _replace_everywhere(function: Any, replacement: Any, root: str) -> None:
    """Replaces a Python function in every module of torch, and of the package `root`, that has imported it."""
    for name, module in list(sys.modules.items()):
        if name.startswith(("torch", root)):
            for key, value in list(vars(module).items()):
                if value is function:
                    setattr(module, key, replacement)


def learner_folders(*paths: Path) -> list[str]:
    """Beginnings of the file names of a learner's code."""
    return [str(path.resolve()) for path in paths]
