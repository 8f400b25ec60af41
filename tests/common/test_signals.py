"""Stop signals: whenever one comes, a command ends with its exit code and one line, and the run can be continued."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from commands import environment
from common.cli.command import report_errors
from common.io.signals import handle_stop_signals, newest_checkpoint, stop_now
from toy.data import ToyData
from toy.module import SavePlot, ToyModule

CODES = {signal.SIGTERM: 75, signal.SIGINT: 130}


@pytest.fixture(autouse=True)
def interactive():
    """SIGINT as in a terminal; a background job ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def send(*numbers: signal.Signals) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)


PHASES = {
    "setup": (ToyData, "setup"),
    "first batch": (ToyModule, "on_train_start"),
    "training": (ToyModule, "training_step"),
    "validation": (ToyModule, "validation_step"),
    "epoch's end": (ToyModule, "on_train_epoch_end"),
    "training's end": (ToyModule, "on_train_end"),
    "after fit": (ToyModule, "on_fit_end"),
    "test": (ToyModule, "test_step"),
    "plots": (SavePlot, "on_test_epoch_end"),
    "summary": ("common.run.summary.print_summary", None),
}
BEFORE_ANY_CHECKPOINT = ("setup",)


def send_in(monkeypatch, phase: str, *numbers: signal.Signals) -> None:
    """Lets the process get the signals in a phase, once."""
    owner, name = PHASES[phase]
    left = list(numbers)
    usual = getattr(owner, name) if name else None

    def hook(*args, **options):
        while left:
            send(left.pop(0))
        return usual(*args, **options) if usual else None

    monkeypatch.setattr(*((owner, name, hook) if name else (owner, hook)))


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
def test_a_signal_in_any_phase_is_one_line_and_the_run_continues(full_run, train, monkeypatch, phase, number):
    before = {each: signal.getsignal(each) for each in CODES}
    with monkeypatch.context() as patch:
        send_in(patch, phase, number)
        done = train("--name", "x", "--seed", "3")
    newest = newest_checkpoint(done.run("x") / "checkpoints")
    how = "stopped by SIGTERM" if number == signal.SIGTERM else "interrupted"
    state = "no checkpoint was due yet; start it again with --resume allow"
    if newest is not None:
        state = f"state saved in {newest.relative_to(done.folder)}; continue with --resume auto"
    assert (done.code, done.err) == (CODES[number], f"{how}; {state}\n")
    assert (newest is None) == (phase in BEFORE_ANY_CHECKPOINT)
    assert {each: signal.getsignal(each) for each in CODES} == before
    if number == signal.SIGTERM and phase != "training":  # to be fast
        return
    again = train("--name", "x", "--seed", "3", "--resume", "allow" if newest is None else "auto")
    assert again.code == 0, again.err
    weights = [
        torch.load(run / "checkpoints/step-00000004.ckpt")["state_dict"] for run in (done.run("x"), full_run.run("full"))
    ]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[1])


class Ended(BaseException):
    """In place of the process's end."""


@pytest.fixture
def no_exit(monkeypatch):
    def end(code):
        raise Ended(code)

    monkeypatch.setattr(os, "_exit", end)


def test_a_second_ctrl_c_in_training_stops_at_once(train, monkeypatch):
    send_in(monkeypatch, "training", signal.SIGINT, signal.SIGINT)
    monkeypatch.setattr(ToyModule, "on_before_zero_grad", lambda *args: pytest.fail("the step goes on"))
    done = train("--name", "x")
    assert (done.code, done.err) == (130, "interrupted; no checkpoint was due yet; start it again with --resume allow\n")


@pytest.mark.parametrize("first, second", [(signal.SIGINT, signal.SIGTERM), (signal.SIGTERM, signal.SIGTERM)])
def test_sigterm_after_the_first_signal_changes_nothing(train, monkeypatch, first, second):
    send_in(monkeypatch, "training", first, second)
    done = train("--name", "x")
    assert done.code == CODES[first] and "state saved in runs/toy/x/checkpoints/step-00000001.ckpt" in done.err
    assert done.err.count("\n") == 1


def test_while_a_command_ends_sigterm_is_ignored_and_ctrl_c_ends_it_in_one_line(no_exit, capfd):
    ended = []

    def command():
        try:
            send(signal.SIGTERM)
        finally:
            send(signal.SIGTERM)
            with pytest.raises(Ended, match="75"):
                send(signal.SIGINT)
            ended.append(True)

    assert report_errors(command) == 75 and ended
    assert capfd.readouterr().err == "stopped by SIGTERM\n" * 2  # the process would have ended after the first


@pytest.mark.parametrize("number, line", [(signal.SIGTERM, "stopped by SIGTERM\n"), (signal.SIGINT, "interrupted\n")])
def test_a_command_without_a_run_has_nothing_to_continue(capsys, number, line):
    assert report_errors(lambda: send(number)) == CODES[number]
    assert capsys.readouterr().err == line


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_exception_that_is_lost_is_raised_at_the_next_phase(tmp_path):
    class Signaled:
        def __del__(self):
            send(signal.SIGTERM)

    def command():
        Signaled()
        handle_stop_signals(stop_now(tmp_path))
        pytest.fail("it goes on")

    assert report_errors(command) == 75


def test_a_forked_worker_ends_silently():
    def command():
        if (pid := os.fork()) == 0:
            send(signal.SIGTERM)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert report_errors(command) == 128 + signal.SIGTERM


# processes

IMPORTING = """
import os, runpy, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "lightning"):
            os.kill(os.getpid(), signal.{})

sys.meta_path.insert(0, Finder())
sys.argv = ["-m"]
import projects
runpy.run_module("projects.blank.train", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("number, line", [(signal.SIGTERM, "stopped by SIGTERM\n"), (signal.SIGINT, "interrupted\n")])
def test_a_signal_during_imports_is_one_line(tmp_path, number, line):
    code, env = IMPORTING.format(number.name), environment(tmp_path)
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (CODES[number], "", line)


COMMANDS = {
    "train": "projects.blank.train --name x --max_epochs 3 --resume allow --accelerator cpu",
    "predict": "projects.blank.predict rows.csv --checkpoint first.ckpt",
    "compare": "common.compare runs/blank/first",
    "multirun": "common.multirun blank --seeds 0 1 --max_epochs 1 --accelerator cpu",
}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_signals_at_random_moments_end_processes_in_one_line(tmp_path, words):
    env, moments = environment(tmp_path), random.Random(0)
    rows = "".join(f"{i % 7},{i % 3}\n" for i in range(60))
    (tmp_path / "table.csv").write_text(f"a,target\n{rows}")
    (tmp_path / "rows.csv").write_text("1\n2\n")

    def start(words: str) -> subprocess.Popen:
        command = [sys.executable, "-m", *words.split()]
        return subprocess.Popen(
            command, cwd=tmp_path, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )

    if "runs" in words or ".ckpt" in words:
        process = start("projects.blank.train --name first --max_epochs 1 --data.source table.csv --accelerator cpu")
        assert process.wait(120) == 0
        newest = newest_checkpoint(tmp_path / "runs/blank/first/checkpoints")
        (tmp_path / "first.ckpt").write_bytes(newest.read_bytes())
    begin = time.monotonic()
    words += " --data.source table.csv" * ("accelerator" in words)
    assert start(words).wait(240) == 0
    seconds = time.monotonic() - begin
    for _ in range(8):
        shutil.rmtree(tmp_path / "runs/blank/x", ignore_errors=True)
        process = start(words)
        time.sleep(moments.uniform(0.3, seconds))
        for number in moments.choice(
            [[signal.SIGTERM], [signal.SIGINT], [signal.SIGINT] * 3, [signal.SIGINT, signal.SIGTERM]]
        ):
            os.killpg(process.pid, number)
        _, err = process.communicate(timeout=120)
        codes = (0, 2, -15, -2) if "multirun" in words else (0, 75, 130)  # there GNU make's own
        assert process.returncode in codes, err
        assert "Traceback" not in err and "Exception ignored" not in err, err
