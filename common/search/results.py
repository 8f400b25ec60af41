"""Results of a study: its best trial, with the command that trains it, and the plot of its history."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from common.plots.figures import (
    BLUE,
    GRAY,
    ORANGE,
    TITLE_SIZE,
    add_legend,
    new_figure,
    report_plot_errors,
    save_figure,
    style_axes,
)

if TYPE_CHECKING:
    import optuna


def current_trials(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trials of the study, each once: of one that was begun again the last attempt."""
    from optuna.storages import RetryHeartbeatStaleTrialCallback as Retry

    trials = study.get_trials(deepcopy=False)
    retried = {number for trial in trials for number in Retry.retry_history(trial)}
    return [trial for trial in trials if trial.number not in retried]


def best_trial(study: optuna.Study) -> optuna.trial.FrozenTrial | None:
    """Best of the trials that have ended well, if any."""
    try:
        return study.best_trial
    except ValueError:
        return None


def describe(trial: optuna.trial.FrozenTrial) -> str:
    """Run of a trial, its metric and value."""
    return f"{trial.user_attrs['run']}, {metric_name(trial)} {trial.value:.6g}"


def metric_name(trial: optuna.trial.FrozenTrial) -> str:
    """Monitored metric of a trial's run."""
    return str(trial.user_attrs.get("metric", "value"))


def print_progress(study: optuna.Study, trials: int) -> None:
    """Prints what has become of the trials so far, and the best."""
    states = sorted(trial.state.name.lower() for trial in current_trials(study))
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    best = best_trial(study)
    found = "" if best is None else f"; best: {describe(best)}"
    print(f"search: {len(states)} of {trials} trials ({counts}){found}", flush=True)


def print_results(study: optuna.Study, folder: Path, command: Callable[[dict[str, Any]], str]) -> None:
    """Plots the history into the study's `folder`, and prints the best trial.

    Args:
        study: The study.
        folder: Its folder.
        command: Command line that trains with the values of a trial.

    Raises:
        UserError: No trial has ended well.
    """
    best = best_trial(study)
    if best is None:
        raise UserError("no trial has ended well")
    with report_plot_errors("history.png"):
        draw_history(study, folder / "history.png")
    print(f"search folder: {folder} (history.png)")
    print(f"best:    {describe(best)}")
    print(f"again:   {command(best.params)}")
    print(f"compare: python -m common.compare {folder}-trial*", flush=True)


def draw_history(study: optuna.Study, path: Path) -> None:
    """Optimization history: the value of each trial, at which the pruned ones stopped, and the best so far."""
    from optuna.trial import TrialState

    trials = current_trials(study)
    figure, (axes,) = new_figure(1, 1, 6.4, 3.6)
    for state, marker, color, label in (
        (TrialState.COMPLETE, "o", BLUE, "trained to the end"),
        (TrialState.PRUNED, "x", GRAY, "pruned: its last value"),
    ):
        shown = [trial for trial in trials if trial.state == state and trial.value is not None]
        numbers, values = [trial.number for trial in shown], [float(trial.value or 0) for trial in shown]
        if shown:
            axes.plot(numbers, values, marker, markersize=5, color=color, label=label)
        if state == TrialState.COMPLETE:
            best = list(itertools.accumulate(values, max if study.direction.name == "MAXIMIZE" else min))
            axes.step(numbers, best, where="post", color=ORANGE, label="best so far")
    axes.set_xlabel("trial", fontsize=9)
    axes.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]
    axes.set_ylabel(metric_name(study.best_trial), fontsize=9)
    axes.tick_params(labelsize=8)
    add_legend(axes, fontsize=8)
    style_axes(axes)
    figure.suptitle(f"Optimization history: best trial {study.best_trial.number}", fontsize=TITLE_SIZE)
    counts = Counter(trial.state.name.lower() for trial in trials)
    described = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    save_figure(figure, path, f"search {study.study_name}: {described}")
