"""Comparison as tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common.compare.groups import EMPTY_CELL, Group, cell_text, make_tables

MAX_RUN_COLUMNS = 4  # where runs are columns, because the terminal is too narrow for a row each


def print_tables(groups: Sequence[Group]) -> None:
    """Prints a table for each project: a row for each run, or a column where that is too wide for the terminal."""
    from rich.console import Console
    from rich.measure import Measurement

    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 1000  # a pipe has no width
    for table in make_tables(groups):
        columns: list[Sequence[str]] = [table.header, *(list(map(cell_text, row)) for row in table.rows)]
        wide = rich_table(table.project, list(zip(*columns, strict=True)))
        if Measurement.get(console, console.options.update_width(10_000), wide).maximum <= console.width:
            console.print(wide, markup=False)
            continue
        for start in range(1, len(columns), MAX_RUN_COLUMNS):
            console.print(rich_table(table.project, [columns[0], *columns[start : start + MAX_RUN_COLUMNS]]), markup=False)


def rich_table(title: str, columns: Sequence[Sequence[str]]) -> Any:
    """Table of columns, each with its header first."""
    from rich.table import Table as RichTable
    from rich.text import Text

    table = RichTable(title=title, title_justify="left")
    for column in columns:
        header, cells = column[0], column[1:]
        numeric = all(cell[:1].isdigit() or cell == EMPTY_CELL for cell in cells)
        table.add_column(Text(header), justify="right" if numeric else "left", overflow="fold")
    for row in zip(*(column[1:] for column in columns), strict=True):
        table.add_row(*map(Text, row))
    return table
