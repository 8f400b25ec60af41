"""Multirun: each run is done once, killed ones are resumed, and all are compared at the end."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import textwrap
import time
from pathlib import Path

import pytest

from commands import environment, start_forked
from common import multirun
from common.errors import UserError
from common.multirun import PlannedRun, is_done, makefile, plan_runs, read_grid
from toy.module import ToyModule
from toy.train import PROJECT

TINY = ["--data.source", "sample", "--accelerator", "cpu", "--precision", "32-true"]
ROOT = Path(__file__).resolve().parents[2]
# train.py of a toy project: ends at once, fails for seed 9, and with WAIT saves a checkpoint and runs for a minute
TRAIN = """
    import json, os, pathlib, shlex, sys, time
    def main():
        words = sys.argv[1:]
        value = lambda flag: words[words.index(flag) + 1]
        folder = pathlib.Path("runs/toy", value("--name"))
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        print("toy", *words, flush=True)
        if "WAIT" in os.environ:
            (folder / "checkpoints" / "step-1.ckpt").write_text("")
            time.sleep(60)
        if value("--seed") == "9":
            sys.exit(2)
        lr = next((word.split("=")[1] for word in words if word.startswith("--model.lr=")), "1")
        (folder / "config.yaml").write_text(f"model: {{lr: {lr}}}")
        (folder / "metrics.csv").write_text("step,val/loss\\n1,0.5\\n")
        summary = {"project": "toy", "data_source": "sample", "recipe": "default", "device": "cpu", "train_seconds": 1.0}
        summary |= {"command": f"python -m projects.toy.train {shlex.join(words)}", "seed": int(value("--seed"))}
        summary |= {"test": {"test/loss": float(value("--seed"))}, "best_validation": {}, "samples_per_second": 1.0}
        (folder / "summary.json").write_text(json.dumps(summary))
    if __name__ == "__main__":
        main()
    else:
        from toy.train import PROJECT
"""


@pytest.fixture
def toy(tmp_path, monkeypatch) -> Path:
    """Folder of a repository with one project, `toy`, as the working directory."""
    (tmp_path / "projects" / "toy").mkdir(parents=True)
    for package in ("projects", "projects/toy"):
        (tmp_path / package / "__init__.py").write_text("")
    (tmp_path / "projects" / "toy" / "train.py").write_text(textwrap.dedent(TRAIN))
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Multirun:
    """`python -m common.multirun` in the working directory, as a process."""

    def __init__(self, *words: str, **variables: str) -> None:
        self.log = Path.cwd() / f"log-{time.monotonic_ns()}.txt"
        self.log.touch()
        env = {**environment(Path.cwd()), "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", **variables}
        self.process = start_forked("common.multirun", list(words), Path.cwd(), env, self.log)

    def wait(self) -> tuple[int, str]:
        """Exit code and output, once it has ended."""
        return self.process.wait(60), self.log.read_text()


def run(*words: str) -> tuple[int, str]:
    return Multirun(*words).wait()


def trained(output: str) -> list[str]:
    """Names of the runs that were started, in order."""
    words = [shlex.split(line) for line in output.splitlines() if line.startswith("toy --")]
    return [line[line.index("--name") + 1] for line in words]


# what is planned


def test_every_seed_is_run_with_every_combination():
    grid = read_grid(["model.lr=0.1,0.2", "--model.dims=[8,8],[4]"])
    runs = plan_runs("toy", [0, 3], grid, None, ["--max_epochs", "2"])
    assert [run.folder.name for run in runs[:3]] == [
        "default-lr0.1-dims_8_8_-seed0",
        "default-lr0.1-dims_8_8_-seed3",
        "default-lr0.1-dims_4_-seed0",
    ]
    assert len(runs) == 8 and len({run.folder for run in runs}) == 8
    assert runs[-1].flags == shlex.split(
        "--max_epochs 2 --model.lr=0.2 --model.dims=[4] --seed 3 --name default-lr0.2-dims_4_-seed3"
    )


@pytest.mark.parametrize(
    "flags, name, expected",
    [
        ([], None, "default-seed0"),
        ([], "mine", "mine-seed0"),
        (["--config", "a/b.yaml"], None, "b-seed0"),
        (["--config=a/c.yaml"], None, "c-seed0"),
    ],
)
def test_names_begin_with_the_recipes_name(flags, name, expected):
    (planned,) = plan_runs("toy", [0], {}, name, flags)
    assert planned.folder == Path("runs/toy") / expected


def test_commands_are_quoted_for_shell_and_make(toy):
    (planned,) = plan_runs("toy", [0], {}, "a", ["--data.source", "it's $HOME/x"])
    done = subprocess.run(["make", "-f", "-", "run-0"], input=makefile([planned]), capture_output=True, text=True)
    assert "toy --data.source it's $HOME/x --seed 0 --name a-seed0" in done.stdout, done.stderr


@pytest.mark.parametrize(
    "words, message",
    [
        ("nothing", "nothing: no such project; there are toy"),
        ("toy --grid model.lr", "--grid model.lr: write it as OPTION=VALUE,VALUE"),
        ("toy --grid model.lr=1,,2", "--grid model.lr=1,,2: write it as OPTION=VALUE,VALUE"),
        ("toy --grid seed=1,2", "--grid seed=1,2: use --seeds"),
        ("toy --grid a=1 --grid a=2", "--grid a=2: a is given already"),
        ("toy --seeds 1 1", "two runs would be called default-seed1; every seed and value once"),
        ("toy --seed 3", "--seed: multirun sets it for every run; use --seeds"),
        ("toy --jobs 0", "argument --jobs: 0: use a whole number of at least 1 (see --help)"),
        ("toy --seeds x", "argument --seeds: x: use a whole number from 0 to 4294967295 (see --help)"),
        ("toy --seeds 1 4294967296", "argument --seeds: 4294967296: use a whole number from 0 to 4294967295 (see --help)"),
        (f"toy --seeds {'9' * 5000}", f"argument --seeds: {'9' * 20}: use a whole number from 0 to 4294967295 (see --help)"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(toy, monkeypatch, capsys, words, message):
    monkeypatch.setattr(multirun, "project_names", lambda: ["toy"])
    try:
        code = multirun.main(words.split())
    except SystemExit as stop:
        code = stop.code
    assert (code, capsys.readouterr().err) == (2, f"error: {message}\n")


@pytest.mark.parametrize("name", ["", ".", "../a", "a/b", "x" * 300, "x" * 99])
def test_name_is_one_folder(toy, monkeypatch, capsys, name):
    monkeypatch.setattr(multirun, "project_names", lambda: ["toy"])
    assert multirun.main(["toy", "--name", name, "--dry_run"]) == 2
    assert re.fullmatch(
        "error: --name .*: (not a folder's name|too long|a run's name is one folder).*\n", capsys.readouterr().err
    )


def test_missing_make_is_one_line(toy, monkeypatch, capsys):
    monkeypatch.setattr(multirun, "project_names", lambda: ["toy"])
    monkeypatch.setattr(multirun.shutil, "which", lambda name: None)
    assert multirun.main(["toy"]) == 2
    assert capsys.readouterr().err == "error: several runs need GNU make; install it, or run what --dry_run prints\n"


@pytest.mark.parametrize("flags, mine, group", [([], None, "default"), (["-c", "x.yaml"], None, "x"), ([], "g", "g")])
def test_runs_are_grouped_by_their_recipe_in_wandb(toy, monkeypatch, flags, mine, group):
    found = []
    (toy / "x.yaml").write_text("seed: 0")
    monkeypatch.setattr(multirun, "project_names", lambda: ["toy"])
    monkeypatch.setattr(multirun, "find_project", lambda name: PROJECT)
    monkeypatch.setattr(multirun.os, "dup2", lambda *files: None)
    monkeypatch.setattr(multirun.os, "execv", lambda *command: found.append(os.environ.get("WANDB_RUN_GROUP")))
    if mine:
        monkeypatch.setenv("WANDB_RUN_GROUP", mine)
    assert multirun.main(["toy", "--name", "prefix", *flags]) == 0
    assert found == [group]


@pytest.mark.parametrize(
    "words, message",
    [
        ("toy --grid model.momentum=0.1,0.2", "--grid: Unrecognized arguments: --model.momentum"),
        ("toy --grid model.lr=0.1,high", "--grid: --model.lr: "),
        ("toy --seeds 1 2 --max_epoch 3", "Unrecognized arguments: --max_epoch"),
    ],
)
def test_an_option_that_train_refuses_is_named_before_the_first_run(toy, monkeypatch, capsys, words, message):
    monkeypatch.setattr(multirun, "project_names", lambda: ["toy"])
    monkeypatch.setattr(multirun.os, "execv", lambda *command: pytest.fail("a run has been started"))
    monkeypatch.setattr(multirun, "find_project", lambda name: PROJECT)
    assert multirun.main(words.split()) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"error: {message}") and errors.count("\n") == 1


# what is done


def test_all_are_run_once_and_compared(toy):
    words = ["toy", "--seeds", "0", "1", "2", "--grid", "model.lr=0.1,0.2", "--max_epochs", "2"]
    names = [f"default-lr{lr}-seed{seed}" for lr in ("0.1", "0.2") for seed in (0, 1, 2)]
    code, output = run(*words)
    assert code == 0 and trained(output) == names, output
    table = [line for line in output.splitlines() if line.startswith("│")]
    assert [line.split()[1] for line in table] == ["default-lr0.1-seed*", "default-lr0.2-seed*"]
    assert all("1.000 ± 1.000" in line and "0, 1, 2" in line for line in table)

    code, output = run(*words, "--dry_run")
    assert (code, output) == (0, ""), "nothing is left to do"
    code, output = run(*words[:4], "5", *words[4:])
    assert code == 0 and trained(output) == ["default-lr0.1-seed5", "default-lr0.2-seed5"], output


def test_a_failure_stops_the_rest_without_keep_going(toy):
    code, output = run("toy", "--seeds", "9", "1")
    assert code == 2 and trained(output) == ["default-seed9"] and "default-seed*" not in output
    code, output = run("toy", "--seeds", "9", "1", "--keep_going")
    assert code == 2 and trained(output) == ["default-seed9", "default-seed1"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_the_run_which_is_resumed_next_time(toy, number):
    started = Multirun("toy", "--seeds", "0", "1", "--name", "a", WAIT="1")
    checkpoint = toy / "runs" / "toy" / "a-seed0" / "checkpoints" / "step-1.ckpt"
    deadline = time.monotonic() + 30
    while not checkpoint.exists():
        assert time.monotonic() < deadline and started.process.poll() is None
        time.sleep(0.02)
    os.killpg(started.process.pid, number)  # as a terminal does
    code, output = started.wait()
    assert code != 0 and trained(output) == ["a-seed0"]
    code, output = run("toy", "--seeds", "0", "1", "--name", "a")
    assert code == 0 and trained(output) == ["a-seed0", "a-seed1"]
    assert "--name a-seed0 --resume allow" in output


def test_a_run_killed_before_its_first_checkpoint_is_started_again(train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = [*TINY, "--max_epochs", "1", "--name", "x"]
    planned = PlannedRun(Path("runs/toy/x"), "toy.train", flags)

    def fail(*args):
        raise OSError("the disk is full")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
        patch.setattr(ToyModule, "training_step", fail)
        train(*flags, alone=True)
    assert train(*flags, alone=True).error.endswith("choose another --name, or add --resume allow: it has no checkpoint yet")
    line = "--resume auto: runs/toy/x has no checkpoint; check --name, or start it with --resume allow"
    assert train(*flags, "--resume", "auto", alone=True).error == line
    assert not is_done(planned) and planned.command.endswith("--name x --resume allow")
    assert train(*shlex.split(planned.command)[3:], alone=True).code == 0
    assert is_done(planned)


def test_a_finished_run_with_other_flags_is_refused(toy):
    (planned,) = plan_runs("toy", [0], {}, None, ["--max_epochs", "2"])
    planned.folder.mkdir(parents=True)

    def finish(command: str) -> None:
        (planned.folder / "summary.json").write_text(json.dumps({"command": command}))

    assert not is_done(planned)
    for command in (
        planned.command,
        planned.command.removesuffix(" --resume allow"),
        planned.command.replace("allow", "auto"),
        f"python -m projects.toy.train --config {planned.folder}/config.yaml {shlex.join(planned.flags)} --resume auto",
    ):
        finish(command)
        assert is_done(planned), command
    finish(planned.command.replace("2", "3"))
    with pytest.raises(UserError, match=r"default-seed0 is of another command, with --max_epochs 3 .*another --name"):
        is_done(planned)
    (planned.folder / "summary.json").write_text("{")
    with pytest.raises(UserError, match=r"summary\.json is damaged"):
        is_done(planned)
