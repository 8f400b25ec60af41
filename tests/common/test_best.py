"""Best checkpoint: which epoch it is of, and that the summary and the test are about the same one."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from common.io.metrics import read_metrics
from common.run.best import BestCheckpoint

OWN = "{class_path: lightning.pytorch.callbacks.%s, init_args: {%s}}"


def summary_of(done, name: str = "x") -> dict:
    assert done.code == 0, done.err
    return json.loads((done.run(name) / "summary.json").read_text())


def row_of_tested(run: Path, summary: dict) -> dict[str, float]:
    """Validation row of the tested checkpoint's step."""
    step = int(summary["checkpoint"][5:13])
    (row,) = [row for row in read_metrics(run / "metrics.csv") if "val/loss" in row and row["step"] == step]
    return {key: row[key] for key in ("val/accuracy", "val/loss", "step")}


def test_best_validation_is_that_of_the_checkpoint_of(train):
    done = train("--name", "x", "--trainer.val_check_interval", "0.5", "--max_epochs", "3", "--model.lr", "5", "--seed", "1")
    summary = summary_of(done)
    rows = [row for row in read_metrics(done.run("x") / "metrics.csv") if "val/accuracy" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert max(row["val/accuracy"] for row in rows) > max(row["val/accuracy"] for row in rows[1::2]), (
        "else nothing is tested"
    )
    assert summary["best_validation"] == row_of_tested(done.run("x"), summary)
    assert summary["best_validation"]["val/accuracy"] == max(row["val/accuracy"] for row in rows[1::2])


def test_epochs_without_validation_are_not_the_best(train):
    done = train("--name", "x", "--trainer.check_val_every_n_epoch", "2", "--max_epochs", "5", "--model.lr", "1e-30")
    summary = summary_of(done)
    assert summary["checkpoint"] == "best-00000008.ckpt"
    assert summary["best_validation"] == row_of_tested(done.run("x"), summary)


def test_of_equal_epochs_the_later_is_the_best(train):
    done = train("--name", "x", "--model.lr", "1e-30")
    assert summary_of(done)["checkpoint"] == "best-00000004.ckpt"
    assert [path.name for path in (done.run("x") / "checkpoints").glob("best-*")] == ["best-00000004.ckpt"]
    done = train("--name", "x", "--resume", "auto", "--max_epochs", "3")
    assert summary_of(done)["checkpoint"] == "best-00000006.ckpt"


@pytest.mark.parametrize(
    "epochs, best",
    [
        ([(0.5, 1.0), (0.5, 1.0)], 1),
        ([(0.5, 1.0), (0.5, 0.9), (0.5, 0.95)], 1),
        ([(0.5, 1.0), (0.5, 1.1)], 0),
        ([(0.5, 1.0), (0.6, 2.0), (0.6, 1.5), (0.5, 0.1)], 2),
        ([(0.5, None), (0.5, None)], 1),
        ([(0.5, float("nan")), (0.5, 1.0)], 1),
        ([(float("nan"), 1.0), (0.5, 1.0), (float("nan"), 1.0)], 1),
        ([(float("nan"), 1.0)], None),
    ],
)
def test_of_equal_scores_the_lower_loss_is_the_best(tmp_path, epochs, best):
    callback, chosen = BestCheckpoint(tmp_path, "val/accuracy", "max"), None
    for number, (accuracy, loss) in enumerate(epochs):
        score = torch.tensor(accuracy)
        trainer = SimpleNamespace(
            callback_metrics={} if loss is None else {"val/loss": torch.tensor(loss)},
            strategy=SimpleNamespace(reduce_boolean_decision=bool),
        )
        if callback.check_monitor_top_k(trainer, score):
            chosen, callback.best_model_score, callback.kth_best_model_path = number, score, "x"
            callback.best_k_models = {"x": score}
    assert chosen == best


@pytest.mark.parametrize("arguments", ["dirpath: mine", "dirpath: mine, monitor: val/loss", "save_last: true"])
def test_own_checkpoint_callback_leaves_the_tested_one_as_it_is(train, tmp_path, arguments):
    expected = summary_of(train("--name", "without"), "without")
    (tmp_path / "own.yaml").write_text(f"trainer: {{callbacks: [{OWN % ('ModelCheckpoint', arguments)}]}}")
    summary = summary_of(train("--config", "recipes/sample.yaml", "--config", "own.yaml", "--name", "x"))
    assert {key: summary[key] for key in ("checkpoint", "test")} == {key: expected[key] for key in ("checkpoint", "test")}
    assert list((tmp_path / "mine").glob("*.ckpt")) or "dirpath" not in arguments


def test_run_in_a_moved_folder_keeps_its_best_against_worse_ones(train, tmp_path):
    first = summary_of(train("--name", "x"))
    best = first["best_validation"]
    run = tmp_path / "runs" / "toy" / "y"
    run.with_name("x").rename(run)
    done = train("--name", "y", "--resume", "auto", "--max_epochs", "4", "--model.lr", "0.5")
    summary = summary_of(done, "y")
    rows = [row for row in read_metrics(run / "metrics.csv") if "val/accuracy" in row]
    assert summary["best_validation"]["val/accuracy"] == max(row["val/accuracy"] for row in rows) >= best["val/accuracy"]
    assert summary["best_validation"] == row_of_tested(run, summary)
    assert len(list((run / "checkpoints").glob("best-*"))) == 1
