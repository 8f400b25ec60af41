"""Translators that translate together are scored as a run's own test scores one."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from benchmarks import ensemble
from common.cli import main
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
