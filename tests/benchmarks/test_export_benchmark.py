"""Export benchmark: each row is of a run, its differences and accuracies are those of the export, its table has them all."""

from __future__ import annotations

import json

import pytest

from benchmarks import export as benchmark
from benchmarks import results
from benchmarks.tables.export import export_table
from common.cli.main import main as train
from projects.blank.train import PROJECT


def test_a_run_is_measured_beside_torch_and_quick_writes_nothing(tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxscript")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("common.run.summary.draw_curves", lambda *args: None)
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    seconds = [[2.0] * 2, [0.5] * 2]  # of torch and of ONNX
    monkeypatch.setattr(benchmark, "interleave", lambda sides, repeats: seconds)
    assert train(PROJECT, ["--data.source", "sample", "--name", "a", "--max_epochs", "1", "--accelerator", "cpu"]) == 0
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["export", "runs/blank/a", "--quick"])
    benchmark.main()
    row = json.loads(capsys.readouterr().out)
    assert row["project"] == "blank" and row["safetensors"] == {"difference": 0.0} and row["onnx"]["difference"] < 1e-4
    assert row["onnx"]["batch_1"] == {"torch_per_second": 0.5, "per_second": 2.0, "ratio": 4.0}
    assert row["onnx"]["batch_64"] == {"torch_per_second": 32.0, "per_second": 128.0, "ratio": 4.0}
    assert "int8" not in row and not (tmp_path / "results").exists()


def speeds(*ratios: float) -> dict:
    return {f"batch_{i}": {"torch_per_second": 1.0, "per_second": ratio, "ratio": ratio} for i, ratio in enumerate(ratios)}


def test_the_table_has_every_format_of_every_run(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    assert export_table() == "Not measured yet: `python -m benchmarks.export RUN_DIR`.\n"
    test = {"metric": "accuracy", "float32": 91.25, "int8": 90.5, "p_value": 0.3, "count": 10, "test": "x", "kept": True}
    first = {
        "onnx": {"difference": 3.2e-7, **speeds(1.5, 2.0)},
        "int8": {"difference": 0.1, **speeds(3.0, 4.0)},
        "test": test,
    }
    rows = [
        {"project": "cifar10", "data_source": "sample", "safetensors": {"difference": 0.0}, **first},
        {"project": "seq2seq", "data_source": "m", "safetensors": {"difference": 0.0}, "ctranslate2": {"difference": 1e-6}},
    ]
    (tmp_path / "export.json").write_text(json.dumps({"device": "CPU", "rows": rows}))
    assert export_table().splitlines() == [
        "| on CPU | data | safetensors | ONNX | CTranslate2 | int8 | int8, validation |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| `cifar10` | `sample` | 0 | 3e-07; 1.5×, 2.0× | – | 0.1; 3.0×, 4.0× | accuracy 90.5, float32 91.2 (p = 0.30) |",
        "| `seq2seq` | `m` | 0 | – | 1e-06 | – | – |",
    ]
