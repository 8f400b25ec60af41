"""Runs: two processes equal one, a stopped run resumes bitwise equal, an agent plays, and bad input is one line."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import yaml
from PIL import Image

from commands import Life, environment, last_checkpoint, newest_checkpoint, same
from common.cli.evaluate import main as evaluate
from common.cli.parser import CapstoneCLI
from common.io.metrics import read_metrics
from common.run.run import set_up_device
from projects.policy_gradient import video
from projects.policy_gradient.inference import load
from projects.policy_gradient.module import PRECISIONS, PolicyGradientModule
from projects.policy_gradient.play import main as play
from projects.policy_gradient.plots import main as plots
from projects.policy_gradient.train import PROJECT
from trained import check_batches, check_evaluation, check_load, checkpoint_of

STATE = ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch")


@pytest.fixture(autouse=True)
def short_videos(monkeypatch):
    monkeypatch.setattr(video, "MAX_FRAMES", 5)
    monkeypatch.setattr(video, "MAX_STEPS", 40)


class Killed(Exception):
    pass


def test_a_run_stopped_within_an_epoch_resumes_bitwise_equal(train, tmp_path, monkeypatch, full):
    monkeypatch.setattr("projects.policy_gradient.plots.AgentPlots.on_test_end", lambda *args: None)
    flags = [*full, "--checkpoint_every", "2"]
    assert train("--name", "whole", *flags) == 0
    usual = PolicyGradientModule.training_step

    def step_or_die(self, rollout, batch_idx):
        if self.trainer.global_step == 11:
            raise Killed
        return usual(self, rollout, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(PolicyGradientModule, "training_step", step_or_die)
        with pytest.raises(Killed):
            train("--name", "killed", *flags)
    step, _ = newest_checkpoint(tmp_path / "runs/policy_gradient/killed")
    assert step == 10, "inside the second epoch"
    assert train("--name", "killed", *flags, "--resume", "auto") == 0
    whole, killed = (tmp_path / "runs/policy_gradient" / name for name in ("whole", "killed"))
    a, b = last_checkpoint(whole), last_checkpoint(killed)
    assert a["state_dict"].keys() >= {"obs_rms.mean", "obs_rms.count"} and a["global_step"] == 12
    for part in STATE:
        assert same(a[part], b[part]), part
    curves = [
        [{k: v for k, v in row.items() if not k.startswith("perf/")} for row in read_metrics(f / "metrics.csv")]
        for f in (whole, killed)
    ]
    assert curves[0] == curves[1]
    steps = [json.loads((f / "summary.json").read_text())["metadata"]["environment_steps"] for f in (whole, killed)]
    assert steps[0] == steps[1] == curves[0][-2]["val/environment_steps"] < 12 * 16 * 8, "steps that reset do not count"


def test_a_reward_that_turns_nan_ends_the_run_and_is_not_the_best(train, tmp_path, capsys):
    flags = ["--data.source", "Reusing-v0", "--data.env_kwargs", "{nan_episode: 2}", "--data.num_steps", "5"]
    assert train("--name", "nan", *flags, "--data.rollouts_per_epoch", "1", "--max_epochs", "3") == 2
    assert "--data.source Reusing-v0: a reward of the environment is nan" in capsys.readouterr().err
    assert len(list((tmp_path / "runs/policy_gradient/nan/checkpoints").glob("best-*.ckpt"))) == 1


@pytest.mark.slow
def test_a_run_killed_twice_resumes_bitwise_equal(command, full):
    flags = [*full, "--data.rollouts_per_epoch", "150", "--checkpoint_every", "3", "--trainer.limit_test_batches", "0"]
    whole = command("train", "--name", "whole", *flags)
    life = Life(command, "killed", flags, [signal.SIGTERM, signal.SIGKILL])
    killed = life.live()
    whole.wait()
    a, b = last_checkpoint(whole.runs / "whole"), last_checkpoint(killed)
    assert all(step % 150 for step in life.resumed_from), "killed at an epoch's end: nothing was shown"
    for part in STATE:
        assert same(a[part], b[part]), part


@pytest.mark.slow
def test_two_processes_learn_like_one_and_play_every_evaluation_episode_once(command, train, tmp_path, full):
    # (environments that step one by one have a seed each; CartPole's own vector form has one for all of them)
    exact = [*full, "--precision", "64-true", "--data.autoreset", "same_step"]
    both = command("train", "--name", "two", *exact, "--data.num_envs", "4", processes=2)
    assert train("--name", "one", *exact) == 0
    both.wait()
    folders = [tmp_path / "runs/policy_gradient/one", both.runs / "two"]
    one, two = map(last_checkpoint, folders)
    assert one["global_step"] == two["global_step"] == 12
    for key, value in one["state_dict"].items():
        limit = 1e-8 * float(value.abs().max())
        torch.testing.assert_close(
            two["state_dict"][key], value, rtol=0, atol=limit, msg=lambda text, key=key: f"{key}: {text}"
        )
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in folders]
    assert summaries[1]["devices"] == 2
    assert summaries[0]["metadata"] == summaries[1]["metadata"]
    assert summaries[0]["metadata"]["environment_steps"] == 12 * 16 * 8, "all are transitions in this autoreset mode"
    assert summaries[1]["test"] == pytest.approx(summaries[0]["test"], rel=1e-9)
    name = "val/return_mean"
    curves = [[row[name] for row in read_metrics(f / "metrics.csv") if name in row] for f in folders]
    assert len(curves[0]) == 2 and curves[1] == pytest.approx(curves[0], rel=1e-9)


def test_a_run_learns_leaves_plots_and_an_agent_that_plays(train, tmp_path, capsys):
    flags = ["--data.num_envs", "16", "--data.rollouts_per_epoch", "20", "--max_epochs", "2", "--data.eval_episodes", "10"]
    flags += ["--model.lr", "0.005", "--data.reward_threshold", "300"]
    assert train("--name", "agent", *flags) == 0
    folder = tmp_path / "runs/policy_gradient/agent"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["data_source"] == "CartPole-v1" and summary["test"]["test/return_mean"] > 150
    assert (folder / "plots/policy_map.png").stat().st_size > 10_000
    with Image.open(folder / "plots/video.gif") as gif:
        assert gif.size == (600, 244) and gif.n_frames > 3  # two captions of 22 pixels

    checkpoint = next(folder.glob("checkpoints/best-*.ckpt"))
    capsys.readouterr()
    assert play(["--checkpoint", str(checkpoint), "--episodes", "3", "--video", "one.gif"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and lines[0].startswith("episode 0: return") and lines[4] == "one.gif"
    assert lines[3].startswith("CartPole-v1, 3 episodes: mean return")
    with Image.open("one.gif") as gif:
        assert gif.size == (300, 244)
    assert play(["--checkpoint", str(checkpoint), "--episodes", "2", "--stochastic"]) == 0
    assert play(["--checkpoint", str(checkpoint), "--episodes", "1", "--video", "video.xyz"]) == 2
    assert "video.xyz" in capsys.readouterr().err
    assert plots([str(folder), "--output", "learning.png"]) == 0 and (tmp_path / "learning.png").stat().st_size > 5000
    assert plots([str(tmp_path)]) == 2


def test_a_checkpoint_holds_builtins_and_is_refused_for_another_environment(train, tmp_path, capsys):
    short = ["--max_epochs", "1", "--data.rollouts_per_epoch", "1", "--data.num_steps", "4"]
    options = ["--model.gamma", "0.9", "--model.ent_coef", "0.02", "--data.env_kwargs", "{max_episode_steps: 20}"]
    assert train("--name", "first", *short, *options) == 0
    checkpoint = newest_checkpoint(tmp_path / "runs/policy_gradient/first")[1]
    saved = torch.load(checkpoint, weights_only=True)["hyper_parameters"]
    assert {type(value) for value in saved.values()} == {int, float, bool, str, list}
    assert (saved["gamma"], saved["ent_coef"], saved["hidden_dims"]) == (0.9, 0.02, [16])
    agent = load(checkpoint)
    outputs = []
    for option in ([], ["--stochastic"]):
        capsys.readouterr()
        assert play(["--checkpoint", str(checkpoint), "--episodes", "20", *option]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] != outputs[1], "a greedy policy plays other episodes than a stochastic one"
    assert agent.env_info.kwargs == {"max_episode_steps": 20} and agent.evaluate([0]).lengths <= 20
    capsys.readouterr()
    assert train("--name", "new", *short, "--data.source", "Pendulum-v1", "--resume", str(checkpoint)) == 2
    assert "the data has changed since: source: CartPole-v1 then, Pendulum-v1 now" in capsys.readouterr().err
    changed = ["--data.env_kwargs", "{max_episode_steps: 30}"]
    assert train("--name", "new", *short, *changed, "--resume", str(checkpoint)) == 2
    line = "--data.env_kwargs: {'max_episode_steps': 20} then, {'max_episode_steps': 30} now"
    assert line in capsys.readouterr().err
    assert train("--name", "first", *short, *options, "--data.num_envs", "3", "--max_epochs", "2", "--resume", "auto") == 0
    assert "--data.num_envs is 3, and 32 in the checkpoint" in capsys.readouterr().out
    saved = torch.load(checkpoint := newest_checkpoint(tmp_path / "runs/policy_gradient/first")[1], weights_only=True)
    saved["environment"]["id"] = "no_such_package.module:Thing-v0"
    torch.save(saved, tmp_path / "unknown.ckpt")
    assert play(["--checkpoint", "unknown.ckpt", "--source", saved["environment"]["id"]]) == 2
    line = "error: checkpoint unknown.ckpt: environment no_such_package.module:Thing-v0: No module named"
    assert capsys.readouterr().err.startswith(line)
    assert play(["--checkpoint", "no.ckpt"]) == 2
    assert capsys.readouterr().err == "error: checkpoint no.ckpt: no such file\n"


OWN_ENVIRONMENT = """
import gymnasium as gym
import numpy as np

class MyEnv(gym.Env):
    def __init__(self, size):
        self.observation_space = gym.spaces.Box(-1, 1, (size,), np.float32)
        self.action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.observe(), {}

    def observe(self):
        return self.np_random.uniform(-1, 1, self.observation_space.shape).astype(np.float32)

    def step(self, action):
        self.t += 1
        return self.observe(), 25.0, self.t == 5, False, {}

gym.register("MyEnv-v0", entry_point=MyEnv)
"""
TRAIN_RESUME_PLAY = """
import sys
from pathlib import Path
from common.cli.main import main as train
from projects.policy_gradient.play import main as play
from projects.policy_gradient.train import PROJECT

flags, source = ["--name", "own", "--accelerator", "cpu"], "my_package.my_module:MyEnv-v0"
assert train(PROJECT, [*sys.argv[1:], *flags]) == 0
assert train(PROJECT, [*flags, "--resume", "auto", "--max_epochs", "2", "--data.source", source]) == 0
checkpoint = next(Path("runs/policy_gradient/own/checkpoints").glob("best-*.ckpt"))
assert play(["--checkpoint", str(checkpoint), "--episodes", "2", "--source", source]) == 0
"""


def readme_flags(word: str) -> list[str]:
    """Flags of the README's training command with `word` in it."""
    blocks = (PROJECT.folder / "README.md").read_text().split("```")
    (command,) = [block for block in blocks if block.startswith("sh\n") and word in block]
    return shlex.split(command.replace("\\\n", " "))[4:]


def test_an_environment_of_ones_own_trains_resumes_and_plays(train, tmp_path, monkeypatch, capsys):
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package/my_module.py").write_text(OWN_ENVIRONMENT)
    monkeypatch.syspath_prepend(tmp_path)
    flags = [*readme_flags("MyEnv-v0"), "--data.num_envs", "2", "--data.num_steps", "8", "--data.rollouts_per_epoch", "2"]
    assert train("--name", "own", *flags, "--max_epochs", "2") == 0
    reason = "training ended after epoch 1: the mean validation return 125 reaches the reward threshold 100"
    assert reason in capsys.readouterr().out.splitlines()
    again = [*flags, "--max_epochs", "3", "--resume", "auto"]
    assert train("--name", "own", *again) == 0
    assert reason in capsys.readouterr().out.splitlines()
    run = tmp_path / "runs/policy_gradient/own"
    assert newest_checkpoint(run)[0] == 2, "stopped at the reward threshold, which is remembered"
    assert train("--name", "own", *again, "--data.reward_threshold", "200") == 0
    step, checkpoint = newest_checkpoint(run)
    assert step == 6, "the higher threshold is not reached"
    capsys.readouterr()
    assert play(["--checkpoint", str(checkpoint), "--episodes", "2"]) == 0
    assert "my_package.my_module:MyEnv-v0, 2 episodes: mean return 125.0" in capsys.readouterr().out


def test_each_recipes_threshold_is_for_its_environment_and_a_flag_replaces_it():
    for recipe in PROJECT.folder.glob("recipes/*.yaml"):
        if "data" in (settings := yaml.safe_load(recipe.read_text())):
            assert list(settings["data"]["reward_threshold"]) == [settings["data"]["source"]]
    for flags, expected in [([], {"CartPole-v1": 500}), (["--data.reward_threshold", "7"], 7)]:
        assert CapstoneCLI(PROJECT, flags).config.data.reward_threshold == expected


@pytest.mark.slow
def test_the_readmes_environment_of_ones_own_in_a_process_that_does_not_know_it(tmp_path):
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package/my_module.py").write_text(OWN_ENVIRONMENT)
    command = [sys.executable, "-c", TRAIN_RESUME_PLAY, *readme_flags("MyEnv-v0")]
    done = subprocess.run(command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "my_package.my_module:MyEnv-v0, 2 episodes: mean return 125.0" in done.stdout


@pytest.mark.parametrize("switch", ["overfit", "shapes", "gradients"])
@pytest.mark.parametrize("source", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize("baseline", [True, False])
def test_debug_switches(train, capsys, switch, source, baseline):
    flags = ["--data.source", source, "--data.num_envs", "8", "--model.hidden_dims", "[32, 32]", "--model.lr", "0.01"]
    flags += ["--model.update_epochs", "2", "--model.num_minibatches", "1"]
    if not baseline:  # whole episodes alone: Pendulum's have 200 steps
        flags += ["--model.baseline", "false", "--model.gae_lambda", "1", "--data.num_steps", "201", "--data.num_envs", "4"]
    assert train(*flags, "--debug", switch) == 0
    expected = {"overfit": "The network can overfit one batch", "gradients": "Autograd agrees", "shapes": "policy"}
    assert expected[switch] in capsys.readouterr().out


def test_debug_of_a_rollout_without_a_return_names_its_length(train, capsys):
    flags = [
        "--data.source",
        "Pendulum-v1",
        "--model.baseline",
        "false",
        "--model.gae_lambda",
        "1",
        "--data.num_steps",
        "64",
    ]
    for switch in ("gradients", "shapes"):
        assert train(*flags, "--debug", switch) == 2
        assert "error: no episode ended in a rollout of 64 steps" in capsys.readouterr().err


def test_precision_left_unset_is_one_that_a_policy_trains_in(monkeypatch):
    monkeypatch.setattr("common.nn.device.has_bfloat16", lambda device: True)
    options = SimpleNamespace(accelerator="cpu", devices=1, precision=None)
    set_up_device(options, PROJECT.module.default_precision)
    assert options.precision in PRECISIONS


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--data.source", "CartPole-v9"], "Environment version `v9` for environment `CartPole` doesn't exist"),
        (["--data.source", "Switches-v0"], "actions of kind MultiBinary"),
        (["--data.env_kwargs", "{gravitas: 1}"], "gravitas"),
        (["--precision", "16-true"], "--precision 16-true: a policy trains in 32-true or 64-true"),
        (["--trainer.gradient_clip_val", "1.0"], "gradient clipping"),
        (["--model.clip_coef", "0"], "--model.clip_coef 0"),
        (["--max_epochs", "-1", "--max_steps", "-1", "--model.schedule", "linear"], "--max_epochs -1"),
        (["--model.gamma", "1.1"], "model.gamma"),
        (["--model.hidden_dims", "[0]"], "model.hidden_dims"),
        (["--model.ent_coef", "-1"], "model.ent_coef"),
        (["--model.schedule", "cosine"], "model.schedule"),
        (["--data.num_envs", "0"], "data.num_envs"),
        (["--data.autoreset", "never"], "data.autoreset"),
    ],
)
def test_bad_input_is_one_line(train, capsys, flags, line):
    assert train("--name", "bad", *flags) == 2
    error = capsys.readouterr().err
    assert line in error and error.startswith("error: ") and error.count("\n") == 1


def test_an_evaluation_and_an_agent_from_python_are_those_of_the_run(train, tmp_path, full, capsys):
    assert train("--name", "agent", *full) == 0
    run_dir = tmp_path / "runs" / "policy_gradient" / "agent"
    (tmp_path / "here").mkdir()
    check_evaluation(PROJECT, run_dir, tmp_path / "here")
    assert Image.open(tmp_path / "here" / "test" / "plots" / "video.gif").n_frames > 5

    agent = check_load(load, PolicyGradientModule, checkpoint_of(run_dir), tmp_path / "here")
    observations = torch.randn(4, 4).numpy()
    check_batches(agent, observations, 10_001)
    expected = agent.module.policy.mlp(agent.module.normalize(torch.from_numpy(observations))).argmax(1)
    assert agent(observations).tolist() == expected.tolist()

    command = ["--checkpoint", str(checkpoint_of(run_dir)), "--data.source", "Acrobot-v1", "--to", "x"]
    capsys.readouterr()
    assert evaluate(PROJECT, command) == 2
    assert (
        capsys.readouterr().err == "error: --data.source Acrobot-v1: its spaces have obs_dim 6, those of the checkpoint 4\n"
    )
    assert not (tmp_path / "x").exists()
