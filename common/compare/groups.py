"""Groups of runs that differ in seed and name alone, and their tables of means and standard deviations.

(Not by pandas: to it a metric that is NaN, as of a diverged run, is one that the run does not have; and its import takes
longer than a whole listing.)
"""

from __future__ import annotations

import json
import math
import os
import re
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from common.compare.records import RunRecord


@dataclass
class MeanStd:
    """Mean, and sample standard deviation; None for a single value."""

    mean: float
    std: float | None = None

    def __str__(self) -> str:
        """Mean with four significant digits, and the deviation with as many decimals."""
        if not math.isfinite(self.mean):
            return str(self.mean)
        decimals = min(6, max(0, 3 - math.floor(math.log10(abs(self.mean))))) if self.mean else 2
        mean = f"{self.mean:,.{decimals}f}"
        return mean if self.std is None else f"{mean} ± {self.std:,.{decimals}f}"


Cell = str | MeanStd | None  # None: the run has no such metric or setting
EMPTY_CELL = "–"
# what the name of a variant adds to its metric's: by TTA or temperature scaling, in lower case, by length in words; any
# other longer name, as `test/accuracy_top5`, is a metric of its own
VARIANT_SUFFIXES = re.compile(r"(_tta|_scaled|_moses|_lc|_[\d+-]+_(words|characters))+")


def cell_text(cell: Cell) -> str:
    """Text of a cell; a dash for an empty one."""
    return EMPTY_CELL if cell is None else str(cell)


@dataclass
class Group:
    """Runs of one project that differ in seed and name alone."""

    runs: list[RunRecord]

    @property
    def first(self) -> RunRecord:
        """One of the runs, for what they have in common."""
        return self.runs[0]

    @cached_property
    def name(self) -> str:
        """Name of the run; of several their common prefix, and a star."""
        if len(self.runs) == 1:
            return self.first.name
        return os.path.commonprefix([run.name for run in self.runs]) + "*"  # noqa: RUF071

    @property
    def curve_name(self) -> str:
        """Metric of the curves to plot: the monitored one, if a run has its curve; empty without curves."""
        return max((run.curve_name for run in self.runs if run.curve), key=self.first.monitor.__eq__, default="")

    def metric(self, name: str) -> MeanStd | None:
        """Metric `name` over those runs that have it."""
        return mean_std([run.metrics[name] for run in self.runs if name in run.metrics])


@dataclass
class Table:
    """Groups of one project, a row for each; rows are as long as `header`, its last columns the differing settings."""

    project: str
    groups: list[Group]
    header: list[str]
    rows: list[list[Cell]]
    settings: list[str]


def mean_std(values: Sequence[float]) -> MeanStd | None:
    """Mean and sample standard deviation; None for no values."""
    if len(values) < 2:
        return MeanStd(values[0]) if values else None
    if not all(map(math.isfinite, values)):
        return MeanStd(sum(values), math.nan)  # NaN, or infinity if all that is not finite is of one sign
    return MeanStd(statistics.fmean(values), statistics.stdev(values))


def group_runs(records: Sequence[RunRecord]) -> list[Group]:
    """Groups of `records`, within each project and data source sorted from the best to the worst monitored metric."""
    groups: dict[str, Group] = {}
    for run in records:
        key = json.dumps(
            [run.project, run.source, run.data_path, run.recipe, run.device, run.settings], sort_keys=True, default=str
        )
        groups.setdefault(key, Group([])).runs.append(run)
    for group in groups.values():
        group.runs.sort(key=lambda run: (run.seed, run.name))
    return sorted(groups.values(), key=sort_key)


def sort_key(group: Group) -> tuple[str, str, str, bool, float, str]:
    """Key that sorts a group into its table; without a monitored metric it comes last."""
    monitored = group.metric(group.first.monitor)
    data_key = group.first.project, group.first.source, group.first.data_path
    if monitored is None or math.isnan(monitored.mean):
        return *data_key, True, 0.0, group.name
    value = -monitored.mean if group.first.mode == "max" else monitored.mean
    return *data_key, False, value, group.name


def source_labels(groups: Sequence[Group]) -> list[str]:
    """Data of each group: its label, with the path where groups have data of one label in different folders."""
    paths: dict[str, set[str]] = {}
    for group in groups:
        paths.setdefault(group.first.source, set()).add(group.first.data_path)
    runs = [group.first for group in groups]
    return [
        f"{run.source} ({run.data_path})" if len(paths[run.source]) > 1 and run.data_path else run.source for run in runs
    ]


def make_tables(groups: Sequence[Group], all_metrics: bool = False) -> list[Table]:
    """A table for each project of `groups`, with the main metrics or all."""
    projects = dict.fromkeys(group.first.project for group in groups)
    return [make_table([g for g in groups if g.first.project == project], all_metrics) for project in projects]


def make_table(groups: list[Group], all_metrics: bool) -> Table:
    """Table of one project's groups. Settings come last: there may be many of them."""
    settings, metrics = differing_settings(groups), metric_names(groups, all_metrics)
    header = ["run", "data", "recipe", "seeds", *metrics, "training seconds", "samples per second", *settings]
    rows: list[list[Cell]] = []
    for group, source in zip(groups, source_labels(groups), strict=True):
        run = group.first
        row: list[Cell] = [group.name, source, run.recipe, seeds_text(group)]
        row += [group.metric(name) for name in metrics]
        row.append(mean_std([each.train_seconds for each in group.runs]))
        row.append(mean_std([each.samples_per_second for each in group.runs]))
        row += [setting_text(run, name) for name in settings]
        rows.append(row)
    return Table(groups[0].first.project, groups, header, rows, settings)


def seeds_text(group: Group) -> str:
    """Seeds of a group's runs, each once: runs of one seed are repetitions, and their deviation is not that over seeds."""
    counts = Counter(run.seed for run in group.runs)
    return ", ".join(f"{seed} ({count} runs)" if count > 1 else str(seed) for seed, count in counts.items())


def differing_settings(groups: Sequence[Group]) -> list[str]:
    """Settings in which `groups` differ, and `device` if they ran on several."""
    runs = [group.first for group in groups]
    names = dict.fromkeys(name for run in runs for name in run.settings)
    differing = [name for name in names if len({setting_text(run, name) for run in runs}) > 1]
    return differing + ["device"] * (len({run.device for run in runs}) > 1)


def setting_text(run: RunRecord, name: str) -> str | None:
    """Value of a setting as JSON, a string as it is; None if the run has no such setting."""
    value: Any = run.device if name == "device" else run.settings.get(name, "")
    return (value or None) if isinstance(value, str) else json.dumps(value, default=str)


def metric_names(groups: Sequence[Group], all_metrics: bool) -> list[str]:
    """Validation metrics, then test metrics.

    The main ones: of validation the monitored metrics, of the test those that are no variant of another (see
    `VARIANT_SUFFIXES`), as `test/accuracy_tta` is one of `test/accuracy`.
    """
    names = dict.fromkeys(name for group in groups for run in group.runs for name in run.metrics)

    def is_main(name: str) -> bool:
        if not name.startswith("test/"):
            return any(name == (group.first.monitor or group.curve_name) for group in groups)
        return not any(name.startswith(other) and VARIANT_SUFFIXES.fullmatch(name, len(other)) for other in names)

    return sorted((name for name in names if all_metrics or is_main(name)), key=lambda name: not name.startswith("val/"))
