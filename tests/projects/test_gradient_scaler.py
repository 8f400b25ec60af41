"""Gradient scaler (`16-mixed`, here on a CPU): every capstone clips and logs the gradients themselves, not scaled ones."""

from __future__ import annotations

import importlib

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch.nn.utils import get_total_norm

from common.callbacks.gradients import GradientMonitor
from common.cli.parser import CapstoneCLI

CLIP = 0.01
BERT = [
    "--model.checkpoint=tiny",
    "--model.encoder={model_type: bert, hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 2}",
]
SEQ2SEQ = ["--data.vocab_size=300", "--model.transformer.d_model=16", "--model.network=transformer", "--model.muon_lr=0.01"]
FLAGS = {
    "blank": [],
    "cifar10": ["--data.batch_size=8", "--data.val_size=9", "--model.speednet.block_channels=[8,8,8]"],
    "bert_sentiment": [*BERT, "--data.batch_size=8"],
    "seq2seq": SEQ2SEQ,
}


class Norms(Callback):
    """Norm of the gradients that an optimizer steps with."""

    def on_train_start(self, trainer, module):
        self.parameters = list(module.parameters())
        trainer.optimizers[0].register_step_pre_hook(self.measure)

    def measure(self, optimizer, *args):
        assert getattr(optimizer, "grad_scale", None) is None, "nothing is left to be unscaled in the step"
        self.norm = float(get_total_norm([p.grad for p in self.parameters if p.grad is not None]))


@pytest.mark.parametrize("name", FLAGS)
def test_gradients_are_clipped_and_logged_unscaled(name, tmp_path, monkeypatch):
    sizes = {"train": 100, "val": 10, "test": 10}
    for sample in ("seq2seq.data.SAMPLE_SIZES", "bert_sentiment.synthetic.SPLIT_SIZES", "cifar10.synthetic.SPLIT_SIZES"):
        monkeypatch.setattr(f"projects.{sample}", sizes)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    project = importlib.import_module(f"projects.{name}.train").PROJECT
    (tmp_path / "plain.yaml").write_text("seed: 0\n")
    norms = {}
    for precision in ("32-true", "16-mixed"):
        torch.manual_seed(0)
        flags = ["--config", str(tmp_path / "plain.yaml"), "--data.source=sample", *FLAGS[name]]
        module, data, _ = CapstoneCLI(project, flags).request().build()
        stepped = Norms()
        quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        trainer = Trainer(
            accelerator="cpu",
            plugins=[MixedPrecision("16-mixed", "cpu", scaler)] if precision == "16-mixed" else [],
            max_steps=1,
            log_every_n_steps=1,
            limit_val_batches=0,
            gradient_clip_val=CLIP,
            callbacks=[GradientMonitor(tmp_path), stepped],
            use_distributed_sampler=False,
            **quiet,
        )
        trainer.fit(module, datamodule=data)
        norms[precision] = float(trainer.callback_metrics["grad/norm"])
    assert stepped.norm == pytest.approx(CLIP, rel=0.02)
    assert norms["16-mixed"] == pytest.approx(norms["32-true"], rel=0.1) and norms["32-true"] > CLIP
