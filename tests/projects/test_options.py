"""Options: every number of every project has bounds, and one beyond them is refused before anything starts."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, get_args

import pytest

from common.cli.main import main
from common.cli.parser import CapstoneCLI
from common.project import Project

PROJECTS = Path(__file__).resolve().parents[2] / "projects"
NAMES = sorted(path.parent.name for path in PROJECTS.glob("*/train.py"))
UNBOUNDED = {"data.reward_threshold": "a mean return may be any number"}
SAMPLE = ["--data.source", "sample"]


def project(name: str) -> Project:
    return importlib.import_module(f"projects.{name}.train").PROJECT


def plain_types(kind: Any) -> set[type]:
    """Unbounded number types in an annotation."""
    return {part for arg in get_args(kind) for part in plain_types(arg)} or {kind} & {int, float}


@pytest.mark.parametrize("name", NAMES)
def test_every_number_has_bounds(name):
    capstone = project(name)
    taken_from_data = {target for _, target in capstone.links}
    kinds = {
        action.dest: getattr(action, "_typehint", action.type)
        for action in CapstoneCLI(capstone, SAMPLE).parser._actions
        if not action.dest.startswith("trainer.")  # Lightning's annotations; TRAINER_MINIMA has their bounds
    }
    assert {"seed", "checkpoint_every", "data.batch_size", "model.lr"} & kinds.keys() > {"seed", "model.lr"}
    unbounded = {option for option, kind in kinds.items() if plain_types(kind)} - taken_from_data
    assert unbounded <= UNBOUNDED.keys()


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("bert_sentiment", "model.dropout", "1"),
        ("bert_sentiment", "model.label_smoothing", "1"),
        ("bert_sentiment", "model.lora_rank", "-1"),
        ("blank", "checkpoint_every", "-1"),
        ("blank", "data.test_fraction", "0"),
        ("blank", "model.lr", "inf"),
        ("blank", "patience", "-1"),
        ("blank", "seed", "-1"),
        ("blank", "seed", "4294967296"),
        ("blank", "trainer.accumulate_grad_batches", "0"),
        ("blank", "trainer.check_val_every_n_epoch", "0"),
        ("blank", "trainer.gradient_clip_val", "-1"),
        ("blank", "trainer.limit_train_batches", "1.5"),
        ("blank", "trainer.log_every_n_steps", "-1"),
        ("blank", "trainer.max_epochs", "-5"),
        ("blank", "trainer.val_check_interval", "0"),
        ("cifar10", "data.num_workers", "-1"),
        ("cifar10", "data.subset_fraction", "0"),
        ("cifar10", "model.label_smoothing", "2"),
        ("cifar10", "model.muon_lr", "-1"),
        ("cifar10", "model.num_classes", "0"),
        ("cifar10", "model.num_classes", "1"),
        ("gan", "data.eval_samples", "1"),
        ("gan", "model.ema_decay", "1"),
        ("policy_gradient", "data.reward_threshold", ".nan"),
        ("policy_gradient", "model.gamma", "1.1"),
        ("policy_gradient", "model.log_std_init", "99"),
        ("seq2seq", "model.decoding.length_penalty", "1e9"),
        ("seq2seq", "data.eval_batch_size", "100000000000000000000"),
        ("seq2seq", "model.muon_lr", "0"),
        ("seq2seq", "model.recurrent.dropout", "-0.1"),
    ],
)
def test_number_out_of_range_is_one_line_that_names_the_flag(tmp_path, monkeypatch, capsys, name, option, value):
    monkeypatch.chdir(tmp_path)
    assert main(project(name), [*SAMPLE, f"--{option}", value]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"error: --{option}") and value.strip(".") in line and line.count("\n") == 1
    assert not (tmp_path / "runs").exists()
