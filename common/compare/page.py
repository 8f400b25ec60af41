"""A comparison as one HTML page that needs nothing else: no network, no script, no file beside it."""

from __future__ import annotations

import base64
import html
import tempfile
from collections.abc import Sequence
from pathlib import Path

from common.compare.curves import draw_comparison
from common.compare.groups import Cell, Figure, Group, Table, cell_text, make_tables

# by its Content-Security-Policy the browser itself fetches nothing
PAGE = """<!DOCTYPE html>
<!-- runs -->
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Runs side by side</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }}
img {{ background: white; height: auto; max-width: 100%; }}
div {{ overflow-x: auto; }}
table {{ border-collapse: collapse; margin: 0.5rem 0 1rem; }}
th, td {{ border-bottom: 1px solid #8a8f9855; padding: 0.3rem 0.8rem; text-align: left; white-space: nowrap; }}
td:first-child, th:first-child {{ background: Canvas; left: 0; position: sticky; }}
td.number {{ font-variant-numeric: tabular-nums; text-align: right; }}
</style>
</head>
<body>
<h1>Runs side by side</h1>
{body}
</body>
</html>
"""


def page(groups: Sequence[Group]) -> str:
    """The tables and the picture as one HTML page."""
    parts = []
    with tempfile.TemporaryDirectory() as folder:
        if picture := draw_comparison(groups, Path(folder) / "curves.png"):
            data = base64.b64encode(picture.read_bytes()).decode()
            parts.append(f'<img alt="Curves of the runs" src="data:image/png;base64,{data}">')
    parts += [html_table(table) for table in make_tables(groups)]
    return PAGE.format(body="\n".join(parts))


def html_table(table: Table) -> str:
    """A project's table, and the command of every run where it is known."""
    head = "".join(f"<th>{html.escape(title)}</th>" for title in table.header)
    rows = "".join(f"<tr>{''.join(map(html_cell, row))}</tr>\n" for row in table.rows)
    commands = [run.command for group in table.groups for run in group.runs if run.command]
    lines = html.escape("\n".join(commands))
    details = f"<details><summary>Commands</summary><pre>{lines}</pre></details>" if commands else ""
    title = html.escape(table.project)
    return (
        f"<h2>{title}</h2>\n<div><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n{details}"
    )


def html_cell(cell: Cell) -> str:
    """A cell, numbers to the right."""
    kind = ' class="number"' if isinstance(cell, Figure) else ""
    return f"<td{kind}>{html.escape(cell_text(cell))}</td>"
