"""Runs that differ in nothing but seed and name as one, and the table of such groups."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from common.compare.records import RunRecord


@dataclass
class Figure:
    """A mean, and the standard deviation of a single one of the values that it is of (None if there is one alone)."""

    mean: float
    deviation: float | None = None

    def __str__(self) -> str:
        """Four significant digits of the mean, and as many places of the deviation."""
        if not math.isfinite(self.mean):
            return str(self.mean)
        places = min(6, max(0, 3 - math.floor(math.log10(abs(self.mean))))) if self.mean else 2
        mean = f"{self.mean:,.{places}f}"
        return mean if self.deviation is None else f"{mean} ± {self.deviation:,.{places}f}"


Cell = str | Figure | None  # None: the run has no such thing
NOTHING = "–"


def cell_text(cell: Cell) -> str:
    """What stands in a table for people; a dash where there is nothing."""
    return NOTHING if cell is None else str(cell)


@dataclass
class Group:
    """Runs of one project that differ in nothing but seed and name."""

    runs: list[RunRecord]

    @property
    def first(self) -> RunRecord:
        """One of them, for what they share."""
        return self.runs[0]

    @cached_property
    def name(self) -> str:
        """The run's name; of several what all of them begin with, and a star."""
        if len(self.runs) == 1:
            return self.first.name
        return os.path.commonprefix([run.name for run in self.runs]) + "*"  # noqa: RUF071

    def figure(self, name: str) -> Figure | None:
        """The figure `name` over those runs that have it."""
        return summarize([run.figures[name] for run in self.runs if name in run.figures])


@dataclass
class Table:
    """The groups of one project side by side; `rows` are as long as `header`."""

    project: str
    groups: list[Group]
    header: list[str]
    rows: list[list[Cell]]


def summarize(values: Sequence[float]) -> Figure | None:
    """Mean and sample deviation."""
    if not values:
        return None
    finite = all(map(math.isfinite, values))
    mean = statistics.fmean(values)
    if len(values) == 1:
        return Figure(mean)
    return Figure(mean, statistics.stdev(values) if finite else math.nan)


def group_runs(records: Sequence[RunRecord]) -> list[Group]:
    """`records` in groups: of each project and data source the best first, where it is known what is better."""
    groups: dict[str, Group] = {}
    for run in records:
        key = json.dumps([run.project, run.source, run.recipe, run.device, run.settings], sort_keys=True, default=str)
        groups.setdefault(key, Group([])).runs.append(run)
    for group in groups.values():
        group.runs.sort(key=lambda run: (run.seed, run.name))
    return sorted(groups.values(), key=rank)


def rank(group: Group) -> tuple[str, str, bool, float, str]:
    """Where a group stands in its table."""
    watched = group.figure(group.first.monitor)
    if watched is None or math.isnan(watched.mean):
        return group.first.project, group.first.source, True, 0.0, group.name
    value = -watched.mean if group.first.mode == "max" else watched.mean
    return group.first.project, group.first.source, False, value, group.name


def make_tables(groups: Sequence[Group], every_figure: bool = False) -> list[Table]:
    """A table for each project of `groups`, with the main figures or every one."""
    projects = dict.fromkeys(group.first.project for group in groups)
    return [make_table([g for g in groups if g.first.project == project], every_figure) for project in projects]


def make_table(groups: list[Group], every_figure: bool) -> Table:
    """The table of the groups of one project. Settings come last: there may be many of them."""
    settings = differing_settings(groups)
    figures = figure_names(groups, every_figure)
    header = ["run", "data", "recipe", "seeds", *figures, "training seconds", "samples a second", *settings]
    rows: list[list[Cell]] = []
    for group in groups:
        run = group.first
        row: list[Cell] = [group.name, run.source, run.recipe, ", ".join(str(each.seed) for each in group.runs)]
        row += [group.figure(name) for name in figures]
        row.append(summarize([each.train_seconds for each in group.runs]))
        row.append(summarize([each.samples_per_second for each in group.runs]))
        row += [setting_text(run, name) for name in settings]
        rows.append(row)
    return Table(groups[0].first.project, groups, header, rows)


def differing_settings(groups: Sequence[Group]) -> list[str]:
    """The settings in which `groups` differ, and `device` if they ran on several."""
    runs = [group.first for group in groups]
    names = dict.fromkeys(name for run in runs for name in run.settings)
    different = [name for name in names if len({setting_text(run, name) for run in runs}) > 1]
    return different + ["device"] * (len({run.device for run in runs}) > 1)


def setting_text(run: RunRecord, name: str) -> str | None:
    """A setting's value as YAML has it; None if the run has no such setting."""
    value: Any = run.device if name == "device" else run.settings.get(name, "")
    return (value or None) if isinstance(value, str) else json.dumps(value, default=str)


def figure_names(groups: Sequence[Group], every_figure: bool) -> list[str]:
    """Validation's figures, then the test's.

    Of validation the main ones are those by which the best was chosen; of the test those that are no variant of another,
    as `test/accuracy_plain` is one of `test/accuracy`.
    """
    known = dict.fromkeys(name for group in groups for run in group.runs for name in run.figures)
    if not every_figure:
        watched = {group.first.monitor or group.first.curve_name for group in groups}
        known = {
            name: None
            for name in known
            if name in watched
            or (name.startswith("test/") and not any(name.startswith(f"{other}_") for other in known if other != name))
        }
    return sorted(known, key=lambda name: not name.startswith("val/"))
