"""Plots: video and policy map of a trained agent, and the learning curves of finished runs.

The curves are a command: `python -m projects.policy_gradient.plots RUN ... --output PNG`.
"""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from common.cli.command import OneLineParser, report_errors
from common.errors import UserError
from common.io.loggers import log_plot
from common.io.metrics import read_metrics
from common.plots.captions import run_caption
from common.plots.figures import (
    TITLE_SIZE,
    add_legend,
    line_styles,
    new_figure,
    report_plot_errors,
    save_figure,
    style_axes,
)
from common.plots.text import fit_text
from projects.policy_gradient.inference import Agent
from projects.policy_gradient.module import PolicyGradientModule
from projects.policy_gradient.video import record_agent

CURVE_POINTS = 200
GRID_SIZE = 81  # of the policy map, on each side


class AgentPlots(Callback):
    """After the test `video.gif`, an untrained agent beside this one; for CartPole also `policy_map.png`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Plays and plots; prints a line if the environment cannot be rendered."""
        if not trainer.is_global_zero:
            return
        module, data = cast(PolicyGradientModule, pl_module), trainer.datamodule  # type: ignore[attr-defined]
        data.close()  # there may be few instances at a time
        with report_plot_errors("video.gif"):
            record_agent(Agent(module, data.env_info), self.folder / "video.gif", untrained=True)
        if re.fullmatch(r"CartPole-v\d+", data.env_info.id):
            with report_plot_errors("policy_map.png"):
                caption = run_caption(self.folder, data, "best checkpoint")
                log_plot(trainer, "policy_map", plot_policy_map(module, self.folder / "policy_map.png", caption))


@torch.no_grad()
def plot_policy_map(module: PolicyGradientModule, path: Path, caption: str = "") -> Path:
    """CartPole's policy and value over angle and angular velocity of the pole, with the cart at rest in the middle."""
    angle, velocity = torch.linspace(-0.21, 0.21, GRID_SIZE), torch.linspace(-2.5, 2.5, GRID_SIZE)
    rows, columns = torch.meshgrid(velocity, angle, indexing="ij")
    obs = torch.stack([torch.zeros_like(rows), torch.zeros_like(rows), columns, rows], -1)  # (grid, grid, 4)
    obs = module.normalize(obs.to(module.device, next(module.parameters()).dtype))
    maps = [("Policy: probability of pushing to the right", module.policy.mlp(obs).softmax(-1)[..., 1], "RdBu")]
    if module.value is not None:
        maps.append(("Value: expected discounted return", module.value(obs) / module.hparams["reward_scale"], "viridis"))
    figure, all_axes = new_figure(1, len(maps), 4.6, 3.6)
    for axes, (title, values, colors) in zip(all_axes, maps, strict=True):
        extent = (float(angle[0]), float(angle[-1]), float(velocity[0]), float(velocity[-1]))
        image = axes.imshow(values.cpu().float(), origin="lower", extent=extent, aspect="auto", cmap=colors)
        if colors == "RdBu":
            image.set_clim(0, 1)
        figure.colorbar(image, ax=axes)
        axes.set_title(title, fontsize=TITLE_SIZE)
        axes.set_xlabel("pole angle, radians", fontsize=9)
        axes.set_ylabel("pole angular velocity, radians per second", fontsize=9)
        axes.tick_params(labelsize=8)
        style_axes(axes)
        axes.grid(visible=False)
    figure.suptitle("CartPole, the cart at rest in the middle of its track", fontsize=TITLE_SIZE)
    return save_figure(figure, path, caption)


class LearningCurve(NamedTuple):
    """Validations of a finished run: environment steps and mean returns, both (validations,)."""

    environment: str
    recipe: str
    steps: np.ndarray
    returns: np.ndarray


def read_learning_curve(run_dir: Path) -> LearningCurve:
    """Validations of the run in `run_dir`. Raises UserError if it is no finished run of this project."""
    try:
        summary = json.loads((run_dir / "summary.json").read_text())
        rows = [row for row in read_metrics(run_dir / "metrics.csv") if "val/return_mean" in row]
        steps = np.array([row["val/environment_steps"] for row in rows])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{run_dir}: no finished run of this project") from error
    if not rows:
        raise UserError(f"{run_dir}: has no validations")
    returns = np.array([row["val/return_mean"] for row in rows])
    return LearningCurve(summary["data_source"], summary["recipe"], steps, returns)


def plot_learning_curves(curves: Sequence[LearningCurve], path: Path, columns: int = 2) -> Path:
    """Learning curves: a panel for each environment, a line style for each recipe; mean, minimum and maximum over its runs.

    A run that stopped early, its environment solved, counts with its last return from then on; behind the longest run of its
    recipe a curve is dotted.
    """
    panels: dict[str, dict[str, list[LearningCurve]]] = defaultdict(lambda: defaultdict(list))
    for curve in curves:
        panels[curve.environment][curve.recipe].append(curve)
    columns = min(columns, len(panels))
    figure, all_axes = new_figure(-(-len(panels) // columns), columns, 4.8, 3.1)
    for axes, (environment, recipes) in zip(all_axes, panels.items(), strict=False):
        end = max(run.steps[-1] for runs in recipes.values() for run in runs)
        for style, (recipe, runs) in zip(line_styles(len(recipes)), recipes.items(), strict=True):
            grid = np.linspace(max(run.steps[0] for run in runs), max(run.steps[-1] for run in runs), CURVE_POINTS)
            returns = np.stack([np.interp(grid, run.steps, run.returns) for run in runs])  # (runs, points)
            seeds = f"{len(runs)} seed" + "s" * (len(runs) > 1)
            axes.fill_between(grid, returns.min(0), returns.max(0), color=style["color"], alpha=0.2, linewidth=0)
            label = f"{fit_text(recipe, 2.5, 8)}, {seeds}" + (": mean and range" if len(runs) > 1 else "")
            axes.plot(grid, returns.mean(0), label=label, **style)
            axes.hlines(returns[:, -1].mean(), grid[-1], end, color=style["color"], linewidth=1.2, linestyles="dotted")
        axes.set_title(fit_text(environment, 4.2, TITLE_SIZE), fontsize=TITLE_SIZE)
        axes.set_xlabel("environment steps", fontsize=8)
        axes.set_ylabel("mean validation return", fontsize=8)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:,.0f}k")
        axes.tick_params(labelsize=8)
        add_legend(axes, fontsize=8, loc="lower right")
        style_axes(axes)
    for axes in all_axes[len(panels) :]:
        axes.set_visible(False)
    return save_figure(figure, path)


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code (see `common.errors`)."""
    parser = OneLineParser(prog="python -m projects.policy_gradient.plots", description="Plots learning curves of runs.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="Folder of a finished run.")
    parser.add_argument("--output", type=Path, default=Path("curves.png"), metavar="PNG", help="Default: curves.png.")
    options = parser.parse_args(args)
    return report_errors(
        lambda: print(plot_learning_curves([read_learning_curve(run_dir) for run_dir in options.runs], options.output))
    )


if __name__ == "__main__":
    sys.exit(main())
