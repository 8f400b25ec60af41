"""Small data modules and folders of sentence pairs, for the tests."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from projects.seq2seq.data import Batch, TranslationData
from projects.seq2seq.synthetic import make_pairs

SIZES = {"train": 211, "val": 37, "test": 41}  # numbers that no number of processes or batches divides


def ready(**options: Any) -> TranslationData:
    """The DataModule, on the small sample by default, set up outside of a trainer."""
    defaults = {
        "source": "sample",
        "vocab_size": 400,
        "max_tokens": 300,
        "lowercase": "none",
        "bpe_dropout": 0.1,
        "eval_batch_size": 10,
    }
    data = TranslationData(**{**defaults, **options})
    torch.manual_seed(5)
    data.prepare_data()
    data.setup("fit")
    return data


def attach(data: TranslationData, epoch: int = 0, done: int = 0, rank: int = 0, ranks: int = 1) -> TranslationData:
    """Puts `data` into a trainer that is at batch `done` of `epoch`, in process `rank` of `ranks`."""
    progress = SimpleNamespace(current=SimpleNamespace(ready=done))
    loop = SimpleNamespace(
        epoch_progress=SimpleNamespace(current=SimpleNamespace(processed=epoch)),
        epoch_loop=SimpleNamespace(batch_progress=progress),
    )
    where = {"num_training_batches": 10_000, "global_rank": rank, "world_size": ranks, "accumulate_grad_batches": 1}
    data.trainer = SimpleNamespace(fit_loop=loop, **where)
    return data


def folder(path: Path, train: list[dict[str, Any]], test: list[dict[str, Any]], **others: list[dict[str, Any]]) -> str:
    """A folder of JSON lines, one file for each split; `train` and the others as rows."""
    path.mkdir(exist_ok=True)
    for split, rows in {"train": train, "test": test, **others}.items():
        (path / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


def rows(begin: int, end: int, german: str = "de", english: str = "en") -> list[dict[str, str]]:
    return [{english: e, german: g} for g, e in make_pairs(end, seed=4)[begin:]]


def batches_of(data: TranslationData, **where: int) -> list[Batch]:
    loader = attach(data, **where).train_dataloader()
    batches = list(loader)
    assert len(batches) == len(loader) - where.get("done", 0)
    return batches
