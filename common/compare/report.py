"""A comparison as a file: Markdown, CSV, or an HTML page."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from common.compare.curves import draw_comparison
from common.compare.groups import Figure, Group, cell_text, make_tables
from common.compare.page import page
from common.errors import UserError

# what our own files begin with, so that no other is ever replaced
BEGINNINGS = {
    ".md": "# Runs side by side\n",
    ".csv": "project,run,data,recipe,seeds,",
    ".html": "<!DOCTYPE html>\n<!-- runs -->",
}


def write_report(groups: Sequence[Group], path: Path) -> list[Path]:
    """Writes `path` as its suffix says; returns the files written, as Markdown's picture is a file of its own.

    Raises:
        UserError: another suffix, a file that is not a comparison of ours, or a place that cannot be written to.
    """
    if path.suffix not in BEGINNINGS:
        raise UserError(f"--output {path}: name a file that ends in {', '.join(BEGINNINGS)}")
    picture = path.with_suffix(".png")
    for file in [path, picture] if path.suffix == ".md" else [path]:
        check_ours(file, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".md":
            drawn = draw_comparison(groups, picture)
            path.write_text(markdown(groups, drawn.name if drawn else None))
            return [path, drawn] if drawn else [path]
        path.write_text(comma_separated(groups) if path.suffix == ".csv" else page(groups))
    except OSError as error:
        raise UserError(f"--output {path}: {error.strerror or error}") from error
    return [path]


def check_ours(file: Path, report: Path) -> None:
    """Raises UserError if `file` exists and is not part of an earlier report in `report`'s place."""
    if not file.exists():
        return
    beginning = BEGINNINGS[report.suffix]
    ours = report.is_file() and report.read_bytes().startswith(beginning.encode())
    if not ours:
        raise UserError(f"--output {report}: {file} is there already and no comparison; choose another name")


def markdown(groups: Sequence[Group], picture: str | None) -> str:
    """The tables as Markdown, below the `picture` of their curves."""
    parts = [BEGINNINGS[".md"]]
    if picture:
        parts.append(f"![Curves of the runs]({picture})\n")
    for table in make_tables(groups):
        lines = [table.header, ["---"] * len(table.header), *([cell_text(cell) for cell in row] for row in table.rows)]
        parts.append(f"## {table.project}\n")
        parts.append("".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines))
    return "\n".join(parts)


def comma_separated(groups: Sequence[Group]) -> str:
    """All groups and all figures as one CSV table; each figure's deviation has a column of its own behind it."""
    lines: list[dict[str, str]] = []
    for table in make_tables(groups, every_figure=True):
        for row in table.rows:
            line = {"project": table.project}
            for title, cell in zip(table.header, row, strict=True):
                if isinstance(cell, Figure):
                    line[title] = repr(cell.mean)
                    line[f"{title} deviation"] = "" if cell.deviation is None else repr(cell.deviation)
                else:
                    line[title] = cell or ""
            lines.append(line)
    header = dict.fromkeys(title for line in lines for title in line if any(each.get(title) for each in lines))
    out = io.StringIO()
    writer = csv.DictWriter(out, list(header), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()
