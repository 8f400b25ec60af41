"""Export: the folder and its ONNX predict as the checkpoint does, from raw features."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from projects.blank import export
from projects.blank.inference import load
from projects.blank.module import BlankModule
from trained import run_card, run_onnx, save_checkpoint


def test_an_exported_regressor_predicts_as_its_checkpoint(tmp_path):
    pytest.importorskip("onnxscript")
    module, rows = BlankModule(2, hidden_dim=8), torch.rand(50, 2) * 1000 - 300
    module.net.init_stats(rows, rows.sum(1))
    checkpoint = save_checkpoint(tmp_path / "best.ckpt", module, "blank", feature_names=["a", "b"])
    assert export.main(["--checkpoint", str(checkpoint), "--to", str(tmp_path / "model")]) == 0
    expected = load(checkpoint)(rows.tolist())
    assert load(tmp_path / "model")(rows.tolist()) == expected, "exactly"
    for size in (1, 50):
        (found,) = run_onnx(tmp_path / "model" / "model.onnx", rows=rows[:size])
        np.testing.assert_allclose(found, expected[:size], rtol=1e-4)
    by_load, by_onnx = run_card(tmp_path / "model", rows=rows.numpy())
    assert by_load["predictions"] == expected
    np.testing.assert_allclose(by_onnx["predictions"], expected, rtol=1e-4)
    assert "Features, in this order: a, b." in (tmp_path / "model" / "README.md").read_text()
