"""Translators that translate together, or look up their training pairs, are scored as a run's own test scores one."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from benchmarks import ensemble, neighbours
from common.cli.main import main
from common.errors import UserError
from projects.seq2seq.neighbours import NeighbourOptions
from projects.seq2seq.sample import make_pairs
from projects.seq2seq.train import PROJECT

FLAGS = """--data.direction de-en --model.width 16 --model.hidden 16 --data.vocabulary_size 300 --data.batch_tokens 400
--model.length_penalty 0.5 --model.max_length 9 --max_epochs 1 --trainer.limit_train_batches 4
--accelerator cpu --devices 1 --precision 32-true"""


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> str:
    """120 training pairs and 20 of validation and test each."""
    root = tmp_path_factory.mktemp("pairs")
    lines = [json.dumps({"de": german, "en": english}) for german, english in make_pairs(160, seed=1)]
    for split, begin, end in [("train", 0, 120), ("val", 120, 140), ("test", 140, 160)]:
        (root / f"{split}.jsonl").write_text("\n".join(lines[begin:end]))
    return str(root)


@pytest.fixture(scope="module")
def runs(pairs, tmp_path_factory) -> list[Path]:
    """Two finished runs that differ in their seed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("runs"))
        folders = [Path.cwd() / "runs" / "seq2seq" / f"seed{seed}" for seed in (0, 1)]
        for seed, folder in enumerate(folders):
            flags = [*shlex.split(FLAGS), "--data.source", pairs, "--seed", str(seed), "--name", folder.name]
            assert main(PROJECT, flags) == 0
    return folders


def test_one_run_scores_what_its_own_test_said(runs, pairs):
    for folder in runs:
        said = json.loads((folder / "summary.json").read_text())["test"]
        found = ensemble.together([folder], pairs)
        assert found == pytest.approx({name: said[name] for name in found})
        assert {"test/bleu_tokenized", "test/chrf", "test/exact_match"} <= found.keys()


def test_both_stand_beside_each_alone(runs, pairs, monkeypatch):
    written: dict[str, dict] = {}
    monkeypatch.setattr("sys.argv", ["ensemble", "two", *map(str, runs), "--data", pairs])
    monkeypatch.setattr("benchmarks.ensemble.write_result", lambda name, figures: written.update({name: figures}))
    assert ensemble.main() == 0
    figures = written["two"]
    assert figures["seeds"] == [0, 1] and len(figures["each"]["test/bleu"]) == 2
    assert figures["ensemble"] == ensemble.together(runs, pairs)
    assert figures["ensemble"] != ensemble.together(runs[:1], pairs)


def test_neighbours_stand_beside_the_network_alone(runs, pairs, monkeypatch):
    written: dict[str, dict] = {}
    monkeypatch.setattr("sys.argv", ["neighbours", "looked-up", str(runs[0]), "--data", pairs])
    monkeypatch.setattr("benchmarks.neighbours.write_result", lambda name, figures: written.update({name: figures}))
    assert neighbours.main() == 0
    figures = written["looked-up"]
    found = figures["neighbours"]
    checkpoints = {path.name for path in (runs[0] / "checkpoints").glob("*.ckpt")}
    assert found["validation"].keys() == checkpoints and found["checkpoint"] in checkpoints
    assert found["validation"][found["checkpoint"]] == max(found["validation"].values())
    # the run has one epoch, whose last weights are its best: without neighbours they score as they did in its test
    assert found["test_without"] == pytest.approx({name: figures["mean"][name] for name in found["test_without"]})
    assert found["test"] != found["test_without"]


def test_neighbours_without_a_share_change_no_score(runs, pairs):
    found = neighbours.with_neighbours(runs[0], pairs, NeighbourOptions(share=0.0))
    assert found["test"] == found["test_without"]


def test_a_run_without_checkpoints_is_named(tmp_path, pairs):
    with pytest.raises(UserError, match="no checkpoint"):
        neighbours.with_neighbours(tmp_path, pairs, NeighbourOptions())
