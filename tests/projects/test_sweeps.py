"""Sweeps: W&B's agent, and Optuna, can start every project's, with any value of its parameters."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from common.cli.main import main
from common.cli.parser import CapstoneCLI
from common.errors import UserError
from common.options import plain_numbers
from common.project import Project
from common.search.space import read_space

PROJECTS = Path(__file__).resolve().parents[2] / "projects"
NAMES = sorted(path.parent.name for path in PROJECTS.glob("*/train.py"))
QUICK = ("blank", "policy_gradient")  # a run of one batch takes seconds at most


def read_sweep(name: str) -> dict[str, Any]:
    return yaml.safe_load((PROJECTS / name / "recipes" / "sweep.yaml").read_text())


def project(name: str) -> Project:
    return importlib.import_module(f"projects.{name}.train").PROJECT


def agent_command(sweep: dict[str, Any], values: dict[str, Any]) -> list[str]:
    """Command of W&B's agent for these values, by its own functions."""
    made = create_sweep_command_args({"args": {name: {"value": value} for name, value in values.items()}})
    macros = {"${args}": made["args"], "${env}": ["/usr/bin/env"]}
    return [word for part in create_sweep_command(sweep["command"]) for word in macros.get(part, [part])]


def ends(parameter: dict[str, Any]) -> tuple[Any, Any]:
    """First and last value of a parameter."""
    if "value" in parameter:
        return parameter["value"], parameter["value"]
    if "values" in parameter:
        return parameter["values"][0], parameter["values"][-1]
    return parameter["min"], parameter["max"]


@pytest.mark.parametrize("name", NAMES)
def test_agent_starts_runs_with_the_parameters(name):
    sweep, capstone = read_sweep(name), project(name)
    parameters = {option: ends(parameter) for option, parameter in sweep["parameters"].items()}
    for end in (0, 1):
        command = agent_command(sweep, {option: values[end] for option, values in parameters.items()})
        assert command[:4] == ["/usr/bin/env", "python", "-m", f"projects.{name}.train"]
        config = CapstoneCLI(capstone, [*command[4:], "--data.source", "sample"]).config
        assert config.wandb is True
        for option, values in parameters.items():
            found = plain_numbers(config.trainer.max_epochs if option == "max_epochs" else config[option])
            assert found == values[end] and type(found) is type(values[end]), option


@pytest.mark.parametrize("name", NAMES)
def test_sweep_optimizes_the_monitored_metric(name):
    sweep, capstone = read_sweep(name), project(name)
    goal = {"max": "maximize", "min": "minimize"}[capstone.mode]
    monitor = capstone.monitor
    if not isinstance(monitor, str):
        monitor = monitor(capstone.data(**CapstoneCLI(capstone, ["--config", "recipes/default.yaml"]).config.data.as_dict()))
    assert sweep["metric"] == {"name": monitor, "goal": goal}
    assert sweep["project"] == f"capstones-{name}"
    assert sweep["method"] in ("bayes", "random", "grid")


def test_sweep_is_no_recipe():
    with pytest.raises(UserError, match=r"recipes/sweep\.yaml: a sweep, not a recipe; start it with `wandb sweep "):
        CapstoneCLI(project(NAMES[0]), ["--config", "recipes/sweep.yaml"])


@pytest.mark.parametrize("name", [NAMES[0], *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[1:])])
def test_optuna_searches_the_same_space(name):
    distributions = pytest.importorskip("optuna").distributions
    sweep, path = read_sweep(name), PROJECTS / name / "recipes" / "sweep.yaml"
    space = read_space(path, project(name), ["--data.source", "sample"])
    expected: dict[str, Any] = {}
    for option, parameter in sweep["parameters"].items():
        if "values" in parameter:
            expected[option] = distributions.CategoricalDistribution(parameter["values"])
        elif "min" in parameter:
            log = parameter["distribution"].startswith("log")
            expected[option] = distributions.FloatDistribution(parameter["min"], parameter["max"], log=log)
    assert space.distributions == expected and list(space.distributions) == list(expected)
    assert space.fixed == {option: each["value"] for option, each in sweep["parameters"].items() if "value" in each}
    assert (space.method, space.min_epochs) == (sweep["method"], sweep.get("early_terminate", {}).get("min_iter"))


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in NAMES])
def test_agent_trains(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    sweep = read_sweep(name)
    values = {option: ends(parameter)[0] for option, parameter in sweep["parameters"].items()}
    one_batch = ["--data.source", "sample", "--accelerator", "cpu", "--precision", "32-true", "--fast_dev_run"]
    assert main(project(name), [*agent_command(sweep, values)[4:], *one_batch]) == 0
    assert "dry run: one batch of everything" in capsys.readouterr().out
