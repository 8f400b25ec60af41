"""What an agent has learned, to look at: before and after as a film, and for CartPole value and policy as maps."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from common.errors import UserError
from common.io.loggers import log_plot
from common.io.ranks import print_rank_zero
from common.plots.figures import new_figure, save, style_axes
from projects.policy_gradient.films import film_episode, save_film
from projects.policy_gradient.inference import Agent
from projects.policy_gradient.module import PolicyGradientModule

FILM_SEED = 0
MAP_POINTS = 81  # on each side


class AgentPictures(Callback):
    """After the test `film.gif`, an untrained agent beside this one; for CartPole also `map.png`.

    Args:
        folder: where the pictures go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Plays and draws; where there is nothing to draw with, says so."""
        if not trainer.is_global_zero:
            return
        module, data = cast(PolicyGradientModule, pl_module), trainer.datamodule  # type: ignore[attr-defined]
        agent = Agent(module, data.task)
        try:
            film_beside_untrained(agent, self.folder / "film.gif")
        except UserError as error:
            print_rank_zero(f"no film: {error}")
        if is_cartpole(agent):
            log_plot(trainer, "map", draw_map(module, self.folder / "map.png"))


def film_beside_untrained(agent: Agent, path: Path, seed: int = FILM_SEED) -> Path:
    """A film of the agent, right, and of one that has learned nothing, left, from the same beginning.

    An untrained one draws its actions: nothing is the likeliest.
    """
    before, _ = film_episode(agent.task, agent.untrained().policy(sample=True, seed=seed), seed)
    after, _ = film_episode(agent.task, agent.policy(), seed)
    return save_film([before, after], path)


def is_cartpole(agent: Agent) -> bool:
    """Whether an observation is a cart's position and speed and a pole's angle and speed."""
    return agent.task.id.rpartition(":")[2].startswith("CartPole-")


@torch.no_grad()
def draw_map(module: PolicyGradientModule, path: Path) -> Path:
    """What CartPole's agent thinks of each angle and angular speed of the pole while the cart stands in the middle.

    Args:
        module: of a policy for CartPole.
        path: the PNG to write.
    """
    angle, speed = torch.linspace(-0.21, 0.21, MAP_POINTS), torch.linspace(-2.5, 2.5, MAP_POINTS)
    rows, columns = torch.meshgrid(speed, angle, indexing="ij")
    states = torch.stack([torch.zeros_like(rows), torch.zeros_like(rows), columns, rows], -1)  # (points, points, 4)
    states = module.scaled(states.to(module.device, next(module.parameters()).dtype))
    maps: list[tuple[str, Tensor, str]] = [
        ("probability of pushing to the right", module.policy.stack(states).softmax(-1)[..., 1], "RdBu")
    ]
    if module.value is not None:
        worth = module.value(states) / module.hparams["reward_scale"]
        maps.append(("value: discounted reward to come", worth, "viridis"))
    figure, all_axes = new_figure(1, len(maps), 4.6, 3.6)
    for axes, (title, values, colors) in zip(all_axes, maps, strict=True):
        extent = (float(angle[0]), float(angle[-1]), float(speed[0]), float(speed[-1]))
        image = axes.imshow(values.cpu().float(), origin="lower", extent=extent, aspect="auto", cmap=colors)
        if colors == "RdBu":
            image.set_clim(0, 1)
        figure.colorbar(image, ax=axes)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("angle of the pole, radians", fontsize=9)
        axes.set_ylabel("its angular speed, radians a second", fontsize=9)
        axes.tick_params(labelsize=8)
        style_axes(axes)
        axes.grid(visible=False)
    return save(figure, path)
