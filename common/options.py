"""Option types: numbers with bounds, which the parser checks and `--help` names.

The usual ones are jsonargparse's own: `PositiveInt`, `NonNegativeFloat`, `ClosedUnitInterval` and the like.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Fraction = float
    PositiveFraction = float
else:
    from jsonargparse.typing import restricted_number_type

    Fraction = restricted_number_type("Fraction", float, [(">=", 0), ("<", 1)])
    PositiveFraction = restricted_number_type("PositiveFraction", float, [(">", 0), ("<=", 1)])
