"""Comparison as a self-contained HTML page: no network, no script, no file beside it."""

from __future__ import annotations

import base64
import html
import tempfile
from collections.abc import Sequence
from pathlib import Path

from common.compare.curves import draw_comparison
from common.compare.groups import Cell, Group, MeanStd, Table, cell_text, make_tables

# its Content-Security-Policy keeps the browser from fetching anything
PAGE = """<!DOCTYPE html>
<!-- runs -->
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Comparison of runs</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 110rem; padding: 0 1rem; }}
img {{ background: white; height: auto; max-width: 100%; }}
div {{ overflow-x: auto; }}
table {{ border-collapse: collapse; margin: 0.5rem 0 1rem; }}
th, td {{ border-bottom: 1px solid #8a8f9855; padding: 0.3rem 0.8rem; text-align: left; overflow-wrap: anywhere; }}
td:nth-child(2) {{ min-width: 10rem; }}
td:first-child, th:first-child {{ background: Canvas; left: 0; position: sticky; }}
td.number {{ font-variant-numeric: tabular-nums; text-align: right; white-space: nowrap; }}
</style>
</head>
<body>
<h1>Comparison of runs</h1>
{body}
</body>
</html>
"""


def page(groups: Sequence[Group]) -> str:
    """HTML page with the plot of the curves and the tables."""
    parts = []
    with tempfile.TemporaryDirectory() as folder:
        if plot := draw_comparison(groups, Path(folder) / "curves.png"):
            data = base64.b64encode(plot.read_bytes()).decode()
            parts.append(f'<img alt="Curves of the runs" src="data:image/png;base64,{data}">')
    parts += [html_table(table) for table in make_tables(groups)]
    return PAGE.format(body="\n".join(parts))


def html_table(table: Table) -> str:
    """Table of a project, and the commands of its runs where they are known."""
    end = len(table.header) - len(table.settings)
    header, cells = table.header[:end], [row[:end] for row in table.rows]
    if table.settings:  # beside the run's name, in one column that wraps: however many they are, they are seen first
        header.insert(1, "differing settings")
        for line, row in zip(cells, table.rows, strict=True):
            settings = zip(table.settings, row[end:], strict=True)
            line.insert(1, ", ".join(f"{name}: {cell_text(cell)}" for name, cell in settings))
    head = "".join(f"<th>{html.escape(title)}</th>" for title in header)
    rows = "".join(f"<tr>{''.join(map(html_cell, line))}</tr>\n" for line in cells)
    commands = [run.command for group in table.groups for run in group.runs if run.command]
    lines = html.escape("\n".join(commands))
    details = f"<details><summary>Commands</summary><pre>{lines}</pre></details>" if commands else ""
    title = html.escape(table.project)
    return (
        f"<h2>{title}</h2>\n<div><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n{details}"
    )


def html_cell(cell: Cell) -> str:
    """Table cell, with numbers aligned to the right."""
    kind = ' class="number"' if isinstance(cell, MeanStd) else ""
    return f"<td{kind}>{html.escape(cell_text(cell))}</td>"
