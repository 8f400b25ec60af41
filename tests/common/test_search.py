"""Search: trials are runs with values of the search space; it is reproducible, prunes, and continues what was killed."""

from __future__ import annotations

import math
import os
import re
import shlex
import signal
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import matplotlib
import pytest
import yaml
from toy_runs import TINY

import toy.train
from common import multirun
from common.cli.main import start
from common.compare.records import read_runs
from common.errors import UserError
from common.io.connectivity import reachable
from common.io.metrics import read_metrics
from common.project import Project
from common.search.results import draw_history
from common.search.space import option_flags, read_space
from common.search.trial import Pruned, PruneTrial
from toy.module import ToyModule
from toy.train import PROJECT

optuna = pytest.importorskip("optuna")
ONE_DEVICE = ["--devices", "1"]
SPACE = """
parameters:
  model.lr: {distribution: log_uniform_values, min: 0.01, max: 1}
  model.mlp.hidden_dim: {min: 2, max: 16}
  model.mlp.activation: {values: [relu, tanh]}
"""


@pytest.fixture
def search(tmp_path, monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """Runs the command with a search space in a folder of the test's own; returns its exit code and output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "projects.toy.train", toy.train)
    monkeypatch.setattr(multirun, "project_names", lambda: ["toy"])
    monkeypatch.setattr("common.run.summary.draw_curves", lambda *args: None)
    monkeypatch.setattr("common.search.results.draw_history", lambda study, path: None)
    monkeypatch.setenv("WANDB_RUN_GROUP", "")
    monkeypatch.delenv("WANDB_RUN_GROUP")  # and what the command sets is gone after the test
    monkeypatch.setattr("gc.collect", lambda: 0)  # after each trial, which takes longer than all else

    def call(*flags: str, space: str = SPACE, name: str = "s") -> tuple[int, str, str]:
        Path("space.yaml").write_text(space)
        code = multirun.main(["toy", "--search", "space.yaml", "--name", name, *flags, *TINY])
        return code, *capsys.readouterr()

    return call


def test_trials_are_grouped_by_their_recipe_in_wandb(search, monkeypatch):
    found = []
    monkeypatch.setattr("common.search.study.search", lambda *args: found.append(os.environ["WANDB_RUN_GROUP"]))
    assert search("--trials", "1")[0] == search("--trials", "1", "--config", "recipes/fast.yaml")[0] == 0
    assert found == ["default", "default"]
    monkeypatch.delenv("WANDB_RUN_GROUP")
    assert search("--trials", "1", "--config", "recipes/fast.yaml")[0] == 0
    assert found[-1] == "fast"


@dataclass
class Runs:
    """Runs of a search that are not trained: what was begun, and what is returned instead."""

    outcome: Callable[[optuna.Trial], float]
    begun: list[tuple[str, list[str], bool]] = field(default_factory=list)

    def train(self, project: Project, name: str, flags: list[str], trial: optuna.Trial, resumes: bool) -> float:
        self.begun.append((name, flags, resumes))
        return self.outcome(trial)


@pytest.fixture
def runs(monkeypatch) -> Runs:
    """A search then trains nothing: a trial's value is its learning rate, unless the test says otherwise."""
    instead = Runs(lambda trial: trial.params["model.lr"])
    monkeypatch.setattr("common.search.study.train_trial", instead.train)
    return instead


def study(name: str = "s") -> optuna.Study:
    return optuna.load_study(study_name=f"toy/{name}", storage=f"sqlite:///runs/toy/{name}/study.db")


def states(name: str = "s") -> list[str]:
    return [trial.state.name for trial in study(name).trials]


# trials


def test_trials_are_runs_with_the_values_that_were_sampled(search):
    code, out, _ = search("--trials", "3")
    assert code == 0, out
    best = {}
    for trial in study().trials:
        folder = Path(f"runs/toy/s-trial{trial.number}")
        config = yaml.safe_load((folder / "config.yaml").read_text())
        values = {"model.lr": config["model"]["lr"]}
        values |= {f"model.mlp.{name}": value for name, value in config["model"]["mlp"].items()}
        assert trial.params == values and config["seed"] == 0
        assert 0.01 <= values["model.lr"] <= 1 and 2 <= values["model.mlp.hidden_dim"] <= 16
        validated = [row["val/accuracy"] for row in read_metrics(folder / "metrics.csv") if "val/accuracy" in row]
        assert trial.value == max(validated) and list(trial.intermediate_values.values()) == validated
        best[trial.number] = trial.value
    number = max(best, key=lambda each: best[each])
    assert f"best:    s-trial{number}, val/accuracy {best[number]:.6g}" in out.splitlines()
    command = [line for line in out.splitlines() if line.startswith("again:")][-1]
    assert shlex.split(command)[4:] == [*TINY, *ONE_DEVICE, *option_flags(study().trials[number].params), "--seed", "0"]
    records, errors = read_runs([Path("runs/toy")])
    assert [record.name for record in records] == ["s-trial0", "s-trial1", "s-trial2"] and not errors


def test_history_is_plotted(search, runs, monkeypatch, drawn):
    monkeypatch.setattr("common.search.results.draw_history", draw_history)
    before = dict(matplotlib.rcParams)
    assert search("--trials", "4")[0] == 0
    (axes,) = drawn[0].axes
    values = [trial.value for trial in study().trials]
    trained, best = (list(line.get_ydata()) for line in axes.lines)
    assert trained == values and best == [max(values[: i + 1]) for i in range(4)]
    assert axes.get_ylabel() == "value" and "4 complete" in drawn[0].texts[-1].get_text()
    assert dict(matplotlib.rcParams) == before, "plots of runs keep their style"


def test_first_trial_is_the_one_that_a_dry_run_prints(search, runs):
    _, out, _ = search("--trials", "1", "--dry_run")
    assert runs.begun == [] and not Path("runs").exists()
    search("--trials", "1")
    ((_, flags, resumes),) = runs.begun
    assert shlex.split(out) == ["python", "-m", "projects.toy.train", *flags] and not resumes


@pytest.mark.parametrize(
    "method, trials",
    [pytest.param("bayes", 12, marks=pytest.mark.slow), ("random", 4)],  # the first 10 of "bayes" are random
)
def test_search_continues_as_if_it_had_not_ended(search, runs, method, trials):
    space = f"method: {method}{SPACE}"
    search("--trials", str(trials), space=space, name="whole")
    for part in (trials - 3, trials):
        search("--trials", str(part), space=space, name="parts")
    params = [trial.params for trial in study("whole").trials]
    assert params == [trial.params for trial in study("parts").trials]
    assert len({str(each) for each in params}) == trials, "no two trials are alike"
    search("--trials", "1", "--seeds", "1", space=space, name="other")
    assert study("other").trials[0].params != params[0]
    assert [flags[-1] for _, flags, _ in runs.begun][-2:] == ["0", "1"]


def test_data_of_all_trials_is_that_of_the_first(search, runs, monkeypatch):
    flags = TINY[2:]  # without a source
    monkeypatch.setattr("test_search.TINY", flags)
    search("--trials", "1")  # the hub is out of reach
    assert runs.begun[0][1][:8] == [*flags, *ONE_DEVICE, "--data.source", "sample"]


def test_direction_is_that_of_the_monitored_metric(search, runs, monkeypatch):
    search("--trials", "4")
    values = [trial.value for trial in study().trials]
    assert study().best_value == max(values) != min(values)
    monkeypatch.setattr(PROJECT, "mode", "min")
    search("--trials", "4", name="min")
    assert study("min").best_value == min(values)


def test_processes_count_the_trials_of_all(search, runs):
    def outcome(trial):
        if trial.number == 1:  # another process begins one meanwhile, and trains it still
            trial.study.ask()
        return 0.5

    runs.outcome = outcome
    search("--trials", "5")
    assert states() == ["COMPLETE", "COMPLETE", "RUNNING", "COMPLETE", "COMPLETE"]


# failures and pruning


def test_trials_without_a_value_have_failed_and_the_search_goes_on(search, runs):
    def outcome(trial):
        if trial.number == 2:
            raise UserError("stopped before step 3: the loss is nan")
        return math.nan if trial.number == 0 else 0.25

    runs.outcome = outcome
    code, out, _ = search("--trials", "4")
    assert (code, states()) == (0, ["FAIL", "COMPLETE", "FAIL", "COMPLETE"])
    assert "trial 2 has failed: stopped before step 3: the loss is nan" in out.splitlines()
    assert "search: 4 of 4 trials (2 complete, 2 fail); best: s-trial1, value 0.25" in out.splitlines()


def test_a_run_that_diverges_is_a_failed_trial(search):
    space = "method: random\nparameters: {model.lr: {values: [0.5, 1.0e+38]}}"
    code, out, _ = search("--trials", "4", "--max_epochs", "3", space=space)
    diverged = [trial.params["model.lr"] > 1 for trial in study().trials]
    assert code == 0 and 0 < sum(diverged) < 4
    assert [state == "FAIL" for state in states()] == diverged
    assert out.count("has failed: stopped ") == sum(diverged)


def test_search_ends_where_every_trial_fails(search, runs):
    def outcome(trial):
        raise UserError("no such data")

    runs.outcome = outcome
    code, _, err = search("--trials", "9")
    line = "error: 5 trials in a row have failed; mend it, and use the same command: no such data\n"
    assert (code, err, states()) == (2, line, ["FAIL"] * 5)
    assert search("--trials", "5")[::2] == (2, "error: no trial has ended well\n")


def test_pruner_is_successive_halving(search, runs):
    curves = [[0.5, 0.5, 0.5, 0.5], [0.4], [0.6, 0.6, 0.6, 0.6], [0.55, 0.45], [0.7, 0.4], [0.1]]

    def outcome(trial):
        for epoch, value in enumerate(curves[trial.number], 1):
            trial.report(value, epoch)
            if trial.should_prune():
                assert epoch == len(curves[trial.number])
                raise Pruned("")
        return value

    runs.outcome = outcome
    search("--trials", "6", space="early_terminate: {type: hyperband, min_iter: 1, eta: 2}" + SPACE)
    # rungs after epochs 1, 2 and 4: whoever is not in the better half of those that came so far is stopped
    assert states() == ["COMPLETE", "PRUNED", "COMPLETE", "PRUNED", "PRUNED", "PRUNED"]
    runs.outcome = lambda trial: (trial.report(0.0, 1), float(trial.should_prune()))[1]
    search("--trials", "3", name="unpruned")
    assert [trial.value for trial in study("unpruned").trials] == [0.0] * 3, "without early_terminate"


def test_a_pruned_run_stops_at_the_end_of_its_epoch(tmp_path, monkeypatch):
    class Trial(optuna.trial.FixedTrial):
        reported: dict[int, float] = {}

        def report(self, value, step):
            self.reported[step] = value

        def should_prune(self):
            return len(self.reported) == 3

    monkeypatch.chdir(tmp_path)
    trial = Trial({})
    flags = [*TINY, "--max_epochs", "9", "--name", "a", "--trainer.check_val_every_n_epoch", "2"]
    with pytest.raises(Pruned, match="pruned after epoch 6"):
        start(PROJECT, flags, [PruneTrial(trial)])
    rows = [row for row in read_metrics(Path("runs/toy/a/metrics.csv")) if "val/accuracy" in row]
    assert trial.reported == {row["step"] / 2: row["val/accuracy"] for row in rows} and set(trial.reported) == {2, 4, 6}
    assert trial.user_attrs == {"metric": "val/accuracy"} and not Path("runs/toy/a/summary.json").exists()


# killed trials


@pytest.mark.slow
def test_search_that_is_stopped_by_a_signal_ends_like_an_uninterrupted_one(search, monkeypatch):
    search("--trials", "3", "--checkpoint_every", "1", name="whole")
    step, steps = ToyModule.training_step, []

    def stopping_step(module, batch, index):
        steps.append(index)
        if len(steps) == 7:  # the third step of the second trial
            os.kill(os.getpid(), signal.SIGTERM)
        return step(module, batch, index)

    monkeypatch.setattr(ToyModule, "training_step", stopping_step)
    code, out, err = search("--trials", "3", "--checkpoint_every", "1")
    assert (code, states()) == (75, ["COMPLETE", "FAIL", "WAITING"])
    assert "the same command continues the search, and this trial" in out and "runs/toy/s-trial1" in err
    code, out, _ = search("--trials", "3", "--checkpoint_every", "1")
    assert code == 0 and len(steps) == 3 * 4 and "resuming runs/toy/s-trial1 from step-00000003.ckpt" in out
    assert states() == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    whole, parts = ([(t.params, t.value) for t in study(name).trials if t.value] for name in ("whole", "s"))
    assert parts == whole and len(whole) == 3
    assert [t.user_attrs["run"] for t in study().trials] == ["s-trial0", "s-trial1", "s-trial1", "s-trial3"]


def test_a_killed_trial_is_taken_up_again(search, runs):
    search("--trials", "1")
    killed = study()
    killed.sampler = optuna.samplers.RandomSampler(seed=5)
    trial = killed.ask(read_space(Path("space.yaml"), PROJECT, TINY).distributions)
    search("--trials", "2")
    assert states() == ["COMPLETE", "RUNNING"], "it may be alive"
    with sqlite3.connect("runs/toy/s/study.db") as database:
        database.execute("INSERT INTO trial_heartbeats (trial_id, heartbeat) VALUES (2, '2020-01-01 00:00:00')")
    search("--trials", "2")
    assert states() == ["COMPLETE", "FAIL", "COMPLETE"]
    assert runs.begun[-1] == ("s-trial1", [*TINY, *ONE_DEVICE, *option_flags(trial.params), "--seed", "0"], True)
    search("--trials", "3")
    assert runs.begun[-1][0] == "s-trial3" and not runs.begun[-1][2]


def test_a_run_that_had_ended_before_the_kill_is_not_trained_again(search, monkeypatch):
    search("--trials", "1")
    value = study().trials[0].value
    retried = optuna.create_trial(
        state=optuna.trial.TrialState.WAITING,
        params=study().trials[0].params,
        distributions=study().trials[0].distributions,
        system_attrs={"failed_trial": 0, "retry_history": [0]},
    )
    study().add_trial(retried)
    monkeypatch.setattr("common.search.trial.start", pytest.fail)
    search("--trials", "1")
    assert [trial.value for trial in study().trials] == [value, value]


def test_signal_between_trials_names_no_run(search, monkeypatch):
    monkeypatch.setattr("common.search.study.print_progress", lambda *args: os.kill(os.getpid(), signal.SIGTERM))
    code, _, err = search("--trials", "3")
    assert (code, err, states()) == (75, "stopped by SIGTERM\n", ["COMPLETE"])


# storage


@pytest.mark.slow
def test_processes_share_a_database_behind_a_proxy(search, runs, tmp_path):
    pytest.importorskip("grpc")
    from optuna.storages import get_storage, run_grpc_proxy_server

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = f"sqlite:///{tmp_path / 'shared.db'}"
    serve = partial(run_grpc_proxy_server, get_storage(shared), host="127.0.0.1", port=port)
    threading.Thread(target=serve, daemon=True).start()
    for _ in range(100):
        if reachable(f"grpc://127.0.0.1:{port}"):
            break
        time.sleep(0.05)
    code, _, err = search("--trials", "2", "--storage", f"grpc://127.0.0.1:{port}")
    assert code == 0, err
    search("--trials", "3", "--storage", shared)
    trials = optuna.load_study(study_name="toy/s", storage=shared).trials
    assert [name for name, *_ in runs.begun] == ["s-trial0", "s-trial1", "s-trial2"] and len(trials) == 3
    search("--trials", "3", name="alone")
    assert [trial.params for trial in trials] == [trial.params for trial in study("alone").trials]
    assert not Path("runs/toy/s/study.db").exists()


@pytest.mark.parametrize(
    "url, message",
    [
        ("grpc://127.0.0.1:9", "--storage: no server answers at 127.0.0.1:9; start it, or correct the URL"),
        ("postgresql://u:secret@127.0.0.1/x", "--storage: no server answers at 127.0.0.1:5432"),
        ("grpc://127.0.0.1", "--storage: a gRPC proxy is grpc://HOST:PORT"),
        ("study.db", "--storage: use a URL: sqlite:///FILE"),
        ("nothing://127.0.0.1/x", "--storage: Can't load plugin: sqlalchemy.dialects:nothing"),
        ("sqlite:////nowhere/study.db", "--storage: .*unable to open database file"),
        ("grpc://127.0.0.1:x", "--storage: Port could not be cast to integer value as 'x'"),
    ],
)
def test_storage_that_cannot_be_used_is_one_line(search, runs, url, message):
    code, _, err = search("--trials", "2", "--storage", url)
    assert code == 2 and re.match(f"error: {message}", err) and err.count("\n") == 1 and "secret" not in err
    assert runs.begun == []


def test_study_of_another_command_is_refused(search, runs):
    search("--trials", "1")
    for flags, space in [(["--max_epochs", "3"], SPACE), (["--seeds", "1"], SPACE), ([], SPACE.replace("16", "17"))]:
        code, _, err = search("--trials", "2", *flags, space=space)
        assert (code, err) == (
            2,
            "error: --name s: that study has other flags, seed or search space; choose another --name\n",
        )
    Path("runs/toy/other-trial0").mkdir()
    assert "runs/toy/other-trial0 is of another search" in search("--trials", "1", name="other")[2]
    Path("runs/toy/run").mkdir()
    Path("runs/toy/run/config.yaml").touch()
    assert "runs/toy/run is a run; choose another --name" in search("--trials", "1", name="run")[2]
    assert len(runs.begun) == 1


# bad input


@pytest.mark.parametrize(
    "parameters, message",
    [
        ("{model.lrr: {min: 1, max: 2}}", r".*model\.lrr"),
        ("{model.lr: {min: -1, max: 2}}", r"--model\.lr: .*-1.*v>0"),
        ("{model.mlp.activation: {values: [relu, gelu]}}", r"--model\.mlp\.activation: .*gelu"),
        ("{model.mlp.hidden_dim: {min: 1.5, max: 4}}", r"--model\.mlp\.hidden_dim: .*1\.5"),
        ("{model.lr: {min: 2, max: 1}}", r"model\.lr: min 2, max 1: use two numbers, the smaller one first"),
        (
            "{model.lr: {min: 0, max: 1, distribution: log_uniform_values}}",
            r"model\.lr: min 0: a logarithmic range",
        ),
        ("{model.lr: {min: 0.1}}", r"model\.lr: \{'min': 0\.1\}: use value, values, or min and max"),
        ("{model.lr: {min: 0.1, max: 1, distribution: normal}}", r"model\.lr: .*: use value, values, or min and max"),
        ("{model.lr: 0.1}", r"model\.lr: 0\.1: write it as \{values: \[A, B\]\}"),
        ("{model.lr: {value: 0.1}}", "every option has one value only"),
        ("{name: {values: [a, b]}}", "name: no option to search"),
        ("{trainer.devices: {values: [1, 2]}}", "trainer.devices: no option to search"),
        ("[]", "no search space; it needs `parameters:`"),
        ("{model.lr: {values: [1, 2]}}\nmethod: grid", "method grid: use bayes or random; --grid tries all combinations"),
        (
            "{model.lr: {values: [1, 2]}}\nmetric: {name: val/loss, goal: minimize}",
            "metric .*: a search optimizes the monitored",
        ),
        ("{model.lr: {values: [1, 2]}}\nearly_terminate: {type: median}", "early_terminate .*: write it as"),
        ("{model.lr: {values: [1, 2]}}\nearly_terminate: {type: hyperband, min_iter: 0}", "early_terminate .*: write it as"),
    ],
)
def test_wrong_search_space_is_one_line_before_the_first_trial(search, runs, parameters, message):
    code, out, err = search("--trials", "2", space=f"parameters: {parameters}")
    assert (code, out) == (2, "") and re.match(f"error: --search space.yaml: {message}", err), err
    assert err.count("\n") == 1 and runs.begun == [] and not Path("runs").exists()


@pytest.mark.parametrize(
    "flags, message",
    [
        ("", "--search: how many trials? add --trials N"),
        ("--trials 2 --grid model.lr=1,2", "--grid: not with --search; to train several trials at once, start the command"),
        ("--trials 2 --jobs 2", "--jobs: not with --search"),
        ("--trials 2 --devices 2", "--devices 2: a trial is one process; start the search once for each device instead"),
        ("--trials 2 --num_nodes 2 --devices 1", "--devices 1: a trial is one process"),
        ("--trials 2 --keep_going", "--keep_going: not with --search"),
        ("--trials 2 --seeds 1 2", "--seeds: a search has one; train its best values again with several"),
        ("--trials 2 --model.lr 0.1", "--model.lr: --search space.yaml sets it too; leave one of them out"),
        ("--trials 2 --data.batch_size x", "--data.batch_size: "),
    ],
)
def test_wrong_flag_of_a_search_is_one_line(search, runs, flags, message):
    code, _, err = search(*flags.split())
    assert code == 2 and err.startswith(f"error: {message}") and err.count("\n") == 1 and runs.begun == []


def test_flags_of_a_search_need_one(monkeypatch, capsys):
    monkeypatch.setattr(multirun, "project_names", lambda: ["toy"])
    for flags, name in [(["--trials", "2"], "trials"), (["--storage", "sqlite:///x"], "storage")]:
        assert multirun.main(["toy", *flags]) == 2
        assert capsys.readouterr().err == f"error: --{name}: only with --search FILE\n"


def test_missing_optuna_is_one_line(search, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    code, _, err = search("--trials", "2")
    assert (code, err) == (2, 'error: --search: run `pip install "lightning-capstones[search]"`\n')
