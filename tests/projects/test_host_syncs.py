"""A GPU never waits: on a pretended device every capstone trains and validates without a host sync in an unlogged step."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from common.cli.parser import CapstoneCLI
from common.errors import UserError
from common.io.csv_metrics import csv_logger
from common.io.run_dir import RunDir
from common.run.build import run_callbacks
from pretend_device import Phases, PretendDevice, PretendStrategy
from projects.blank.module import BlankModule

DOCS = Path(__file__).resolve().parents[2] / "docs" / "gpu.md"
SIZES = {"train": 96, "val": 24, "test": 24}
SAMPLES = ("seq2seq.data.SAMPLE_SIZES", "bert_sentiment.synthetic.SPLIT_SIZES", "cifar10.synthetic.SPLIT_SIZES")
SHORT = ["--max_epochs=1", "--trainer.limit_train_batches=3", "--trainer.log_every_n_steps=2", "--checkpoint_every=0"]
SHORT += ["--trainer.limit_val_batches=1", "--trainer.check_val_every_n_epoch=1", "--trainer.max_steps=-1"]
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
POINTS += ["--model.iterations_per_step=2"]
IMAGES = ["--model.resnet.channels=4", "--model.latent_dim=4", "--data.batch_size=4", "--data.eval_samples=16"]
IMAGES += ["--data.eval_batch_size=8", "--model.features=pixels", "--model.n_critic=2"]
EPISODES = ["--model.hidden_dims=[8]", "--data.num_envs=4", "--data.num_steps=16", "--data.eval_episodes=2"]
EPISODES += ["--data.test_episodes=2", "--data.max_episode_steps=20", "--data.rollouts_per_epoch=5"]
EPISODES += ["--model.num_minibatches=1"]
# (capstone, recipe): flags that make it tiny
CASES = {
    ("blank", "default"): ["--data.batch_size=8"],
    ("cifar10", "default"): SPEEDNET,
    ("cifar10", "accuracy"): [*SPEEDNET, "--trainer.limit_train_batches=5"],  # every fifth step is Lookahead's
    ("cifar10", "resnet18"): [*SPEEDNET, "--model.network=speednet", "--data.num_workers=0"],
    ("seq2seq", "default"): [*WORDS, *LSTM],
    ("seq2seq", "transformer"): [*WORDS, *TRANSFORMER],
    ("bert_sentiment", "sample"): [*BERT, "--data.batch_size=8", "--data.eval_batch_size=8"],
    ("gan", "default"): POINTS,
    ("gan", "images"): IMAGES,
    ("policy_gradient", "default"): [*EPISODES, "--model.update_epochs=2"],
    ("policy_gradient", "reinforce"): EPISODES,
    ("policy_gradient", "pendulum"): [*EPISODES, "--model.update_epochs=2"],
}


@pytest.fixture(autouse=True)
def small_samples(monkeypatch):
    for sample in SAMPLES:
        monkeypatch.setattr(f"projects.{sample}", SIZES)
    monkeypatch.setattr("projects.gan.data.SAMPLE_SIZES", {"train": 150, "test": 20})
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def fit(capstone: str, recipe: str, flags: list[str], folder: Path, device: PretendDevice | None) -> tuple[Any, Phases]:
    """Fits a capstone with the callbacks of a run, on the pretended device or on the CPU."""
    project = importlib.import_module(f"projects.{capstone}.train").PROJECT
    path = project.folder / "recipes" / f"{recipe}.yaml"
    source = [] if capstone in ("gan", "policy_gradient") and recipe != "images" else ["--data.source=sample"]
    torch.manual_seed(0)
    request = CapstoneCLI(project, ["--config", str(path), "--seed=0", *source, *SHORT, *flags]).request()
    phases = Phases(device or PretendDevice())
    with device or nullcontext():
        module, data, options = request.build()
        run_dir = RunDir(folder)
        run_dir.checkpoints.mkdir()
        options |= {
            "accelerator": "cpu" if device is None else "auto",
            "devices": 1,
            "strategy": "auto" if device is None else PretendStrategy(),
            "precision": "32-true",
            "callbacks": [phases, *run_callbacks(request, run_dir, data, [])],
            "logger": csv_logger(folder),
            "default_root_dir": str(folder),
            "use_distributed_sampler": False,
            "num_sanity_val_steps": 0,
        }
        quiet = dict.fromkeys(("enable_progress_bar", "enable_model_summary"), False)
        try:
            Trainer(**options | quiet).fit(module, datamodule=data)
        finally:
            data.teardown("fit")
    return module, phases


def table() -> dict[tuple[str, str], list[int]]:
    """The table of docs/gpu.md: (capstone, recipe) -> syncs in a step, in a validation step, each before and after."""
    rows = re.findall(r"^\| `(\w+)` +\| `(\w+)` +\| (.*) \|$", DOCS.read_text(), re.MULTILINE)
    return {(capstone, recipe): [int(cell) for cell in cells.split("|")] for capstone, recipe, cells in rows}


def test_the_table_has_every_capstone():
    assert table().keys() == CASES.keys()


SLOW = {("cifar10", "accuracy"), ("cifar10", "resnet18"), ("policy_gradient", "reinforce"), ("policy_gradient", "pendulum")}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow if case in SLOW else ()) for case in CASES], ids="-".join
)
def test_no_step_waits_for_the_device(case, tmp_path):
    _, step, _, validation = table()[case]
    device = PretendDevice()
    _, phases = fit(*case, CASES[case], tmp_path, device)
    assert phases.trained["step"] >= 2 and phases.trained["logged step"] and phases.trained["validation step"]
    for phase, count in [("step", step), ("validation step", validation)]:
        found, lines = device.most(phase)
        assert found == count, "\n".join([phase, *(f"{times} x {where}" for where, times in lines.most_common())])


@pytest.mark.parametrize("case", [("blank", "default"), ("gan", "default")], ids="-".join)
def test_the_pretended_device_trains_as_the_cpu_does(case, tmp_path):
    states = []
    for name, device in [("device", PretendDevice()), ("cpu", None)]:
        (tmp_path / name).mkdir()
        states.append(fit(*case, CASES[case], tmp_path / name, device)[0].state_dict())
    for key, value in states[1].items():
        assert torch.equal(value, states[0][key]), key


# what the pretended device finds, planted in a training step


def plant(monkeypatch: pytest.MonkeyPatch, fault: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Replaces the loss of `blank` by `fault` of the inputs (batch, features) and the loss."""
    usual = BlankModule.compute_loss
    monkeypatch.setattr(BlankModule, "compute_loss", lambda self, batch: fault(batch[0], usual(self, batch)))


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (lambda inputs, loss: loss * (loss.item() > 0), "_local_scalar_dense"),
        (lambda inputs, loss: loss + inputs[inputs > 100].sum(), "boolean index"),
        (lambda inputs, loss: loss + loss.cpu().to(loss.device, non_blocking=True), "to the host"),
    ],
    ids=["item", "boolean index", "copy"],
)
def test_a_planted_host_sync_is_found_with_its_line(fault, kind, tmp_path, monkeypatch):
    plant(monkeypatch, fault)
    device = PretendDevice()
    fit("blank", "default", CASES["blank", "default"], tmp_path, device)
    _, lines = device.most("step")
    here = f"tests/projects/test_host_syncs.py:{fault.__code__.co_firstlineno} ({kind})"
    assert here in lines


def test_a_planted_tensor_on_the_cpu_is_refused(tmp_path, monkeypatch):
    plant(monkeypatch, lambda inputs, loss: (loss * torch.ones(inputs.shape[1])).mean())
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        fit("blank", "default", CASES["blank", "default"], tmp_path, PretendDevice())


# values that are not finite, of which the host learns later


@pytest.mark.parametrize(("every", "found"), [("0", "logged step"), ("1", "step")])
def test_a_loss_that_is_not_finite_stops_before_anything_is_saved(every, found, tmp_path, monkeypatch):
    steps = []
    plant(monkeypatch, lambda inputs, loss: steps.append(loss) or (loss if len(steps) > 1 else loss * torch.nan))
    device = PretendDevice()
    with pytest.raises(UserError) as caught:
        fit("blank", "default", [*CASES["blank", "default"], f"--checkpoint_every={every}"], tmp_path, device)
    assert str(caught.value).startswith(
        "stopped after step 1: since step 1 the loss is nan, and the weights with it; there is no checkpoint yet. "
    )
    assert device.phase == found and not list(RunDir(tmp_path).checkpoints.iterdir())


def test_at_a_logged_step_it_stops_before_the_weights_are_touched(tmp_path, monkeypatch):
    plant(monkeypatch, lambda inputs, loss: loss * torch.nan)
    with pytest.raises(UserError, match="stopped before step 1: the loss is nan; there is no checkpoint yet"):
        fit("blank", "default", [*CASES["blank", "default"], "--trainer.log_every_n_steps=1"], tmp_path, PretendDevice())
