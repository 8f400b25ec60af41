"""A GPU never waits: on a pretended device every capstone trains and validates without a host sync in an unlogged step."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from lightning.pytorch import Trainer

from common.cli.parser import CapstoneCLI
from common.io.loggers import csv_logger
from common.io.run_dir import RunDir
from common.run.build import run_callbacks
from pretend_device import Phases, PretendDevice, pretend_strategy

SIZES = {"train": 96, "val": 24, "test": 24}
SAMPLES = ("seq2seq.data.SAMPLE_SIZES", "bert_sentiment.synthetic.SPLIT_SIZES", "cifar10.synthetic.SPLIT_SIZES")
SHORT = ["--max_epochs=1", "--trainer.limit_train_batches=5", "--trainer.log_every_n_steps=3", "--checkpoint_every=0"]
SHORT += ["--trainer.limit_val_batches=2", "--trainer.check_val_every_n_epoch=1", "--trainer.max_steps=-1"]
SPEEDNET = [
    "--model.speednet.block_channels=[8,8,8]",
    "--data.batch_size=8",
    "--data.val_size=16",
    "--data.eval_batch_size=8",
]
WORDS = ["--data.vocab_size=300", "--data.max_tokens=100", "--data.eval_batch_size=8", "--model.decoding.max_length=8"]
LSTM = ["--model.recurrent.embed_dim=16", "--model.recurrent.hidden_dim=16"]
TRANSFORMER = ["--model.transformer={d_model: 16, ff_dim: 16, num_heads: 2, num_layers: 1}"]
BERT = ["--model.encoder={model_type: bert, hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 2}"]
POINTS = ["--model.mlp.hidden_dim=8", "--data.batch_size=8", "--data.eval_samples=24", "--data.eval_batch_size=12"]
IMAGES = ["--model.resnet.channels=4", "--model.latent_dim=4", "--data.batch_size=4", "--data.eval_samples=16"]
IMAGES += ["--data.eval_batch_size=8", "--model.features=pixels"]
EPISODES = ["--model.hidden_dims=[8]", "--data.num_envs=4", "--data.num_steps=16", "--data.eval_episodes=2"]
EPISODES += ["--data.test_episodes=2", "--data.max_episode_steps=20", "--data.rollouts_per_epoch=5"]
# (capstone, recipe): flags that make it tiny
CASES = {
    ("blank", "default"): ["--data.batch_size=8"],
    ("cifar10", "default"): SPEEDNET,
    ("cifar10", "accuracy"): SPEEDNET,
    ("cifar10", "resnet18"): [*SPEEDNET, "--model.network=speednet", "--data.num_workers=0"],
    ("seq2seq", "default"): [*WORDS, *LSTM],
    ("seq2seq", "transformer"): [*WORDS, *TRANSFORMER],
    ("bert_sentiment", "sample"): [*BERT, "--data.batch_size=8", "--data.eval_batch_size=8"],
    ("gan", "default"): POINTS,
    ("gan", "images"): IMAGES,
    ("policy_gradient", "default"): EPISODES,
    ("policy_gradient", "reinforce"): EPISODES,
    ("policy_gradient", "pendulum"): EPISODES,
}


@pytest.fixture(autouse=True)
def small_samples(monkeypatch):
    for sample in SAMPLES:
        monkeypatch.setattr(f"projects.{sample}", SIZES)
    monkeypatch.setattr("projects.gan.data.SAMPLE_SIZES", {"train": 150, "test": 20})
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def fit(capstone: str, recipe: str, flags: list[str], folder: Path) -> tuple[PretendDevice, Phases]:
    """Fits a capstone on the pretended device, with the callbacks of a run."""
    project = importlib.import_module(f"projects.{capstone}.train").PROJECT
    path = project.folder / "recipes" / f"{recipe}.yaml"
    source = [] if capstone in ("gan", "policy_gradient") and recipe != "images" else ["--data.source=sample"]
    request = CapstoneCLI(project, ["--config", str(path), "--seed=0", *source, *SHORT, *flags]).request()
    with PretendDevice() as device:
        module, data, options = request.build()
        phases = Phases(device)
        run_dir = RunDir(folder)
        run_dir.checkpoints.mkdir()
        trainer = Trainer(
            **options
            | {
                "accelerator": "auto",
                "devices": 1,
                "strategy": pretend_strategy(),
                "precision": "32-true",
                "callbacks": [phases, *run_callbacks(request, run_dir, data)],
                "logger": csv_logger(folder),
                "default_root_dir": str(folder),
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "use_distributed_sampler": False,
                "num_sanity_val_steps": 0,
            }
        )
        trainer.fit(module, datamodule=data)
        data.teardown("fit")
    return device, phases


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_no_step_waits_for_the_device(case, tmp_path):
    device, phases = fit(*case, CASES[case], tmp_path)
    assert phases.trained["step"] >= 3 and phases.trained["logged step"] and phases.trained["validation step"]
    for phase in ("step", "logged step", "validation step"):
        count, lines = device.most(phase)
        print(f"{case} {phase}: {count}")
        for where, times in lines.most_common():
            print(f"    {times} x {where}")
