"""Fixtures of the translation tests: a small folder of sentence pairs, and runs of the command line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from data_fixtures import SIZES

from commands import CPU, Command, commands
from common.cli.main import main
from projects.seq2seq import data as data_module
from projects.seq2seq.synthetic import make_pairs
from projects.seq2seq.train import PROJECT

TINY = ["--model.recurrent.embed_dim", "16", "--model.recurrent.hidden_dim", "16", "--data.vocab_size", "300"]
TINY += ["--data.direction", "de-en", "--data.max_tokens", "400", "--data.lowercase", "none"]
TINY += ["--max_epochs", "1", "--trainer.log_every_n_steps", "1"]
TINY += ["--model.decoding.max_length", "24"]  # an untrained network generates as long as it may
EXACT = ["--precision", "64-true", "--model.recurrent.dropout", "0", "--data.bpe_dropout", "0.1"]


@pytest.fixture
def exact() -> list[str]:
    """Flags under which several processes compute what one does, to rounding in float64."""
    return EXACT


@pytest.fixture
def double_precision() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(scope="session")
def pairs_folder(tmp_path_factory) -> Path:
    """260 training, 40 validation and 31 test pairs, one of them empty, as `<split>.jsonl` with the columns en and de."""
    root = tmp_path_factory.mktemp("pairs")
    pairs = make_pairs(330, seed=1)
    for split, begin, end in [("train", 0, 260), ("val", 260, 300), ("test", 300, 330)]:
        lines = [json.dumps({"de": german, "en": english}) for german, english in pairs[begin:end]]
        if split == "test":
            lines.append(json.dumps({"de": "", "en": ""}))
        (root / f"{split}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return root


@pytest.fixture(scope="session")
def command(tmp_path_factory) -> Iterator[Callable[..., Command]]:
    """Starts `command(module, *flags)` of this project in a process of its own."""
    with commands(tmp_path_factory.mktemp("commands"), "seq2seq", [*TINY, *CPU]) as start:
        yield start


@pytest.fixture(scope="session")
def train(tmp_path_factory) -> Callable[..., int]:
    """Runs `train(*flags)` in this process and returns its exit code; runs are in the folder `train.runs`."""
    cwd = tmp_path_factory.mktemp("train")
    (cwd / "plain.yaml").write_text("seed: 0\n")  # in place of the default recipe, which may change

    def run(*flags: str) -> int:
        before = Path.cwd()
        os.chdir(cwd)
        try:
            return main(PROJECT, ["--config", "plain.yaml", *TINY, *CPU, *flags])
        finally:
            os.chdir(before)

    run.runs = cwd / "runs" / "seq2seq"
    return run


@pytest.fixture(scope="session")
def plain_run(train, pairs_folder) -> Path:
    """The folder of a finished run of one process, in float64 without dropout."""
    flags = [
        "--name",
        "plain",
        "--checkpoint_every",
        "8",
        "--data.source",
        str(pairs_folder),
        *EXACT,
        "--model.decoding.num_beams",
        "3",
    ]
    assert train(*flags) == 0
    return train.runs / "plain"


@pytest.fixture
def small_sample(monkeypatch, tmp_path) -> None:
    """An embedded sample of a few hundred pairs, and no hub."""
    monkeypatch.setattr(data_module, "SAMPLE_SIZES", SIZES)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
