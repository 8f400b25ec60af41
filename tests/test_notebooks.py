"""Notebooks: each section of `from_python` trains a capstone by Lightning's Trainer alone and uses its checkpoint."""

from __future__ import annotations

import ast
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from commands import same
from common.io.checkpoints import read_checkpoint
from projects.bert_sentiment import synthetic as opinions
from projects.cifar10 import synthetic as shapes
from projects.cifar10.tta import predict_logits
from projects.gan.inference import sample_latents
from projects.seq2seq import data as pairs

PATH = Path(__file__).resolve().parents[1] / "notebooks" / "from_python.ipynb"
CELLS = json.loads(PATH.read_text())["cells"]
SIZES = {"train": 400, "val": 40, "test": 40}  # of the samples, in place of thousands


def code_by_heading() -> dict[str, list[str]]:
    """Code cells by the heading above them."""
    found: dict[str, list[str]] = {}
    for cell in CELLS:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            heading = text.splitlines()[0].strip("# `")
        else:
            found.setdefault(heading, []).append(text)
    return found


CODE = code_by_heading()
SETUP, *CAPSTONES = CODE


def run(cell: str, names: dict[str, Any]) -> Any:
    """Runs a cell; returns the value of its last line, if that is an expression, as a notebook shows it."""
    *body, last = ast.parse(cell).body
    is_value = isinstance(last, ast.Expr)
    exec(compile(ast.Module(body if is_value else [*body, last], []), str(PATH), "exec"), names)
    return eval(compile(ast.Expression(last.value), str(PATH), "eval"), names) if is_value else None


def expected(names: dict[str, Any], capstone: str) -> Any:
    """What the section's last cell shows, by the module that was trained in place of its checkpoint."""
    module = names["module"].eval()
    if capstone == "blank":
        return module(torch.tensor([[0.5, 0.5], [-0.5, 0.0]]))
    if capstone == "cifar10":
        return [names["data"].class_names[label] for label in predict_logits(module.net, names["images"]).argmax(1)]
    if capstone == "bert_sentiment":
        ids = names["data"].tokenizer(["a moving film", "the plot is dull"], padding=True, return_tensors="pt")
        return (module(ids["input_ids"], ids["attention_mask"]) / module.temperature).softmax(1)
    if capstone == "gan":
        return module(sample_latents(4, module.hparams["latent_dim"], seed=0))
    if capstone == "policy_gradient":
        return float(names["agent"].evaluate([0]).returns)
    return names["translator"](["drei Hunde laufen ."], names["GenerationConfig"](num_beams=3, max_length=10))


@pytest.mark.parametrize("capstone", CAPSTONES)
@torch.no_grad()
def test_a_capstone_is_trained_and_used_from_python(capstone, monkeypatch, tmp_path, tmp_path_factory):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("folder")))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for sizes in ((shapes, "SPLIT_SIZES"), (opinions, "SPLIT_SIZES"), (pairs, "SAMPLE_SIZES")):
        monkeypatch.setattr(*sizes, SIZES)
    names: dict[str, Any] = {}
    with torch.enable_grad():
        shown = [run(cell, names) for cell in (*CODE[SETUP], *CODE[capstone])][-1]
    (checkpoint,) = names["folder"].iterdir()
    assert read_checkpoint(checkpoint)["project"] == capstone == checkpoint.stem
    assert same(read_checkpoint(checkpoint)["state_dict"], names["module"].state_dict())
    value = expected(names, capstone)
    if isinstance(value, list):
        assert shown == value
    else:
        torch.testing.assert_close(torch.as_tensor(shown), torch.as_tensor(value), rtol=1e-4, atol=1e-5)
    assert not any(tmp_path.iterdir()), "nothing is written elsewhere"


def test_every_capstone_has_a_section():
    assert sorted(CAPSTONES) == sorted(path.parent.name for path in PATH.parents[1].glob("projects/*/train.py"))


def test_the_notebook_has_no_outputs():
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in CELLS)
