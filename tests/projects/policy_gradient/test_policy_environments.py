"""Environments as people write them: what can be read is read, and what cannot is named in one line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from gymnasium import spaces

from commands import last_checkpoint, newest_checkpoint, same
from common.errors import UserError
from common.io.metrics import read_metrics
from projects.policy_gradient.data import PolicyGradientData
from projects.policy_gradient.environments import inspect_env, make_env, make_vec_env
from projects.policy_gradient.inference import load
from projects.policy_gradient.rollout import Collector, Rollout
from scripted_environment import Mission, Simulator, box

SHORT = ["--max_epochs", "1", "--data.num_envs", "2", "--data.num_steps", "4", "--data.rollouts_per_epoch", "1"]


def collect(id: str, autoreset: str = "next_step", **kwargs) -> Rollout:
    """Rollout of five steps of two environments, with the same action throughout."""
    env_info = inspect_env(id, kwargs)
    collector = Collector(make_vec_env(env_info, 2, autoreset), env_info)
    collector.reset([0, 1] if hasattr(collector.envs, "env_fns") else 0)
    action = np.zeros(2, np.int64) if env_info.discrete else np.zeros((2, env_info.action_dim), np.float32)
    return collector.collect(lambda obs, masks: action if masks is None else masks.argmax(1), 5)


@pytest.mark.parametrize("error", ["AssertionError", "KeyError", "OSError", "RuntimeError", "LookupError"])
@pytest.mark.parametrize("fault", ["make", "reset"])
def test_an_error_of_any_type_in_make_or_reset_is_one_line(fault, error):
    with pytest.raises(UserError) as raised:
        collect("Faulty-v0", fault=fault, error=error)
    line = str(raised.value)
    assert line.startswith(f"--data.source Faulty-v0: {error}: ") and "(scripted_environment.py, line" in line
    assert "no port" in line and "\n" not in line


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("old reset", "`reset` returns (observation, info)"),
        ("old step", "`step` returns (observation, reward, terminated, truncated, info)"),
        ("no reward", "a reward of the environment is no number: None"),
        ("infinite reward", "a reward of the environment is inf"),
        ("wrong shape", "an observation of the environment has shape (3,), and its space Box(-1.0, 1.0, (2,), float32)"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_what_an_environment_returns_wrongly_is_named(fault, line):
    with pytest.raises(UserError) as raised:
        collect("Faulty-v0", fault=fault)
    assert str(raised.value).startswith("--data.source Faulty-v0: ") and line in str(raised.value)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_reward_of_one_element_is_a_number():
    assert collect("Faulty-v0", fault="array reward").episode_returns.tolist() == [1.0] * 6


def test_an_exception_within_step_keeps_its_traceback_and_says_whose_it_is():
    with pytest.raises(KeyError) as raised:
        collect("Faulty-v0", fault="step")
    note = "--data.source Faulty-v0: raised by `step` of the environment itself (scripted_environment.Faulty)"
    assert raised.value.__notes__ == [note]
    assert raised.traceback[-1].name == "fail"


def test_what_of_a_dict_cannot_be_flattened_is_left_out_and_named(capsys):
    space = spaces.Dict(
        image=box(), mission=Mission(), inner=spaces.Dict(more=spaces.Sequence(box()), flag=spaces.Discrete(3))
    )
    assert collect("Odd-v0", observation_space=space, action_space=spaces.Discrete(2)).observations.shape == (5, 2, 5)
    output = capsys.readouterr().out
    assert "`mission` of kind Mission, `inner.more` of kind Sequence" in output and output.count("\n") == 1
    for refused in (spaces.Dict(mission=Mission()), Mission(), spaces.Tuple([box(), Mission()])):
        with pytest.raises(UserError, match=r"of kind (Mission|Tuple) cannot be flattened"):
            inspect_env("Odd-v0", {"observation_space": refused, "action_space": spaces.Discrete(2)})


@pytest.mark.parametrize("name", ["observation", "action"])
def test_a_space_without_features_is_refused(name):
    parts = {"observation_space": box(), "action_space": box(), f"{name}_space": spaces.Box(-1, 1, (0,))}
    with pytest.raises(UserError, match=f"{name}s have no features"):
        inspect_env("Odd-v0", parts)


@pytest.mark.parametrize("lacks", ["kwargs", "space", "autoreset"])
def test_a_vector_form_that_lacks_what_was_asked_gives_way_to_single_environments(lacks, capsys):
    assert collect("Lacking-v0", lacks=lacks).observations.shape == (5, 2, 2)
    output = capsys.readouterr().out
    assert output.startswith("NOTE: --data.source Lacking-v0: single environments instead of its own vector form: ")
    assert output.count("\n") == 1


@pytest.mark.parametrize(
    ("source", "fault", "line"),
    [
        ("Faulty-v0", "render", "video.gif: not drawn: --data.source Faulty-v0: error: no port for render"),
        ("Faulty-v0", "no image", "video.gif: not drawn: --data.source Faulty-v0: its `rgb_array` is no image"),
        ("CartPole-Wind-v0", None, "video.gif: not drawn: --data.source CartPole-Wind-v0: "),
    ],
)
def test_without_a_film_nothing_else_is_lost(train, tmp_path, capsys, source, fault, line):
    flags = ["--data.source", source]
    if fault:
        # of the type that pygame raises without a screen, and in a training that shows no windows
        flags += ["--data.env_kwargs", f"{{fault: {fault}, error: RuntimeError, render_mode: human}}"]
    assert train("--name", "dark", *SHORT, *flags) == 0
    captured = capsys.readouterr()
    (film,) = [text for text in captured.out.splitlines() if "not drawn" in text]
    assert film.startswith(line.replace("error:", "RuntimeError:"))
    assert "policy_map" not in captured.out and not captured.err
    assert ("render_mode human: left out" in captured.out) == bool(fault)
    assert json.loads((tmp_path / "runs/policy_gradient/dark/summary.json").read_text())["test"]


def test_human_render_mode_is_left_out():
    env_info = inspect_env("Faulty-v0", {"render_mode": "human"})
    assert env_info.kwargs == {} and make_env(env_info).render_mode is None


def test_a_time_limit_truncates_in_training_validation_and_test_and_is_in_the_checkpoint(train, tmp_path):
    assert train("--name", "limited", *SHORT, "--data.source", "Endless-v0", "--data.max_episode_steps", "3") == 0
    folder = tmp_path / "runs/policy_gradient/limited"
    lengths = json.loads((folder / "summary.json").read_text())["test"]["test/episode_length"]
    rows = read_metrics(folder / "metrics.csv")
    lengths = {lengths} | {row[name] for row in rows for name in row if name.endswith("episode_length")}
    assert lengths == {3.0} and any("train/episode_length" in row for row in rows)
    assert load(next(folder.glob("checkpoints/best-*.ckpt"))).evaluate([0, 1]).lengths.tolist() == [3, 3]


@pytest.mark.parametrize(("autoreset", "num_episodes"), [("next_step", 2), ("same_step", 4)])  # the first: its vector form
def test_a_time_limit_is_also_that_of_a_vector_form(autoreset, num_episodes):
    data = PolicyGradientData("CartPole-v1", max_episode_steps=4, num_envs=2, autoreset=autoreset)
    data.collector.reset([0, 1] if autoreset == "same_step" else 0)
    rollout = data.collector.collect(lambda obs, masks: np.array([0, 1]), 8)
    assert rollout.episode_lengths.tolist() == [4] * num_episodes and not rollout.terminated.any()


@pytest.mark.parametrize(("stage", "option"), [("val", "1"), ("test", "0")])
def test_a_long_evaluation_prints_lines_and_ends_on_sigterm(train, tmp_path, capsys, monkeypatch, stage, option):
    monkeypatch.setattr("projects.policy_gradient.data.QUIET_SECONDS", 0.005)
    flags = [
        "--data.source",
        "Endless-v0",
        "--data.env_kwargs",
        "{sigterm_at: 3000}",
        "--trainer.limit_val_batches",
        option,
    ]
    assert train("--name", "endless", *SHORT, *flags, "--checkpoint_every", "1") == 75
    captured = capsys.readouterr()
    lines = [line for line in captured.out.splitlines() if line.startswith(f"{stage}: 0 of ")]
    assert 1 <= len(lines) < 20 and lines[0].endswith("--data.max_episode_steps limits them")
    saved = tmp_path / "runs/policy_gradient/endless/checkpoints/step-00000001.ckpt"
    expected = f"state saved in {saved.relative_to(tmp_path)}; continue with --resume auto"
    if stage == "val":
        expected = "no checkpoint was due yet; start it again with --resume allow"
    assert captured.err == f"stopped by SIGTERM; {expected}\n"


@pytest.fixture
def simulator(monkeypatch):
    """The simulator's class; none of its instances is left alive."""
    monkeypatch.setattr(Simulator, "most", 0)
    yield Simulator
    assert Simulator.alive == 0


def test_a_simulator_that_allows_one_instance_trains_resumes_films_and_plays(train, tmp_path, capsys, simulator):
    flags = ["--data.source", "Simulator-v0", "--data.env_kwargs", "{limit: 1}", "--data.num_steps", "5"]
    flags += ["--data.num_envs", "1", "--data.rollouts_per_epoch", "2", "--model.num_minibatches", "1"]
    for name, *options in [("whole", 3), ("parts", 2), ("parts", 3, "--resume", "auto")]:
        assert train("--name", name, *flags, "--max_epochs", *map(str, options)) == 0
        output = capsys.readouterr().out
        assert "not drawn" not in output
        assert output.count("NOTE: evaluation ends the episodes of the training, whose environments it takes") == 1
    whole, parts = (last_checkpoint(tmp_path / "runs/policy_gradient" / name) for name in ("whole", "parts"))
    assert same(whole["state_dict"], parts["state_dict"])
    checkpoint = newest_checkpoint(tmp_path / "runs/policy_gradient/whole")[1]
    assert load(checkpoint).evaluate([0, 1, 2]).lengths.tolist() == [3, 3, 3]
    assert simulator.most == 1


def test_there_are_as_many_instances_as_num_envs_to_train_and_as_many_to_evaluate(train, simulator):
    assert train("--name", "many", *SHORT, "--data.source", "Simulator-v0", "--data.eval_episodes", "9") == 0
    assert simulator.most == 4


def test_instances_are_closed_on_errors(train, capsys, simulator):
    flags = [*SHORT, "--data.source", "Simulator-v0", "--data.num_envs", "3"]
    assert train("--name", "few", *flags, "--data.env_kwargs", "{limit: 2}") == 2
    assert "OSError: the port is in use (" in (line := capsys.readouterr().err) and line.endswith("--data.num_envs 2\n")
    with pytest.raises(RuntimeError, match="broken"):
        train("--name", "broken", *flags, "--data.env_kwargs", "{broken: true}", "--data.num_steps", "9")
    assert simulator.alive == 0
    assert train(*flags, "--debug", "shapes") == 0
