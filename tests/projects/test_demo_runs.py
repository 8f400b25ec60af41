"""Runs of the demo of all capstones: what is finished is used, what is missing is trained, what was stopped goes on."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from common.errors import Preempted
from common.io import signals
from projects.demo import runs
from projects.demo.__main__ import main

CHECKPOINT = "best-00000007.ckpt"


def finish(name: str) -> Path:
    """A finished run of the demo, in the working directory."""
    folder = Path("runs", name, "demo")
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps({"checkpoint": CHECKPOINT}))
    (folder / "checkpoints" / CHECKPOINT).touch()
    return folder


@pytest.fixture
def started(monkeypatch, tmp_path) -> list[tuple[str, list[str]]]:
    """(capstone, arguments) of each training, in an empty folder; each ends at once."""
    monkeypatch.chdir(tmp_path)
    calls: list[tuple[str, list[str]]] = []

    def start(project, args):
        calls.append((project.name, args))
        finish(project.name)

    monkeypatch.setattr(runs, "start", start)
    return calls


def test_what_is_missing_is_trained_and_what_is_finished_is_used(started, capsys):
    finish("gan")
    stopped = finish("cifar10")
    (stopped / "summary.json").unlink()
    (finish("seq2seq") / "checkpoints" / CHECKPOINT).unlink()
    pages = runs.load_pages("cpu")
    assert [str(path) for _, path in pages] == [f"runs/{name}/demo/checkpoints/{CHECKPOINT}" for name in runs.FLAGS]
    assert [name for name, _ in started] == ["cifar10", "seq2seq", "bert_sentiment", "policy_gradient"]
    ends = ["--accelerator", "cpu", "--name", "demo", "--resume", "allow"]
    assert [args for _, args in started] == [[*runs.FLAGS[name], *ends] for name, _ in started]
    assert capsys.readouterr().out.splitlines()[-1] == "5 of 5: training policy_gradient, in runs/policy_gradient/demo"
    started.clear()
    assert runs.load_pages("cpu") == pages and not started
    for name, (page, _) in zip(runs.FLAGS, pages, strict=True):
        assert f"({name})" in page.title and page.load.__module__ == f"projects.{name}.inference"


def test_every_capstone_with_a_page_is_there():
    root = Path(runs.__file__).parents[1]
    assert set(runs.FLAGS) == {path.parent.name for path in root.glob("*/page.py")}
    assert {path.parent.name for path in root.glob("*/demo.py")} == set(runs.FLAGS)


def test_a_training_that_is_stopped_says_how_it_goes_on(started, monkeypatch, capsys):
    pytest.importorskip("gradio")

    def stop(project, args):
        raise Preempted("runs/x/step-1.ckpt", "SIGINT")

    monkeypatch.setattr(runs, "start", stop)
    assert main(["--no_browser"]) == 130
    error = capsys.readouterr().err
    assert "the same command again continues\n" in error and "interrupted; state saved" in error


def test_after_a_training_ctrl_c_ends_the_page_and_is_not_of_the_run(started, monkeypatch, tmp_path):
    with signals.stop_signals_handled():
        usual = runs.start

        def start(project, args):
            (tmp_path / "step-1.ckpt").touch()
            signals.handle_stop_signals(signals.stop_now(tmp_path))  # as a run leaves it
            usual(project, args)

        monkeypatch.setattr(runs, "start", start)
        runs.load_pages("cpu")
        with pytest.raises(Preempted, match=r"^interrupted$"):
            signal.raise_signal(signal.SIGINT)
