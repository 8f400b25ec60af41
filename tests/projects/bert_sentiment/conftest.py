"""Fixtures of the sentiment tests: a small folder of texts, a small checkpoint in the hub's layout, and runs."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from commands import CPU, Command, commands
from common.cli.main import main
from projects.bert_sentiment.pretrained import new_model, train_tokenizer
from projects.bert_sentiment.synthetic import CLASS_NAMES, sample_opinion
from projects.bert_sentiment.train import PROJECT

ENCODER = {
    "model_type": "bert",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
FAST = ["--data.batch_size", "16", "--max_epochs", "2", "--trainer.log_every_n_steps", "1", "--model.lr", "0.002"]


def opinions(count: int, seed: int) -> list[tuple[str, str]]:
    """Texts and the names of their classes."""
    rng = random.Random(seed)
    return [(sample_opinion(bool(i % 2), rng), CLASS_NAMES[i % 2]) for i in range(count)]


@pytest.fixture(scope="session")
def texts_folder(tmp_path_factory) -> Path:
    """261 training, 40 validation and 31 test texts as `<split>.jsonl` with the columns sentence and label."""
    root = tmp_path_factory.mktemp("texts")
    rows = opinions(332, seed=1)
    for split, begin, end in [("train", 0, 261), ("validation", 261, 301), ("test", 301, 332)]:
        lines = [json.dumps({"sentence": text, "label": label}) + "\n" for text, label in rows[begin:end]]
        (root / f"{split}.jsonl").write_text("".join(lines))
    return root


@pytest.fixture(scope="session")
def checkpoint_folder(tmp_path_factory, texts_folder) -> Path:
    """A small BERT with random weights and its tokenizer, as `save_pretrained` writes them."""
    root = tmp_path_factory.mktemp("checkpoint")
    texts = [json.loads(line)["sentence"] for line in (texts_folder / "train.jsonl").read_text().splitlines()]
    tokenizer = train_tokenizer(texts, 300)
    torch.manual_seed(0)
    model = new_model({**ENCODER, "vocab_size": len(tokenizer)}, ["bad", "fair", "good"])
    model.config.problem_type = "multi_label_classification"  # of its pretraining
    model.save_pretrained(root)
    tokenizer.save_pretrained(root)
    return root


@pytest.fixture(scope="session")
def flags(texts_folder, checkpoint_folder) -> list[str]:
    """Flags of `train` for the small folder and the small checkpoint."""
    return ["--data.source", str(texts_folder), "--model.checkpoint", str(checkpoint_folder)]


@pytest.fixture(scope="session")
def train(tmp_path_factory) -> Callable[..., Path]:
    """`train(name, *flags)` runs the training command in this process, and returns the run's folder."""
    root = tmp_path_factory.mktemp("train")
    (root / "plain.yaml").write_text("seed: 0\n")

    def run(name: str, *flags: str, expect: int = 0) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(root)
            patch.setenv("HF_HUB_OFFLINE", "1")
            assert main(PROJECT, ["--config", "plain.yaml", "--name", name, *FAST, *CPU, *flags]) == expect
        return root / "runs" / "bert_sentiment" / name

    return run


@pytest.fixture(scope="session")
def command(tmp_path_factory) -> Iterator[Callable[..., Command]]:
    """Starts `command(module, *flags)` of this project in a process of its own."""
    with commands(tmp_path_factory.mktemp("commands"), "bert_sentiment", [*FAST, *CPU]) as start:
        yield start


@pytest.fixture(scope="session")
def plain_run(train, flags) -> Path:
    """Folder of a finished run, with options that are not the defaults."""
    options = {"model.label_smoothing": "0.05", "model.layer_decay": "0.9", "model.dropout": "0.05", "data.max_length": "32"}
    return train("plain", *flags, *[word for name, value in options.items() for word in (f"--{name}", value)])


@pytest.fixture(scope="session")
def plain_checkpoint(plain_run) -> Path:
    """Its best checkpoint."""
    return next(plain_run.glob("checkpoints/best-*.ckpt"))
