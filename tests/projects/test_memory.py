"""Memory of a long run: after 120 epochs a training holds what it held after 20, whatever is logged, saved and plotted."""

from __future__ import annotations

import gc
import json
import os
from importlib import import_module
from pathlib import Path

import pytest
from lightning.pytorch import Callback

from commands import CPU
from common.cli.main import start
from projects.seq2seq.synthetic import make_pairs

EPOCHS, WARMUP_EPOCHS = 120, 20
BOUND = 6.0  # MB; a tensor of a batch that is kept in each step is more
CACHES = {"seq2seq": 14.0}  # MB; of BPE dropout and of sacrebleu, which are of limited size and still fill
FLAGS = {
    "blank": ["--data.source", "sample", "--data.batch_size", "256"],
    "cifar10": ["--data.source", "sample", "--data.val_size", "20", "--data.batch_size", "20"],
    "bert_sentiment": ["--data.source", "sample", "--model.checkpoint", "tiny", "--data.batch_size", "8"],
    "seq2seq": ["--data.source", "pairs", "--data.direction", "de-en", "--data.max_tokens", "200", "--data.val_size", "20"],
    "gan": ["--data.source", "ring8", "--data.steps_per_epoch", "2", "--data.eval_samples", "64"],
    "policy_gradient": ["--data.num_envs", "2", "--data.num_steps", "16", "--data.rollouts_per_epoch", "2"],
}
FLAGS["cifar10"] += ["--model.speednet.block_channels", "[8,8,8]"]
FLAGS["seq2seq"] += ["--model.recurrent.embed_dim", "16", "--model.recurrent.hidden_dim", "16", "--data.vocab_size", "300"]
FLAGS["seq2seq"] += ["--model.decoding.max_length", "8", "--trainer.check_val_every_n_epoch", "5"]
FLAGS["gan"] += ["--model.mlp.hidden_dim", "16", "--model.latent_dim", "4", "--model.iterations_per_step", "2"]
FLAGS["policy_gradient"] += ["--model.hidden_dims", "[16]", "--data.eval_episodes", "2", "--data.max_episode_steps", "20"]
FLAGS["policy_gradient"] += ["--model.num_minibatches", "1", "--data.reward_threshold", "1000"]
SHORT = ["--max_epochs", str(EPOCHS), "--trainer.limit_val_batches", "1", "--trainer.limit_test_batches", "0"]
SHORT += ["--trainer.log_every_n_steps", "1", "--checkpoint_every", "0", "--name", "long"]


def resident_megabytes() -> float:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


class Memory(Callback):
    """Resident memory after the first epochs, and in the last."""

    def __init__(self) -> None:
        self.megabytes: list[float] = []

    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch in (WARMUP_EPOCHS, EPOCHS - 1):
            self.megabytes.append(resident_megabytes())


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory as Linux counts it")
@pytest.mark.parametrize("name", FLAGS)
def test_memory_stays_flat_over_the_epochs(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *args, **options: None)  # which fills caches of its own
    monkeypatch.setattr("common.run.summary.draw_curves", lambda *args: None)
    (tmp_path / "plain.yaml").write_text("seed: 0\n")
    (tmp_path / "pairs").mkdir()
    lines = [json.dumps({"de": german, "en": english}) for german, english in make_pairs(100, seed=1)]
    (tmp_path / "pairs/train.jsonl").write_text("\n".join(lines))
    batches = [] if name in ("gan", "policy_gradient") else ["--trainer.limit_train_batches", "2"]
    memory = Memory()
    project = import_module(f"projects.{name}.train").PROJECT
    start(project, ["--config", "plain.yaml", *CPU, *FLAGS[name], *SHORT, *batches], [memory])
    first, last = memory.megabytes
    assert last - first < BOUND + CACHES.get(name, 0.0)
