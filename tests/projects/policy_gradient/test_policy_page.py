"""Page of an agent: an episode has the frames and the return of `evaluate`, the probabilities are the policy's."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from projects.policy_gradient import page as page_module
from projects.policy_gradient.environments import inspect_env
from projects.policy_gradient.inference import Agent
from projects.policy_gradient.module import PolicyGradientModule
from projects.policy_gradient.page import action_components, action_probabilities, describe, first, play
from projects.policy_gradient.video import Moment, play_episode


def new_agent(id: str, **options) -> Agent:
    """Agent with a policy that is not certain."""
    info = inspect_env(id)
    module = PolicyGradientModule(info.obs_dim, info.action_dim, discrete=info.discrete, hidden_dims=[8], **options)
    with torch.no_grad():
        for parameter in module.policy.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return Agent(module.eval(), info)


@pytest.fixture
def agent() -> Agent:
    return new_agent("CartPole-v1")


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(page_module, "FRAME_MILLISECONDS", 0)


@pytest.mark.parametrize("stochastic", [False, True])
def test_an_episode_has_the_return_of_evaluate(agent, stochastic):
    shown = list(play(agent, 3, stochastic))
    stats = agent.evaluate([3], stochastic)
    total, length = int(stats.returns[0]), int(stats.lengths[0])
    assert len(shown) == length + 1
    assert f"return {total} after {length} steps (end of the episode)" in shown[-1]
    assert first(agent, 3, stochastic) == shown[0] and "return 0 after 0 steps<" in shown[0]


def test_the_probabilities_are_those_of_the_policy_and_the_action_is_bold(agent):
    moments = list(play_episode(agent.env_info, agent.policy(), 3))
    shown = list(play(agent, 3, False))
    for moment, text in list(zip(moments, shown, strict=True))[:5]:
        with torch.no_grad():
            expected = agent.module.policy.mlp(agent.module.normalize(torch.from_numpy(moment.obs)[None])).softmax(1)[0]
        assert action_probabilities(agent.module.actor(), moment) == pytest.approx(expected.tolist(), abs=1e-5)
        percents = [float(p) for p in re.findall(r"([\d.]+)&nbsp;%", text)]
        assert percents == pytest.approx((100 * expected).tolist(), abs=0.06)
        bold = re.search(r'class="chosen"><td>action (\d)', text)
        assert bold and int(bold[1]) == int(moment.action) == int(expected.argmax()), "greedy"


def test_an_action_that_is_not_valid_has_probability_zero(agent):
    obs, mask = np.zeros(4, np.float32), np.array([True, False])
    moment = Moment(Image.new("RGB", (4, 4)), obs, mask, np.array(0), 0.0, 0, False)
    assert action_probabilities(agent.module.actor(), moment) == [1.0, 0.0]


def test_continuous_actions_have_mean_and_standard_deviation():
    agent = new_agent("Pendulum-v1")
    moment = next(play_episode(agent.env_info, agent.policy(True, 0), 0))
    ((mean, std, taken),) = action_components(agent.module.actor(), moment)
    with torch.no_grad():
        expected = agent.module.policy.mlp(agent.module.normalize(torch.from_numpy(moment.obs)[None]))[0, 0]
    assert float(mean) == pytest.approx(float(expected), abs=0.006)
    assert float(std) == pytest.approx(float(agent.module.policy.head.log_std.detach().exp()), abs=0.006)
    assert float(taken) == pytest.approx(float(moment.action[0]), abs=0.006) and taken != mean
    assert "standard deviation" in describe(agent, agent.module.actor(), moment)


def test_a_frame_is_the_rendered_image(agent):
    text = first(agent, 3, False)
    data = re.search(r'src="data:image/png;base64,([^"]+)"', text)
    image = next(play_episode(agent.env_info, agent.policy(), 3, page_module.WIDTH)).image
    assert data and (np.asarray(Image.open(io.BytesIO(base64.b64decode(data[1])))) == np.asarray(image)).all()


def test_a_stopped_episode_closes_its_environment(agent, monkeypatch):
    closed = []
    monkeypatch.setattr("projects.policy_gradient.environments.CheckedEnv.close", lambda self: closed.append(self))
    playing = play(agent, 0, False)
    next(playing)
    assert not closed
    playing.close()
    assert len(closed) == 1


@pytest.mark.parametrize("seed", [-1, 2**32, 0.5, None])
def test_what_is_no_seed_is_named(agent, seed):
    with pytest.raises(UserError, match=r"^a seed is a whole number from 0 to 4294967295$"):
        next(play(agent, seed, False))


def test_the_layout_has_a_button_that_stops_the_stream(agent):
    gr = pytest.importorskip("gradio")
    from projects.policy_gradient.page import layout

    with gr.Blocks(analytics_enabled=False) as page:
        layout(agent, page)
    streams = [id for id, fn in page.fns.items() if fn.types_generator]
    assert [fn.cancels for fn in page.fns.values() if fn.cancels] == [streams]
