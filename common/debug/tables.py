"""Tables of the checks, printed so that no cell is lost."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table


def print_table(table: Table) -> None:
    """Prints `table` on a terminal as wide as it is; in a pipe, which has no width, without folding a cell."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 1000
    console.print(table)
