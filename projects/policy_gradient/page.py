"""Page of an agent: an episode, live, with the probabilities of its actions."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from common.demo.html import Markup, bar, table
from common.demo.page import Page, connect
from common.errors import UserError
from projects.policy_gradient.actor import Actor
from projects.policy_gradient.inference import Agent, load
from projects.policy_gradient.video import FRAME_MILLISECONDS, MAX_STEPS, Moment, play_episode

if TYPE_CHECKING:
    import gradio as gr

WIDTH = 480  # pixels of a frame


def play(agent: Agent, seed: float, stochastic: bool) -> Iterator[str]:
    """Moments of an episode as HTML, at the rate of a video."""
    for moment in moments(agent, seed, stochastic):
        start = time.perf_counter()
        yield describe(agent, agent.module.actor(), moment)
        time.sleep(max(0.0, FRAME_MILLISECONDS / 1000 - (time.perf_counter() - start)))


def first(agent: Agent, seed: float, stochastic: bool) -> str:
    """The first moment of an episode."""
    return describe(agent, agent.module.actor(), next(moments(agent, seed, stochastic)))


def moments(agent: Agent, seed: float, stochastic: bool) -> Iterator[Moment]:
    """Moments of the episode of a seed. Raises UserError for what is no seed."""
    if seed is None or not 0 <= seed < 2**32 or seed != int(seed):
        raise UserError("a seed is a whole number from 0 to 4294967295")
    return play_episode(agent.env_info, agent.policy(stochastic, int(seed)), int(seed), WIDTH)


def describe(agent: Agent, actor: Actor, moment: Moment) -> str:
    """HTML of a moment: frame, return, and a row for each action."""
    state = " (end of the episode)" if moment.done else f" (stopped at {MAX_STEPS} steps)" * (moment.action is None)
    line = f"<p>return {moment.total:.0f} after {moment.length} steps{state}</p>"
    if agent.env_info.discrete:
        rows = [[f"action {i}", bar(p)] for i, p in enumerate(action_probabilities(actor, moment))]
        chosen = None if moment.action is None else int(moment.action)
        actions = table(["", "probability; the action taken is bold"], rows, chosen)
    else:
        rows = [[f"component {i}", *row] for i, row in enumerate(action_components(actor, moment))]
        actions = table(["", "mean", "standard deviation", "taken"], rows)
    return frame_tag(moment.image) + line + actions


def action_probabilities(actor: Actor, moment: Moment) -> list[float]:
    """Probability of each discrete action in a moment; of one that is not valid it is 0."""
    logits = actor.outputs(moment.obs[None])[0]
    if moment.action_mask is not None:
        logits = np.where(moment.action_mask, logits, -np.inf)
    weights = np.exp(logits - logits.max())
    return [float(weight) for weight in weights / weights.sum()]


def action_components(actor: Actor, moment: Moment) -> list[list[str]]:
    """Mean, standard deviation and value of each component of a continuous action, -1 to 1 being its bounded range."""
    mean, std = actor.outputs(moment.obs[None])[0], actor.std
    assert std is not None
    taken = [""] * len(mean) if moment.action is None else [f"{value:.2f}" for value in moment.action]
    return [[f"{m:.2f}", f"{s:.2f}", value] for m, s, value in zip(mean, np.ravel(std), taken, strict=True)]


def frame_tag(image: Image.Image) -> Markup:
    """Tag of an image that holds its data: no file is left behind by a frame."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return Markup(f'<img class="frame" alt="the environment" src="data:image/png;base64,{data}">')


def layout(agent: Agent, page: gr.Blocks) -> None:
    """Components: seed and buttons on the left, the episode on the right."""
    import gradio as gr

    with gr.Row():
        with gr.Column(scale=1, min_width=260):
            seed = gr.Number(0, label="seed of the episode", precision=0)
            stochastic = gr.Checkbox(False, label="sample the actions, as in training; else greedy ones")
            with gr.Row():
                start = gr.Button("Play", variant="primary", min_width=100)
                stop = gr.Button("Stop", min_width=100)
        with gr.Column(scale=2, min_width=320):
            episode = gr.HTML(elem_classes="answer")
    inputs = [seed, stochastic]
    playing = connect([start.click], partial(play, agent), inputs, episode, stream=True, trigger_mode="once")
    stop.click(None, cancels=[playing], api_visibility="private")
    connect([page.load, seed.change], partial(first, agent), inputs, episode)


PAGE = Page(
    "Policy gradient (policy_gradient)",
    "Watch the probabilities: near 100 % the policy is sure; where they are close, a sampled action may differ from the "
    "greedy one.",
    load,
    layout,
)
