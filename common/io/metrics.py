"""Metrics file of a run, `metrics.csv`. Needs no torch."""

from __future__ import annotations

import codecs
import csv
import math
import sys
from collections.abc import Sequence
from pathlib import Path

Row = dict[str, float]  # metric name -> value, without empty cells


def read_metrics(path: Path) -> list[Row]:
    """Rows of a `metrics.csv`. A line on stderr says how many lines of it are unreadable."""
    lines = parse_metrics(path.read_bytes())
    if lost := describe_unreadable(lines):
        print(f"{path}: {lost}", file=sys.stderr)
    return [row for _, row in lines if row]


def parse_metrics(data: bytes) -> list[tuple[str, Row | None]]:
    """Lines of a `metrics.csv`, each with its row: empty for a header, None for a line that is unreadable.

    A header counts until the next one. A row has a cell for each of its columns, all of them numbers or empty, a step, and
    a line end: without that, its last number may be cut short. Each line is read on its own, so that damage stays in it.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        data = data.decode("utf-16", errors="replace").encode(errors="replace")
    lines: list[tuple[str, Row | None]] = []
    names: list[str] = []
    for raw in data.removeprefix(codecs.BOM_UTF8).splitlines(keepends=True):  # of bytes: not at rarer line ends
        line = raw.decode(errors="replace")
        try:
            (cells,) = csv.reader([line])
        except csv.Error:  # a cell of more than 128 KiB
            cells = [line]
        if "step" in cells:
            names = cells
            lines.append((line, {}))
        elif cells:  # not a blank line
            lines.append((line, _row(names, cells) if line.endswith(("\n", "\r")) else None))
    return lines


def _row(names: list[str], cells: list[str]) -> Row | None:
    if len(cells) != len(names):
        return None
    try:
        row = {name: float(cell) for name, cell in zip(names, cells, strict=True) if cell}
    except ValueError:
        return None
    return row if math.isfinite(row.get("step", math.nan)) else None


def describe_unreadable(lines: Sequence[tuple[str, Row | None]]) -> str:
    """How many lines that `parse_metrics` returned are unreadable; empty if none is."""
    if not lines:
        return "the file is empty"
    count = sum(row is None for _, row in lines)
    return f"{count} unreadable line{'s' * (count > 1)}" if count else ""
