"""Comparison as a file: Markdown, CSV, or an HTML page."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from common.compare.curves import draw_comparison
from common.compare.groups import Group, MeanStd, cell_text, make_tables
from common.compare.page import page
from common.errors import UserError
from common.io.files import write_text_atomically

# how reports begin, so that no other file is ever overwritten
FIRST_LINES = {
    ".md": "# Comparison of runs\n",
    ".csv": "project,run,data,recipe,seeds,",
    ".html": "<!DOCTYPE html>\n<!-- runs -->",
}


def write_report(groups: Sequence[Group], path: Path) -> list[Path]:
    """Writes the report in the format of the suffix; returns the files written, as Markdown's plot is a file of its own.

    Raises:
        UserError: The suffix is unknown, the file exists and is no report, or it cannot be written.
    """
    if path.suffix not in FIRST_LINES:
        raise UserError(f"--output {path}: name a file that ends in {', '.join(FIRST_LINES)}")
    plot = path.with_suffix(".png")
    for file in [path, plot] if path.suffix == ".md" else [path]:
        check_overwritable(file, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".md":
            drawn = draw_comparison(groups, plot)
            write_text_atomically(path, markdown(groups, drawn.name if drawn else None))
            return [path, drawn] if drawn else [path]
        write_text_atomically(path, comma_separated(groups) if path.suffix == ".csv" else page(groups))
    except OSError as error:
        raise UserError(f"--output {path}: {error.strerror or error}") from error
    return [path]


def check_overwritable(file: Path, report: Path) -> None:
    """Raises UserError if `file` exists and does not belong to an earlier `report`."""
    is_report = report.is_file() and report.read_bytes().startswith(FIRST_LINES[report.suffix].encode())
    if file.exists() and not is_report:
        raise UserError(f"--output {report}: {file} is there already and no comparison; choose another name")


def markdown(groups: Sequence[Group], plot: str | None) -> str:
    """Tables in Markdown, below the `plot` of the curves."""
    parts = [FIRST_LINES[".md"]]
    if plot:
        parts.append(f"![Curves of the runs]({plot})\n")
    for table in make_tables(groups):
        lines = [table.header, ["---"] * len(table.header), *([cell_text(cell) for cell in row] for row in table.rows)]
        parts.append(f"## {table.project}\n")
        parts.append("".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines))
    return "\n".join(parts)


def comma_separated(groups: Sequence[Group]) -> str:
    """CSV table of all groups with all metrics; the standard deviation of each is a column of its own."""
    lines: list[dict[str, str]] = []
    for table in make_tables(groups, all_metrics=True):
        for row in table.rows:
            line = {"project": table.project}
            for title, cell in zip(table.header, row, strict=True):
                if isinstance(cell, MeanStd):
                    line[title] = repr(cell.mean)
                    line[f"{title} std"] = "" if cell.std is None else repr(cell.std)
                else:
                    line[title] = cell or ""
            lines.append(line)
    header = dict.fromkeys(title for line in lines for title in line if any(each.get(title) for each in lines))
    out = io.StringIO()
    writer = csv.DictWriter(out, list(header), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()
