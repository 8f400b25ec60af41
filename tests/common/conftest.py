"""What the tests of `common` share: one thread, a clean environment, and tiny runs of a real command line."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from lightning.pytorch.utilities import rank_zero_only

from common.cli.main import main
from common.data.images import LabeledImages
from common.project import Project
from projects.cifar10.train import PROJECT

TINY = shlex.split("""--data.source sample --data.val_size 60 --data.batch_size 40 --data.eval_batch_size 60
--trainer.limit_train_batches 2 --trainer.limit_val_batches 1 --trainer.limit_test_batches 1 --trainer.log_every_n_steps 1
--model.widths [8,8,8] --model.head_lr 1.0 --model.bias_lr 0.05 --max_epochs 2
--accelerator cpu --precision 32-true""")


def little_sample() -> dict[str, LabeledImages]:
    """Noisy pictures, brighter from class to class, in the place of the sample that takes seconds to draw."""
    splits = {}
    for seed, (split, count) in enumerate({"train": 200, "test": 60}.items()):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(0, 10, (count,), generator=generator)
        noise = torch.randint(0, 100, (count, 3, 32, 32), generator=generator)
        splits[split] = LabeledImages((noise + 15 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels, list("abcdefghij"))
    return splits


@contextlib.contextmanager
def isolated(cache: Path) -> Iterator[pytest.MonkeyPatch]:
    """The first process, one thread, no key, no network, own caches, the little sample; all is put back as it was."""
    before, threads = dict(os.environ), torch.get_num_threads()
    torch.set_num_threads(1)
    for name in before:
        if name.startswith(("CAPSTONES_", "HF_", "WANDB_", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "SLURM_")):
            del os.environ[name]
    os.environ |= {
        "CAPSTONES_CACHE": str(cache / "pictures"),
        "HF_HOME": str(cache / "hf"),
        "HF_HUB_OFFLINE": "1",
        "NETRC": str(cache / "no-netrc"),
    }
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("projects.cifar10.data.render_sample", little_sample)
            patch.setattr(rank_zero_only, "rank", 0)  # a Trainer that another test has made may have set it
            yield patch
    finally:
        torch.set_num_threads(threads)
        os.environ.clear()
        os.environ |= before


@pytest.fixture(autouse=True)
def _isolated(tmp_path_factory):
    torch.manual_seed(0)
    with isolated(tmp_path_factory.mktemp("cache")):
        yield


@dataclass
class Ended:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str
    folder: Path  # where it ran

    def run(self, name: str) -> Path:
        return self.folder / "runs" / "cifar10" / name

    @property
    def error(self) -> str:
        """The one line that a command with bad input leaves on stderr."""
        assert self.code == 2, (self.code, self.out, self.err)
        assert self.err.startswith("error: ") and self.err.count("\n") == 1, self.err
        return self.err.removeprefix("error: ").strip()


def call(folder: Path, *flags: str, project: Project = PROJECT, alone: bool = False) -> Ended:
    """`python -m projects.cifar10.train` in `folder` with `flags`, `alone` or after the tiny settings, in this process."""
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        code = main(project, [*flags] if alone else [*TINY, *flags])
    return Ended(code, out.getvalue(), err.getvalue(), folder)


@pytest.fixture
def train(tmp_path, monkeypatch) -> Callable[..., Ended]:
    """Calls the command line in a folder of the test's own, without pictures, which take longer than the training."""
    monkeypatch.setattr("common.run.summary.draw_curves", lambda rows, path: None)
    return lambda *flags, **options: call(tmp_path, *flags, **{"project": replace(PROJECT, plot_callbacks=()), **options})


@pytest.fixture(scope="session")
def full_run(tmp_path_factory) -> Ended:
    """A whole run named "full", with its pictures and with W&B offline. Not to be written to."""
    folder = tmp_path_factory.mktemp("full")
    with isolated(folder / "cache"):
        return call(folder, "--name", "full", "--wandb", "--seed", "3")
