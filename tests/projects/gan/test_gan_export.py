"""Export: the folder and its ONNX generate what the checkpoint does: EMA weights, batch-norm statistics up to date."""

from __future__ import annotations

import pytest
import torch

from projects.gan import export
from projects.gan.inference import load, sample_latents
from projects.gan.module import GANModule
from trained import run_onnx, save_checkpoint

NO_PENALTY = {"r1_weight": 0.0, "r2_weight": 0.0, "latent_dim": 5}
IMAGES = {"data_kind": "images", "num_classes": 3, "data_std": 1.0}
DCGAN, RESNET = ({**IMAGES, "network": name, name: {"channels": 4}} for name in ("dcgan", "resnet"))
POINTS = {"data_kind": "points", "num_classes": 8, "data_std": 2.0, "mlp": {"hidden_dim": 8, "num_latent_codes": 6}}
NETWORKS = {
    "conditional_dcgan": ({**DCGAN, "conditional": True}, [0, 2]),
    "resnet_without_ema": ({**RESNET, "ema_decay": 0.0}, []),
    "points": (POINTS, []),
}


@pytest.mark.parametrize(
    "network", ["conditional_dcgan", "points", pytest.param("resnet_without_ema", marks=pytest.mark.slow)]
)
def test_an_exported_generator_generates_as_its_checkpoint(network, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    monkeypatch.setattr("projects.gan.module.BN_SAMPLES", 500)  # which would take seconds
    options, trained_labels = NETWORKS[network]
    module = GANModule(**NO_PENALTY, **options)
    for name, parameter in module.named_parameters():
        if "ema_generator" in name:
            parameter.data.mul_(1.1)  # other weights than the generator's own
    names = {"class_names": ["a", "b", "c"], "trained_labels": trained_labels, "data_source": "ring8"}
    checkpoint = save_checkpoint(tmp_path / "best.ckpt", module, "gan", **names)
    assert export.main(["--checkpoint", str(checkpoint), "--to", str(tmp_path / "model")]) == 0
    ours, again = load(checkpoint), load(tmp_path / "model")
    assert again.classes == ours.classes and torch.equal(again(9, seed=1), ours(9, seed=1)), "exactly"
    for size in (1, 9):
        z = sample_latents(size, 5, seed=size)
        labels = ours.labels("c", size) if trained_labels else None
        inputs = {"z": z} if labels is None else {"z": z, "labels": labels}
        (found,) = run_onnx(tmp_path / "model" / "model.onnx", **inputs)
        torch.testing.assert_close(torch.from_numpy(found), ours.generate(z, labels), rtol=1e-4, atol=1e-5)
