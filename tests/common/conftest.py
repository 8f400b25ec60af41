"""Shared by the tests of `common`: one thread, a clean environment, and tiny runs of the toy project's command line."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from lightning.pytorch.utilities import rank_zero_only
from toy_runs import Ended, call
from wandb_stub import KEY, WandbServer

from common.io import ranks
from common.io.wandb_server import stop_wandb

OF_LAUNCHERS = ("LOCAL_", "NODE_RANK", "GROUP_", "RANK", "WORLD_SIZE", "MASTER_", "SLURM_", "TORCHELASTIC_")
ENVIRONMENT = ("CAPSTONES_", "HF_", "WANDB_", *OF_LAUNCHERS)


@contextlib.contextmanager
def isolated(cache: Path) -> Iterator[None]:
    """Rank 0, one thread, no key, no network, caches of its own; everything is restored at the end."""
    before, threads, rank = dict(os.environ), torch.get_num_threads(), rank_zero_only.rank
    torch.set_num_threads(1)
    for name in before:
        if name.startswith(ENVIRONMENT):
            del os.environ[name]
    os.environ |= {
        "CAPSTONES_CACHE": str(cache / "images"),
        "HF_HOME": str(cache / "hf"),
        "HF_HUB_OFFLINE": "1",
        "NETRC": str(cache / "no-netrc"),
    }
    rank_zero_only.rank, ranks._rank = 0, None  # a run of another test may have set them
    try:
        yield
    finally:
        rank_zero_only.rank = rank
        torch.set_num_threads(threads)
        os.environ.clear()
        os.environ |= before


@pytest.fixture(autouse=True)
def _isolated(tmp_path_factory):
    torch.manual_seed(0)
    with isolated(tmp_path_factory.mktemp("cache")):
        yield


@pytest.fixture
def train(tmp_path, monkeypatch) -> Callable[..., Ended]:
    """Runs the train command in a folder of the test's own, without the curves, which take longer than the training."""
    monkeypatch.setattr("common.run.summary.draw_curves", lambda *args: None)
    return lambda *flags, **options: call(tmp_path, *flags, **options)


@pytest.fixture(scope="session")
def full_run(tmp_path_factory) -> Ended:
    """A whole run named "full", with plots and with W&B offline. Read-only."""
    folder = tmp_path_factory.mktemp("full")
    with isolated(folder / "cache"):
        return call(folder, "--name", "full", "--wandb", "--seed", "3")


@pytest.fixture
def copied(full_run, tmp_path):
    """Writable copy of the full run, in the working directory of `train`."""
    shutil.copytree(full_run.folder / "runs", tmp_path / "runs", symlinks=True)
    return tmp_path / "runs" / "toy" / "full"


@pytest.fixture
def wandb_server(monkeypatch) -> Iterator[Callable[..., WandbServer]]:
    """Starts a server of W&B's, healthy or sick, which runs and commands of this process then ask, with a key."""
    with contextlib.ExitStack() as servers:

        def start(mode: str = "healthy", healthy: int | str = 0, scheme: str = "http") -> WandbServer:
            server = servers.enter_context(WandbServer(mode, healthy))
            monkeypatch.setenv("WANDB_API_KEY", KEY)
            monkeypatch.setenv("WANDB_BASE_URL", server.url.replace("http", scheme, 1))
            return server

        stop_wandb()  # W&B reads the environment once
        yield start
        stop_wandb(0)
