"""Search space: the options that a search varies, in the format of W&B's sweeps, checked by the parser of train.

One file serves both engines. Of its keys `parameters`, `method` and `early_terminate` are Optuna's too; what is optimized is
the monitored metric, which `metric` may repeat.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cli.flags import TRAINER_FLAGS
from common.cli.parser import CapstoneCLI
from common.errors import UserError
from common.io.yaml_files import read_yaml
from common.options import plain_numbers
from common.project import Project

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

METHODS = ("bayes", "random")
RANGES = ("uniform", "int_uniform", "q_uniform", "log_uniform_values", "q_log_uniform_values")
LISTS = ("constant", "categorical")
# of a run as a whole
UNSEARCHED = {"name", "resume", "config", "recipe", "debug", "wandb", "checkpoint_every"}
UNSEARCHED |= {f"trainer.{name}" for name in ("accelerator", "devices", "num_nodes", "strategy", "fast_dev_run", "logger")}
ETA = 3  # W&B's default


@dataclass
class Space:
    """Search space.

    Args:
        method: "bayes" for the tree-structured Parzen estimator (TPE), "random" for random search.
        min_epochs: Epochs before a trial may be pruned, the first rung of successive halving; None to prune none.
        eta: Factor between two rungs, of which one trial in `eta` reaches the next.
        fixed: Option -> its value in all trials.
        distributions: Option -> distribution of its values.
    """

    method: str
    min_epochs: int | None
    eta: int
    fixed: dict[str, Any]
    distributions: dict[str, BaseDistribution]


def read_space(path: Path, project: Project, flags: Sequence[str]) -> Space:
    """Search space in the file `path`, for runs of `project` with `flags`.

    Raises:
        UserError: The file is no search space, or train has no such option, or refuses one of its values.
    """
    label = f"--search {path}"
    content = read_yaml(path, label)
    parameters = content.get("parameters") if isinstance(content, dict) else None
    if not isinstance(parameters, dict) or not parameters:
        raise UserError(f"{label}: no search space; it needs `parameters:` with options of train and their values")
    method = content.get("method", "bayes")
    if method not in METHODS:
        raise UserError(f"{label}: method {method}: use {' or '.join(METHODS)}; --grid tries all combinations")
    check_metric(content.get("metric"), project, label)
    values = {str(option): read_values(parameter, f"{label}: {option}") for option, parameter in parameters.items()}
    check_flags(values, flags, label)
    kinds = check_values(values, project, flags, label)
    fixed = {option: choices[0] for option, choices in values.items() if len(choices) == 1}
    distributions = {
        option: new_distribution(parameters[option], values[option], kinds[option], f"{label}: {option}")
        for option in values.keys() - fixed
    }
    if not distributions:
        raise UserError(f"{label}: every option has one value only; give `values`, or `min` and `max`")
    ordered = {option: distributions[option] for option in values if option in distributions}  # as in the file
    return Space(method, *read_early_terminate(content.get("early_terminate"), label), fixed, ordered)


def check_metric(metric: Any, project: Project, label: str) -> None:
    """Raises UserError if the file names a metric, or a goal, that is not the project's monitored one."""
    if metric is None:
        return
    expected = {"goal": {"max": "maximize", "min": "minimize"}[project.mode]}
    if isinstance(project.monitor, str):  # else a function of the data, known in the run alone
        expected["name"] = project.monitor
    if not isinstance(metric, dict) or any(metric.get(key, value) != value for key, value in expected.items()):
        raise UserError(f"{label}: metric {metric}: a search optimizes the monitored metric, {expected}")


def read_early_terminate(stop: Any, label: str) -> tuple[int | None, int]:
    """Epochs of the first rung, and the factor between rungs, of W&B's `early_terminate`."""
    if stop is None:
        return None, ETA
    if isinstance(stop, dict) and stop.get("type") == "hyperband" and stop.keys() <= {"type", "min_iter", "eta"}:
        min_epochs, eta = stop.get("min_iter"), stop.get("eta", ETA)
        if isinstance(min_epochs, int) and min_epochs >= 1 and isinstance(eta, int) and eta >= 2:
            return min_epochs, eta
    raise UserError(f"{label}: early_terminate {stop}: write it as {{type: hyperband, min_iter: EPOCHS}}, eta: 2 or more")


def read_values(parameter: Any, label: str) -> list[Any]:
    """Values of a parameter of the file: all of a list, the ends of a range. Raises UserError if it is neither."""
    if not isinstance(parameter, dict):
        raise UserError(f"{label}: {parameter}: write it as {{values: [A, B]}} or {{min: A, max: B}}")
    kind = parameter.get("distribution")
    given = parameter.keys() - {"distribution", "q"}
    if given == {"value"} and kind in (None, *LISTS):
        return [parameter["value"]]
    if given == {"values"} and kind in (None, *LISTS) and isinstance(choices := parameter["values"], list) and choices:
        return choices
    if given == {"min", "max"} and kind in (None, *RANGES):
        ends = [parameter["min"], parameter["max"]]
        if all(isinstance(end, int | float) and not isinstance(end, bool) for end in ends) and ends[0] < ends[1]:
            if "log" in (kind or "") and ends[0] <= 0:
                raise UserError(f"{label}: min {ends[0]}: a logarithmic range begins above 0")
            return ends
        raise UserError(f"{label}: min {ends[0]}, max {ends[1]}: use two numbers, the smaller one first")
    raise UserError(f"{label}: {parameter}: use value, values, or min and max; as distribution one of {', '.join(RANGES)}")


def check_flags(options: Mapping[str, Any], flags: Sequence[str], label: str) -> None:
    """Raises UserError if one of the `flags` sets an option of the search space, or the space what every run has alone."""
    if taken := UNSEARCHED & set(map(full_name, options)):
        raise UserError(f"{label}: {taken.pop()}: no option to search")
    words = {full_name(word.removeprefix("--").partition("=")[0]) for word in flags if word.startswith("--")}
    if taken := {option for option in options if full_name(option) in words}:
        raise UserError(f"--{taken.pop()}: {label} sets it too; leave one of them out")


def full_name(option: str) -> str:
    """Name of an option in the configuration, also of a short flag."""
    return f"trainer.{option}" if option in TRAINER_FLAGS else option


def check_values(
    values: Mapping[str, Sequence[Any]], project: Project, flags: Sequence[str], label: str
) -> dict[str, set[type]]:
    """Types that each option has for its values. Raises UserError for an option or a value that train refuses."""
    first = {option: choices[0] for option, choices in values.items()}
    kinds: dict[str, set[type]] = {}
    try:
        cli = CapstoneCLI(project, [*flags, *option_flags(first)])  # its parser takes long to build, not to use
        for option, choices in values.items():
            for choice in choices:
                cli.parse_arguments(cli.parser, [*flags, *option_flags({**first, option: choice})])
                kinds.setdefault(option, set()).add(type(plain_numbers(cli.config[full_name(option)])))
    except UserError as error:
        raise UserError(f"{label}: {error}") from error
    return kinds


def option_flags(values: Mapping[str, Any]) -> list[str]:
    """Flags that set options to values, as W&B's agent passes them: `--option=value`."""
    return [f"--{option}={value if isinstance(value, str) else json.dumps(value)}" for option, value in values.items()]


def new_distribution(parameter: dict[str, Any], values: Sequence[Any], kinds: set[type], label: str) -> BaseDistribution:
    """Optuna's distribution of a parameter: of floats unless all its values are integers to the option."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if "values" in parameter:  # Optuna keeps plain values alone: others as the text of their flag
        plain = [v if v is None or isinstance(v, bool | int | float | str) else json.dumps(v) for v in values]
        return CategoricalDistribution(plain)
    low, high = values
    log, step = "log" in parameter.get("distribution", ""), parameter.get("q")
    try:
        if kinds == {int}:
            return IntDistribution(low, high, log=log, step=1 if step is None else step)
        return FloatDistribution(low, high, log=log, step=step)
    except ValueError as error:
        raise UserError(f"{label}: {error}") from error
