"""A comparison on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common.compare.groups import NOTHING, Group, cell_text, make_tables

RUNS_ABREAST = 4  # in a terminal that is too narrow for a line for each run


def print_tables(groups: Sequence[Group]) -> None:
    """Prints a table for each project: a line for each run, or where that is too wide for the terminal a column."""
    from rich.console import Console
    from rich.measure import Measurement

    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 1000  # a pipe has no width that lines would have to fit into
    for table in make_tables(groups):
        columns: list[Sequence[str]] = [table.header, *(list(map(cell_text, row)) for row in table.rows)]
        shown = rich_table(table.project, list(zip(*columns, strict=True)))
        if Measurement.get(console, console.options.update_width(10_000), shown).maximum <= console.width:
            console.print(shown, markup=False)
            continue
        for start in range(1, len(columns), RUNS_ABREAST):
            console.print(rich_table(table.project, [columns[0], *columns[start : start + RUNS_ABREAST]]), markup=False)


def rich_table(title: str, columns: Sequence[Sequence[str]]) -> Any:
    """Columns, each with its title first, as a table for the terminal."""
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(title=title, title_justify="left")
    for column in columns:
        header, cells = column[0], column[1:]
        number = all(cell[:1].isdigit() or cell == NOTHING for cell in cells)
        shown.add_column(Text(header), justify="right" if number else "left", overflow="fold")
    for row in zip(*(column[1:] for column in columns), strict=True):
        shown.add_row(*map(Text, row))
    return shown
