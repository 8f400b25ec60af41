"""Ensemble and kNN-MT: both are evaluated as a run's own test evaluates one network."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import ensemble, knn
from common.cli.main import main
from common.errors import UserError
from projects.seq2seq.knn import KNNConfig
from projects.seq2seq.synthetic import make_pairs
from projects.seq2seq.train import PROJECT

FLAGS = """--data.direction de-en --model.recurrent.embed_dim 16 --model.recurrent.hidden_dim 16 --data.vocab_size 300
--data.max_tokens 400 --model.decoding.length_penalty 0.5 --model.decoding.max_length 9 --max_epochs 1
--trainer.limit_train_batches 4 --accelerator cpu --devices 1 --precision 32-true"""


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> str:
    """60 training pairs and 12 of validation and test each."""
    root = tmp_path_factory.mktemp("pairs")
    lines = [json.dumps({"de": german, "en": english}) for german, english in make_pairs(84, seed=1)]
    for split, begin, end in [("train", 0, 60), ("val", 60, 72), ("test", 72, 84)]:
        (root / f"{split}.jsonl").write_text("\n".join(lines[begin:end]))
    return str(root)


@pytest.fixture(scope="module")
def runs(pairs, tmp_path_factory) -> list[Path]:
    """Two finished runs that differ in their seed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("runs"))
        run_dirs = [Path.cwd() / "runs" / "seq2seq" / f"seed{seed}" for seed in (0, 1)]
        for seed, run_dir in enumerate(run_dirs):
            flags = [*shlex.split(FLAGS), "--data.source", pairs, "--seed", str(seed), "--name", run_dir.name]
            assert main(replace(PROJECT, plot_callbacks=()), flags) == 0
    return run_dirs


def test_an_ensemble_of_one_run_has_the_metrics_of_its_test(runs, pairs):
    for run_dir in runs:
        summary = json.loads((run_dir / "summary.json").read_text())["test"]
        metrics = ensemble.evaluate_ensemble([run_dir], pairs)
        assert metrics == pytest.approx({name: summary[name] for name in metrics})
        assert {"test/bleu_moses_lc", "test/chrf", "test/exact_match"} <= metrics.keys()


def test_the_result_has_each_run_and_the_ensemble(runs, pairs, monkeypatch):
    written: dict[str, dict] = {}
    monkeypatch.setattr("sys.argv", ["ensemble", "two", *map(str, runs), "--data", pairs])
    monkeypatch.setattr("benchmarks.ensemble.write_result", lambda name, result: written.update({name: result}))
    assert ensemble.main() == 0
    result = written["two"]
    assert result["seeds"] == [0, 1] and len(result["per_seed"]["test/bleu"]) == 2
    assert result["ensemble"] == ensemble.evaluate_ensemble(runs, pairs)
    assert result["ensemble"] != ensemble.evaluate_ensemble(runs[:1], pairs)


def test_the_result_has_the_metrics_with_and_without_knn(runs, pairs, monkeypatch):
    written: dict[str, dict] = {}
    monkeypatch.setattr("sys.argv", ["knn", "looked-up", str(runs[0]), "--data", pairs])
    monkeypatch.setattr("benchmarks.knn.write_result", lambda name, result: written.update({name: result}))
    assert knn.main() == 0
    result = written["looked-up"]
    evaluated = result["knn"]
    checkpoints = {path.name for path in (runs[0] / "checkpoints").glob("*.ckpt")}
    assert evaluated["validation"].keys() == checkpoints and evaluated["checkpoint"] in checkpoints
    assert evaluated["validation"][evaluated["checkpoint"]] == max(evaluated["validation"].values())
    # the run has one epoch, whose last weights are its best: without kNN they have the metrics of its test
    assert evaluated["test_without"] == pytest.approx({name: result["mean"][name] for name in evaluated["test_without"]})
    assert evaluated["test"] != evaluated["test_without"]


def test_an_interpolation_weight_of_zero_changes_no_metric(runs, pairs):
    evaluated = knn.evaluate_knn(runs[0], pairs, KNNConfig(interpolation=0.0))
    assert evaluated["test"] == evaluated["test_without"]


def test_a_run_without_checkpoints_is_named(tmp_path, pairs):
    with pytest.raises(UserError, match="no checkpoint"):
        knn.evaluate_knn(tmp_path, pairs, KNNConfig())
