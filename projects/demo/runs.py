"""Runs of the demo: for each capstone one on its embedded sample, trained if it is missing."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

from common.cli.main import start
from common.demo.page import Page
from common.errors import Preempted
from common.io.run_dir import ALLOW, RUNS
from common.io.signals import handle_stop_signals, stop_now
from common.project import Project

NAME = "demo"  # of each run
SAMPLE = ["--data.source", "sample"]
FLAGS = {  # capstone -> flags of its training
    "cifar10": SAMPLE,
    "seq2seq": SAMPLE,
    "bert_sentiment": SAMPLE,
    "gan": SAMPLE,
    "policy_gradient": [],  # it has environments
}


def load_pages(accelerator: str) -> list[tuple[Page, Path]]:
    """Page of each capstone, and the best checkpoint of its run."""
    pages = []
    for number, (name, flags) in enumerate(FLAGS.items(), 1):
        project: Project = importlib.import_module(f"projects.{name}.train").PROJECT
        if finished_checkpoint(name) is None:
            print(f"{number} of {len(FLAGS)}: training {name}, in {RUNS / name / NAME}", flush=True)
            train(project, [*flags, "--accelerator", accelerator])
        checkpoint = finished_checkpoint(name)
        assert checkpoint is not None, "a run that has ended has a checkpoint"
        pages.append((importlib.import_module(f"projects.{name}.page").PAGE, checkpoint))
    return pages


def finished_checkpoint(name: str) -> Path | None:
    """Best checkpoint of the demo's run of a capstone; None if the run has not ended, or its checkpoint is gone."""
    run = RUNS / name / NAME
    if not (run / "summary.json").is_file():
        return None
    path = run / "checkpoints" / str(json.loads((run / "summary.json").read_text())["checkpoint"])
    return path if path.is_file() else None


def train(project: Project, flags: list[str]) -> None:
    """Trains the demo's run of a capstone, or continues it. Raises UserError or Preempted, as the training does."""
    try:
        start(project, [*flags, "--name", NAME, "--resume", ALLOW])
    except Preempted:
        print("the same command again continues", file=sys.stderr)
        raise
    handle_stop_signals(stop_now(None, in_run=False))  # the run has ended: the next Ctrl-C is not for it
