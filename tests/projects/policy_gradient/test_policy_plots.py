"""Plots show the policy, the value and the returns that they were called with."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from projects.policy_gradient import video
from projects.policy_gradient.environments import inspect_env
from projects.policy_gradient.inference import Agent
from projects.policy_gradient.module import PolicyGradientModule
from projects.policy_gradient.plots import (
    GRID_SIZE,
    LearningCurve,
    plot_learning_curves,
    plot_policy_map,
    read_learning_curve,
)


def test_the_policy_map_is_over_angle_and_angular_velocity(tmp_path, drawn):
    module = PolicyGradientModule(4, 2, hidden_dims=[8], reward_scale=0.1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    plot_policy_map(module, tmp_path / "x.png")
    policy, value = (axes for axes in drawn[0].axes if axes.images)
    for axes in (policy, value):
        assert axes.get_xlabel() == "pole angle, radians" and axes.get_ylabel().startswith("pole angular velocity")
        assert axes.images[0].get_extent() == pytest.approx([-0.21, 0.21, -2.5, 2.5]) and axes.images[0].origin == "lower"
    assert policy.get_title() == "Policy: probability of pushing to the right" and policy.images[0].get_clim() == (0, 1)
    assert value.get_title().startswith("Value")
    for row, column in [(0, 0), (0, GRID_SIZE - 1), (GRID_SIZE - 1, 0), (40, 40), (10, 70)]:
        fractions = torch.tensor([column, row]) / (GRID_SIZE - 1)
        angle, velocity = (torch.tensor([0.42, 5.0]) * (fractions - 0.5)).tolist()
        obs = torch.tensor([0.0, 0.0, angle, velocity])  # position, velocity, pole's angle and angular velocity
        with torch.no_grad():
            right, expected = module.policy.mlp(obs).softmax(-1)[1], module.value(obs[None])[0] / 0.1
        assert policy.images[0].get_array()[row, column] == pytest.approx(float(right), abs=1e-5)
        assert value.images[0].get_array()[row, column] == pytest.approx(float(expected), abs=1e-4)


def test_learning_curves_are_mean_minimum_and_maximum_of_each_recipe(tmp_path, drawn):
    steps = np.array([1000.0, 2000.0, 3000.0])
    curves = [
        LearningCurve("CartPole-v1", "default", steps, np.array([10.0, 20.0, 60.0])),
        LearningCurve("CartPole-v1", "default", steps[:2], np.array([30.0, 40.0])),  # solved earlier
        LearningCurve("CartPole-v1", "reinforce", steps, np.array([1.0, 2.0, 3.0])),
        LearningCurve("Acrobot-v1", "acrobot", steps, np.array([-9.0, -8.0, -7.0])),
    ]
    plot_learning_curves(curves, tmp_path / "x.png")
    panels = {axes.get_title(): axes for axes in drawn[0].axes}
    assert list(panels) == ["CartPole-v1", "Acrobot-v1"]
    found = {line.get_label(): line.get_data() for line in panels["CartPole-v1"].get_lines()}
    assert list(found) == ["default, 2 seeds: mean and range", "reinforce, 1 seed"]
    grid, means = found["default, 2 seeds: mean and range"]
    assert (grid[0], means[0], grid[-1], means[-1]) == (1000, 20, 3000, 50)
    band = panels["CartPole-v1"].collections[0].get_paths()[0].vertices
    assert band[:, 0].min() == 1000 and (band[:, 1].min(), band[:, 1].max()) == (10, 60)
    assert panels["Acrobot-v1"].get_lines()[0].get_ydata()[[0, -1]].tolist() == [-9, -7]
    assert (panels["Acrobot-v1"].get_xlabel(), panels["Acrobot-v1"].get_ylabel()) == (
        "environment steps",
        "mean validation return",
    )


def test_a_curve_has_the_environment_steps_and_returns_of_a_runs_validations(tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps({"data_source": "CartPole-v1", "recipe": "default"}))
    header = "step,val/environment_steps,val/return_mean,train/loss"
    (tmp_path / "metrics.csv").write_text(f"{header}\n0,,,1.0\n9,2560,20.5,\n19,5120,30.0,\n")
    curve = read_learning_curve(tmp_path)
    assert (curve.environment, curve.recipe) == ("CartPole-v1", "default")
    assert curve.steps.tolist() == [2560, 5120] and curve.returns.tolist() == [20.5, 30.0]


def test_frames_of_a_film_have_the_return_so_far(monkeypatch, tmp_path):
    agent = Agent(PolicyGradientModule(4, 2, hidden_dims=[8]).eval(), inspect_env("CartPole-v1", {}, "environment"))
    captions: list[str] = []
    monkeypatch.setattr(video, "add_caption", lambda frame, caption: captions.append(caption) or frame)
    frames = video.record_episode(agent.env_info, agent.policy(), 3, "trained")
    stats = agent.evaluate([3])
    steps, total = int(stats.lengths[0]), float(stats.returns[0])
    assert len(frames) == len(captions) == steps + 1 and captions[0] == "trained: return 0"
    assert captions[5] == "trained: return 5 after 5 steps", "each step of CartPole is worth 1"
    assert captions[-1] == f"trained: return {total:.0f} after {steps} steps (end)"
    video.record_agent(agent, tmp_path / "film.gif", seed=3)
    assert captions[-1] == "CartPole-v1, seed 3"
