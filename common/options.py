"""Restricted number types of options: the parser checks their bounds, and `--help` names them.

The common ones are jsonargparse's own: `PositiveInt`, `NonNegativeFloat`, `ClosedUnitInterval` and the like.
"""

from __future__ import annotations

from enum import Enum
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, TypeVar

T = TypeVar("T")

if TYPE_CHECKING:
    Fraction = float
    PositiveFraction = float
    Exponent = float
    LogStd = float
    AtLeastTwo = int
    Seed = int
else:
    from jsonargparse.typing import restricted_number_type

    Fraction = restricted_number_type("Fraction", float, [(">=", 0), ("<", 1)])
    PositiveFraction = restricted_number_type("PositiveFraction", float, [(">", 0), ("<=", 1)])
    Exponent = restricted_number_type("Exponent", float, [(">=", -10), ("<=", 10)])
    LogStd = restricted_number_type("LogStd", float, [(">=", -20), ("<=", 20)])
    AtLeastTwo = restricted_number_type("AtLeastTwo", int, [(">=", 2)])
    Seed = restricted_number_type("Seed", int, [(">=", 0), ("<", 2**32)])  # what every random number generator takes


def as_dataclass(class_type: type[T], value: T | dict[str, Any]) -> T:
    """Group of options as its dataclass: checkpoints hold the fields as a dict, which `load_from_checkpoint` passes on."""
    return class_type(**value) if isinstance(value, dict) else value


def instantiate_plain(class_type: type[T], *args: Any, **kwargs: Any) -> T:
    """Instantiator of the parser: restricted numbers, once checked, become plain ones.

    A `PositiveFloat` in an optimizer would be in its checkpoints, where `torch.load(weights_only=True)` rejects it.
    """
    return class_type(*map(plain_numbers, args), **{name: plain_numbers(value) for name, value in kwargs.items()})


def plain_numbers(value: Any) -> Any:
    """`value` with numbers of other types, also inside lists, tuples and dicts, as plain int and float."""
    if type(value) in (list, tuple):
        return type(value)(map(plain_numbers, value))
    if type(value) is dict:
        return {key: plain_numbers(item) for key, item in value.items()}
    if isinstance(value, bool | Enum) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)
