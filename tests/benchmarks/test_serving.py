"""Serving: the lines in docs/serving.md serve exported folders, and answer as the checkpoint does."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from commands import ROOT, environment, free_port
from projects.cifar10 import export as export_cifar10
from projects.cifar10.inference import load as load_classifier
from projects.cifar10.module import CIFAR10Module
from projects.seq2seq import export as export_seq2seq
from projects.seq2seq.module import Seq2SeqModule
from projects.seq2seq.synthetic import make_pairs
from projects.seq2seq.tokenizer import decode, train_bpe
from trained import save_checkpoint

SECONDS = 120.0  # for a server to start, on a machine with other load


def code_of(name: str) -> str:
    """Code of a server in the document."""
    found = re.search(rf"<!-- serve: {name} -->\n```python\n(.*?)```", (ROOT / "docs" / "serving.md").read_text(), re.DOTALL)
    assert found
    return found[1]


@contextmanager
def serve(name: str, folder: Path, cwd: Path) -> Iterator[str]:
    """Address of a server of the document's code, for a folder."""
    port = free_port()
    code = code_of(name)
    assert "FOLDER" in code and "port=8000" in code
    (cwd / "server.py").write_text(code.replace("FOLDER", str(folder)).replace("port=8000", f"port={port}"))
    with (cwd / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "server.py"], cwd=cwd, env=environment(cwd), stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield f"http://127.0.0.1:{port}/predict"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ask(address: str, request: dict[str, Any], log: Path) -> dict[str, Any]:
    """The server's answer, once it is up."""
    deadline = time.monotonic() + SECONDS
    post = urllib.request.Request(address, json.dumps(request).encode(), {"Content-Type": "application/json"})
    while True:
        try:
            with urllib.request.urlopen(post, timeout=SECONDS) as answer:
                return json.loads(answer.read())
        except urllib.error.URLError as error:
            assert time.monotonic() < deadline, f"{error}\n{log.read_text()}"
            time.sleep(0.3)


@pytest.mark.slow
def test_litserve_serves_onnx(tmp_path):
    for package in ("litserve", "onnxscript"):
        pytest.importorskip(package)
    module = CIFAR10Module(speednet={"block_channels": (8, 8, 8)})
    checkpoint = save_checkpoint(tmp_path / "best.ckpt", module, "cifar10", class_names=list("abcdefghij"))
    assert export_cifar10.main(["--checkpoint", str(checkpoint), "--to", str(tmp_path / "model")]) == 0
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    with serve("onnx", tmp_path / "model", tmp_path) as address:
        answer = ask(address, {"images": images.tolist()}, tmp_path / "log.txt")
    expected = load_classifier(checkpoint)(images, tta=0)
    np.testing.assert_allclose(answer["probabilities"], expected.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_litserve_serves_ctranslate2(tmp_path):
    for package in ("litserve", "ctranslate2"):
        pytest.importorskip(package)
    pairs = make_pairs(60, seed=1)
    tokenizer = train_bpe([line for pair in pairs for line in pair], 300)
    sizes = (tokenizer.get_vocab_size(),) * 2
    module = Seq2SeqModule(sizes, "transformer", transformer={"d_model": 16, "ff_dim": 24, "num_heads": 4, "num_layers": 2})
    module.net.output_layer.bias.data[[0, 1]] = -50.0  # PAD and BOS, which a search leaves out
    module.net.output_layer.bias.data[2] = 3.0  # it ends
    entries = {"tokenizers": [tokenizer.to_str()] * 2, "languages": ["de", "en"], "length_limit": [0.0, 200.0]}
    checkpoint = save_checkpoint(tmp_path / "best.ckpt", module, "seq2seq", max_length=64, **entries)
    assert export_seq2seq.main(["--checkpoint", str(checkpoint), "--to", str(tmp_path / "model")]) == 0
    with serve("ctranslate2", tmp_path / "model", tmp_path) as address:
        answer = ask(address, {"sentence": pairs[0][0]}, tmp_path / "log.txt")
    translator = importlib.import_module("ctranslate2").Translator(str(tmp_path / "model" / "ctranslate2"))
    (result,) = translator.translate_batch([tokenizer.encode(pairs[0][0]).tokens], beam_size=5)
    assert answer == {"translation": decode(tokenizer, map(tokenizer.token_to_id, result.hypotheses[0]))}
