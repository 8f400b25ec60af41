"""Option types: numbers with bounds, which the parser checks and `--help` names.

The usual ones are jsonargparse's own: `PositiveInt`, `NonNegativeFloat`, `ClosedUnitInterval` and the like.
"""

from __future__ import annotations

from enum import Enum
from numbers import Integral
from typing import TYPE_CHECKING, Any, TypeVar

T = TypeVar("T")

if TYPE_CHECKING:
    Fraction = float
    PositiveFraction = float
else:
    from jsonargparse.typing import restricted_number_type

    Fraction = restricted_number_type("Fraction", float, [(">=", 0), ("<", 1)])
    PositiveFraction = restricted_number_type("PositiveFraction", float, [(">", 0), ("<=", 1)])


def instantiate_plain(class_type: type[T], *args: Any, **kwargs: Any) -> T:
    """Instantiator of the parser: a bounded number, once checked, becomes a plain one.

    A `PositiveFloat` given to an optimizer would be in its checkpoints, where `torch.load(weights_only=True)` refuses it.
    """
    return class_type(*map(plain_numbers, args), **{name: plain_numbers(value) for name, value in kwargs.items()})


def plain_numbers(value: Any) -> Any:
    """`value` with the bounded numbers in it, also inside lists, tuples and dicts, as plain int and float."""
    if type(value) in (list, tuple):
        return type(value)(map(plain_numbers, value))
    if type(value) is dict:
        return {key: plain_numbers(item) for key, item in value.items()}
    if isinstance(value, (bool, Enum)) or not isinstance(value, (int, float)):
        return value
    return int(value) if isinstance(value, Integral) else float(value)
