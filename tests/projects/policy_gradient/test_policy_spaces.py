"""The README's table of spaces and interfaces: each row has a case here."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces

from common.errors import UserError
from projects.policy_gradient.data import PolicyGradientData
from projects.policy_gradient.environments import inspect_env, make_env, make_vec_env
from projects.policy_gradient.inference import Agent
from projects.policy_gradient.metrics import evaluate_policy
from projects.policy_gradient.module import PolicyGradientModule
from projects.policy_gradient.rollout import Rollout
from projects.policy_gradient.train import PROJECT
from projects.policy_gradient.video import record_agent
from scripted_environment import Mission, Simulator, box

GRAPH = spaces.Graph(box(), None)
TWO = spaces.Discrete(2)


def learn(id: str, autoreset: str = "next_step", limit: int | None = None, **kwargs) -> tuple[Rollout, list[int]]:
    """A rollout with random actions, through the loss and its gradient; and the length of an evaluation episode."""
    data = PolicyGradientData(id, kwargs, limit, num_envs=2, num_steps=6, rollouts_per_epoch=1, autoreset=autoreset)
    (rollout,) = data.train_dataloader()
    data.close()
    module = PolicyGradientModule(data.obs_dim, data.action_dim, data.discrete, hidden_dims=[4])
    loss = module.compute_loss(rollout)
    loss.backward()
    assert loss.isfinite() and rollout.observations.shape == (6, 2, data.obs_dim)
    lengths = evaluate_policy([make_env(data.env_info)], data.env_info, module.actor(), [0]).lengths
    return rollout, lengths.tolist()


def observations(obs_dim: int, space: spaces.Space) -> None:
    """It learns from vectors of `obs_dim` features."""
    assert learn("Odd-v0", observation_space=space, action_space=TWO)[0].observations.shape[2] == obs_dim


def actions(shape: tuple[int, ...], space: spaces.Space) -> None:
    """It learns by actions of a shape; the environment checks that they are of its space."""
    assert learn("Odd-v0", observation_space=box(), action_space=space)[0].actions.shape == (6, 2, *shape)


def refused(name: str, *kinds: spaces.Space) -> None:
    for space in kinds:
        parts = {"observation_space": box(), "action_space": TWO, f"{name}_space": space}
        with pytest.raises(UserError, match=f"{name}s of (kind|a Box)"):
            inspect_env("Odd-v0", parts)


def in_a_dict_alone(*kinds: spaces.Space) -> None:
    refused("observation", *kinds)
    for space in kinds:
        observations(2, spaces.Dict(kept=box(), left_out=space))


def action_masks() -> None:
    rollout, _ = learn("Scripted-v0", masked=True)
    assert rollout.action_masks.gather(2, rollout.actions[..., None]).all() and not rollout.action_masks.all()


def vector_form() -> None:
    learn("CartPole-v1")
    own = make_vec_env(inspect_env("CartPole-v1"), 2), make_vec_env(inspect_env("Lacking-v0", {"lacks": "space"}), 2)
    assert [type(envs).__name__ for envs in own] == ["CartPoleVectorEnv", "SyncVectorEnv"]


def autoreset(mode: str, num_samples: int) -> None:
    assert int(learn("Reusing-v0", mode, length=2)[0].valid.sum()) == num_samples


def time_limits() -> None:
    rollout, lengths = learn("Endless-v0", limit=3)
    assert rollout.truncated.any() and not rollout.terminated.any() and lengths == [3]


def agent(**kwargs) -> Agent:
    env_info = inspect_env("Faulty-v0", kwargs)
    return Agent(PolicyGradientModule(env_info.obs_dim, env_info.action_dim, env_info.discrete), env_info)


def films() -> None:
    assert record_agent(agent(), Path("video.gif")).stat().st_size > 0


def no_rendering() -> None:
    with pytest.raises(UserError, match="no port for render"):
        record_agent(agent(fault="render", error="OSError"), Path("video.gif"))


def render_mode_human() -> None:
    assert make_env(inspect_env("Faulty-v0", {"render_mode": "human"})).render_mode is None


def one_instance() -> None:
    data = PolicyGradientData("Simulator-v0", {"limit": 1}, num_envs=1, num_steps=4, rollouts_per_epoch=1)
    list(data.train_dataloader())
    assert data.eval_envs == data.collector.envs.envs
    data.close()
    assert Simulator.alive == 0


ROWS: dict[str, Callable] = {
    "`Box` observations, one dimension": partial(observations, 2, box()),
    "`Box` observations, other shapes": partial(observations, 24, spaces.Box(0, 1, (4, 3, 2))),
    "`Box` observations, integers": partial(observations, 3, spaces.Box(0, 255, (3,), np.uint8)),
    "`Discrete` observations": partial(observations, 5, spaces.Discrete(5, start=2)),
    "`MultiDiscrete`, `MultiBinary` observations": partial(
        observations, 10, spaces.Tuple([spaces.MultiDiscrete([3, 4]), spaces.MultiBinary(3)])
    ),
    "`Tuple`, `Dict` observations": partial(
        observations, 7, spaces.Dict(a=box(), b=spaces.Tuple([spaces.Discrete(3), spaces.Dict(c=box())]))
    ),
    "`Text` observations": partial(observations, 6, spaces.Text(6)),
    "`Sequence`, `Graph` observations": partial(in_a_dict_alone, spaces.Sequence(box()), GRAPH),
    "a space class of one's own": partial(in_a_dict_alone, Mission()),
    "`Discrete` actions": partial(actions, (), spaces.Discrete(3, start=5)),
    "`Box` actions, bounded": partial(actions, (2,), spaces.Box(3.0, 5.0, (2,), np.float16)),
    "`Box` actions, unbounded": partial(actions, (6,), spaces.Box(-np.inf, np.inf, (2, 3), np.float64)),
    "`Box` actions, integers": partial(refused, "action", spaces.Box(0, 4, (2,), np.int64)),
    "`MultiDiscrete`, `MultiBinary`, `Tuple`, `Dict` actions": partial(
        refused, "action", spaces.MultiDiscrete([2, 2]), spaces.MultiBinary(2), spaces.Tuple([TWO]), spaces.Dict(a=TWO)
    ),
    "action masks": action_masks,
    "vector form of its own": vector_form,
    "autoreset NEXT_STEP": partial(autoreset, "next_step", 8),
    "autoreset SAME_STEP": partial(autoreset, "same_step", 12),
    "time limits": time_limits,
    "render mode `rgb_array`": films,
    "render mode `human`": render_mode_human,
    "no rendering": no_rendering,
    "one instance at a time": one_instance,
}


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.filterwarnings("ignore")
def test_a_space_or_interface_does_what_the_readme_says(row, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    ROWS[row]()


def test_the_readmes_rows_are_those_tested():
    table = (PROJECT.folder / "README.md").read_text().partition("| space or interface |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| (.*?) \|", table, re.MULTILINE) == list(ROWS)
