"""Study: a search over all its trials, which several processes and machines may share."""

from __future__ import annotations

import json
import logging
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cli.main import parse
from common.data.sources import resolve_source
from common.errors import Preempted, UserError, one_line
from common.io.run_dir import RUNS
from common.io.signals import handle_stop_signals, stop_now
from common.project import Project
from common.search.results import current_trials, print_progress, print_results
from common.search.space import Space, option_flags, read_space
from common.search.storage import open_storage, storage_errors_named
from common.search.trial import Pruned, train_trial

if TYPE_CHECKING:
    import optuna

MAX_FAILURES = 5  # in a row: the fault is then rather the command's than of the values


@dataclass
class Search:
    """Search that a command describes.

    Args:
        project: The capstone.
        name: Name of the study; its runs are called NAME-trialN.
        flags: Flags of train for all runs.
        seed: Random seed of the runs, unless the search space has it, and of the sampler.
        space: The search space.
    """

    project: Project
    name: str
    flags: list[str]
    seed: int
    space: Space

    @property
    def folder(self) -> Path:
        """Folder of the study."""
        return RUNS / self.project.name / self.name

    def run_name(self, number: int) -> str:
        """Name of the run of trial `number`."""
        return f"{self.name}-trial{number}"

    def run_flags(self, values: dict[str, Any]) -> list[str]:
        """Flags of the run with these values of the distributions."""
        chosen = {**self.space.fixed, **values}
        return [*self.flags, *option_flags(chosen), *([] if "seed" in chosen else ["--seed", str(self.seed)])]

    def command(self, values: dict[str, Any]) -> str:
        """Command line that trains with these values."""
        return f"python -m projects.{self.project.name}.train {shlex.join(self.run_flags(values))}"

    def description(self) -> str:
        """What all processes that share the study must have in common."""
        from optuna.distributions import distribution_to_json

        space = {
            **asdict(self.space),
            "distributions": {k: distribution_to_json(v) for k, v in self.space.distributions.items()},
        }
        return json.dumps([self.flags, self.seed, space], sort_keys=True, default=str)


def search(
    project: Project, path: Path, trials: int, storage: str | None, name: str, seed: int, flags: list[str], dry_run: bool
) -> None:
    """Searches until the study has `trials` trials; the same command again continues it.

    Args:
        project: The capstone.
        path: File of the search space.
        trials: Trials of the whole study, those of other processes included.
        storage: URL of the storage that processes share; None for a file in the study's folder.
        name: Name of the study.
        seed: Random seed of the runs and of the sampler.
        flags: Flags of train for all runs.
        dry_run: Whether to print the command of the first trial instead.

    Raises:
        UserError: Optuna is missing, the search space or the storage cannot be used, or no trial has ended well.
        Preempted: The process was asked to stop; the same command continues.
    """
    try:
        import optuna
    except ImportError as error:
        raise UserError('--search: run `pip install "lightning-capstones[search]"`') from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    flags = trial_flags(project, flags)
    searched = Search(project, name, flags, seed, read_space(path, project, flags))
    if dry_run:
        first = optuna.create_study().ask()
        first.study.sampler = new_sampler(searched, 0)
        print(searched.command(sample_values(searched, first)))
        return
    with storage_errors_named():
        study = open_study(searched, storage)
        run_trials(searched, study, trials)
        print_results(study, searched.folder, searched.command)


def trial_flags(project: Project, flags: list[str]) -> list[str]:
    """`flags` for every trial: on one device, and on the same data.

    The embedded sample is named where `auto` ends at it: a network that comes back would change the data.

    Raises:
        UserError: They ask for several processes, of which Lightning would start this command again.
    """
    config = parse(project, flags).config
    flags = list(flags)
    if config.trainer.devices == "auto":
        flags += ["--devices", "1"]
    elif str(config.trainer.devices) != "1" or config.trainer.num_nodes > 1:
        raise UserError(
            f"--devices {config.trainer.devices}: a trial is one process; start the search once for each device instead, "
            "as in CUDA_VISIBLE_DEVICES=0 python -m common.multirun ..."
        )
    if config.data.get("source") == "auto" and resolve_source("auto", getattr(project.data, "HUB_ID", "")).kind == "sample":
        flags += ["--data.source", "sample"]
    return flags


def open_study(searched: Search, storage: str | None) -> optuna.Study:
    """Study in the storage. Raises UserError if its name is another study's, or a run's, or its runs are there already."""
    import optuna

    if (searched.folder / "config.yaml").exists():
        raise UserError(f"{searched.folder} is a run; choose another --name")
    direction: Any = {"max": "maximize", "min": "minimize"}[searched.project.mode]
    study = optuna.create_study(
        storage=open_storage(storage, searched.folder),
        study_name=f"{searched.project.name}/{searched.name}",
        direction=direction,
        pruner=new_pruner(searched.space),
        load_if_exists=True,
    )
    first_run = searched.folder.with_name(searched.run_name(0))
    if not study.get_trials(deepcopy=False) and first_run.exists():
        raise UserError(f"{first_run} is of another search; choose another --name, or remove its runs")
    description = searched.description()
    if study.user_attrs.get("description", description) != description:
        raise UserError(f"--name {searched.name}: that study has other flags, seed or search space; choose another --name")
    study.set_user_attr("description", description)
    return study


def new_sampler(searched: Search, index: int) -> optuna.samplers.BaseSampler:
    """Sampler of a trial, with a seed of its own: processes sample differently, and one that continues a study as before.

    Args:
        searched: The search.
        index: Trials that were begun before, each once, however often it was begun again.
    """
    from optuna.samplers import RandomSampler, TPESampler

    seed = (searched.seed + index) % 2**32
    return TPESampler(seed=seed) if searched.space.method == "bayes" else RandomSampler(seed)


def new_pruner(space: Space) -> optuna.pruners.BasePruner:
    """Pruner: asynchronous successive halving, as W&B's `hyperband` is, or none."""
    from optuna.pruners import NopPruner, SuccessiveHalvingPruner

    return NopPruner() if space.min_epochs is None else SuccessiveHalvingPruner(space.min_epochs, space.eta)


def sample_values(searched: Search, trial: optuna.Trial) -> dict[str, Any]:
    """Option -> the trial's value."""
    from optuna.distributions import CategoricalDistribution, IntDistribution

    values: dict[str, Any] = {}
    each: Any
    for option, each in searched.space.distributions.items():
        if isinstance(each, CategoricalDistribution):
            values[option] = trial.suggest_categorical(option, each.choices)
        else:
            suggest: Any = trial.suggest_int if isinstance(each, IntDistribution) else trial.suggest_float
            step = {} if each.step is None or each.log else {"step": each.step}
            values[option] = suggest(option, each.low, each.high, log=each.log, **step)
    return values


def run_trials(searched: Search, study: optuna.Study, trials: int) -> None:
    """Trains one trial after another, until the study has `trials`, those that run elsewhere included."""
    import optuna
    import torch

    failures: list[str] = []  # in a row

    def objective(trial: optuna.Trial) -> float:
        try:
            value = run_trial(searched, study, trial)
        except Pruned as stop:
            failures.clear()
            raise optuna.TrialPruned(str(stop)) from stop
        except (UserError, torch.OutOfMemoryError) as error:
            failures.append(one_line(error))
            print(f"trial {trial.number} has failed: {failures[-1]}", flush=True)
            raise
        finally:
            handle_stop_signals(stop_now(None, in_run=False))  # between trials there is nothing to save
        failures.clear()
        return value

    while has_trials_left(study, trials):
        study.optimize(objective, n_trials=1, catch=(UserError, torch.OutOfMemoryError), gc_after_trial=True)
        print_progress(study, trials)
        if len(failures) == MAX_FAILURES:
            raise UserError(f"{MAX_FAILURES} trials in a row have failed; mend it, and use the same command: {failures[-1]}")


def run_trial(searched: Search, study: optuna.Study, trial: optuna.Trial) -> float:
    """Trains a trial. One that is stopped by a signal is given to the next process that asks for a trial."""
    from optuna.storages import RetryHeartbeatStaleTrialCallback as Retry
    from optuna.trial import TrialState

    originals = [Retry.retried_trial_number(each) for each in study.get_trials(deepcopy=False)[: trial.number + 1]]
    original = originals.pop()
    name = searched.run_name(trial.number if original is None else original)
    study.sampler = new_sampler(searched, originals.count(None))
    flags = searched.run_flags(sample_values(searched, trial))
    trial.set_user_attr("run", name)
    print(f"trial {trial.number}: {name}", flush=True)
    try:
        return train_trial(searched.project, name, flags, trial, resumes=original is not None)
    except Preempted:
        Retry()(study, study.tell(trial, state=TrialState.FAIL))
        print("the same command continues the search, and this trial", flush=True)
        raise


def has_trials_left(study: optuna.Study, trials: int) -> bool:
    """Whether fewer than `trials` have ended or are running; one that was killed is begun again."""
    from optuna.storages import fail_stale_trials
    from optuna.trial import TrialState

    fail_stale_trials(study)
    return sum(trial.state != TrialState.WAITING for trial in current_trials(study)) < trials
