"""How runs have learned, with the spread over their seeds: `python -m projects.policy_gradient.curves RUN ... --output PNG`.

One panel for each environment, one colour for each recipe: the mean return of every validation against environment steps.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from common.cli.command import OneLineParser, report_errors
from common.errors import UserError
from common.io.metrics import read_metrics
from common.plots.figures import BLUE, GRAY, ORANGE, new_figure, save, style_axes

COLORS = [BLUE, ORANGE, GRAY, "#4a9d6f", "#8656a8"]
POINTS = 200  # of a curve


@dataclass
class Curve:
    """A finished run's validations."""

    environment: str
    recipe: str
    steps: np.ndarray  # (validations,) of all environments together
    returns: np.ndarray  # (validations,) mean returns


def read_curve(folder: Path) -> Curve:
    """The validations of the run in `folder`. Raises UserError if it is no finished run of this project."""
    try:
        summary = json.loads((folder / "summary.json").read_text())
        data = yaml.safe_load((folder / "config.yaml").read_text())["data"]
        rows = [row for row in read_metrics(folder / "metrics.csv") if "val/return" in row]
        size = data["steps"] * data["envs"] * summary["devices"]  # environment steps of a rollout
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder}: no finished run of this project") from error
    if not rows:
        raise UserError(f"{folder}: has no validations")
    steps = np.array([(row["step"] + 1) * size for row in rows])
    return Curve(summary["data_source"], summary["recipe"], steps, np.array([row["val/return"] for row in rows]))


def draw_learning(curves: Sequence[Curve], path: Path, columns: int = 2) -> Path:
    """Draws the mean over the runs of each environment and recipe, and the range from the worst of them to the best.

    A run that stopped early, its task solved, counts with its last figure from then on; behind the longest run of its
    recipe a curve is dotted.

    Args:
        curves: of runs that differ in environment, recipe or seed.
        path: the PNG to write.
        columns: panels in a row.
    """
    panels: dict[str, dict[str, list[Curve]]] = defaultdict(lambda: defaultdict(list))
    for curve in curves:
        panels[curve.environment][curve.recipe].append(curve)
    columns = min(columns, len(panels))
    figure, all_axes = new_figure(-(-len(panels) // columns), columns, 4.8, 3.1)
    for axes, (environment, recipes) in zip(all_axes, panels.items(), strict=False):
        end = max(run.steps[-1] for runs in recipes.values() for run in runs)
        for color, (recipe, runs) in zip(COLORS, recipes.items(), strict=False):
            grid = np.linspace(max(run.steps[0] for run in runs), max(run.steps[-1] for run in runs), POINTS)
            values = np.stack([np.interp(grid, run.steps, run.returns) for run in runs])  # (runs, points)
            seeds = f"{len(runs)} seed" + "s" * (len(runs) > 1)
            axes.fill_between(grid, values.min(0), values.max(0), color=color, alpha=0.2, linewidth=0)
            axes.plot(grid, values.mean(0), color=color, linewidth=1.5, label=f"{recipe}, {seeds}")
            axes.hlines(values[:, -1].mean(), grid[-1], end, color=color, linewidth=1.2, linestyles="dotted")
        axes.set_title(environment, fontsize=10)
        axes.set_xlabel("environment steps", fontsize=8)
        axes.set_ylabel("mean return of a validation", fontsize=8)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:,.0f}k")
        axes.tick_params(labelsize=8)
        axes.legend(fontsize=8, frameon=False, loc="lower right")
        style_axes(axes)
    for axes in all_axes[len(panels) :]:
        axes.set_visible(False)
    return save(figure, path)


def new_parser() -> OneLineParser:
    """The command line's flags."""
    parser = OneLineParser(
        prog="python -m projects.policy_gradient.curves",
        description="Draws how finished runs have learned, with the spread over their seeds.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="A finished run's folder.")
    parser.add_argument("--output", type=Path, default=Path("curves.png"), metavar="PNG", help="Default: curves.png.")
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code (see `common.errors`)."""
    options = new_parser().parse_args(args)
    return report_errors(lambda: print(draw_learning([read_curve(folder) for folder in options.runs], options.output)))


if __name__ == "__main__":
    sys.exit(main())
