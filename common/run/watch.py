"""Process watch: where a process of a run dies, the others on its machine end too, instead of waiting for it."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any

import torch.distributed as dist
from lightning.fabric.plugins.environments import ClusterEnvironment, LightningEnvironment, TorchElasticEnvironment
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from common.errors import EXIT_LOST, ProcessLost, UserError
from common.io.locks import lock_is_gone

LAUNCHER = "CAPSTONES_LAUNCHER"  # id of a node's first process, for those that Lightning's launcher starts from it
CONTINUE = "continue with --resume auto"
SECONDS = 0.5  # between two looks
LOST = re.compile("[Cc]onnection (closed|reset|refused)|Broken pipe|remote process|timed out")  # in what gloo and NCCL raise


def watch_launcher(environment: ClusterEnvironment, rank: int) -> None:
    """Watches, in a thread, the process that has started this one: torchrun's agent, or the first process of Lightning's."""
    by_lightning = isinstance(environment, LightningEnvironment) and environment.local_rank() > 0
    if by_lightning or isinstance(environment, TorchElasticEnvironment):
        # Lightning's first process may have died while this one did its imports
        parent = int(os.environ.get(LAUNCHER, os.getppid())) if by_lightning else os.getppid()
        threading.Thread(target=watch_parent, args=(parent, rank), daemon=True).start()


class ProcessWatch(Callback):
    """Watches, in a thread, the processes that Lightning's launcher has started.

    (torchrun and `srun --kill-on-bad-exit` do the same for theirs. A process on another machine is noticed by its broken
    connection.)
    """

    def __init__(self) -> None:
        self.started = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.started or trainer.world_size == 1:
            return
        self.started = True
        children: list[Popen[bytes]] = getattr(trainer.strategy.launcher, "procs", [])
        if children:
            threading.Thread(target=watch_children, args=(children, trainer.global_rank), daemon=True).start()


class RunFolderWatch(Callback):
    """Stops a run whose folder was removed, before it writes half of another one in its place."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def check(self) -> None:
        """Raises UserError if the folder is gone."""
        if lock_is_gone(self.path):
            raise UserError(f"{self.path} was removed while it was trained; put it back and --resume it, or start anew")

    # these come before those of the callbacks that write

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.check()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.check()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.check()


@contextmanager
def lost_processes_named() -> Iterator[None]:
    """Context in which an operation that fails as another process is gone raises ProcessLost."""
    try:
        yield
    except RuntimeError as error:
        if not (dist.is_available() and dist.is_initialized() and LOST.search(str(error))):
            raise
        time.sleep(3 * SECONDS)  # the watch may know which process it was, and then ends this one
        raise ProcessLost(f"another process of the run has died; {CONTINUE}") from error


def watch_children(children: list[Popen[bytes]], first_rank: int) -> None:
    """Ends this process and the others once one of `children` has died by a signal or an error."""
    while True:
        codes = [child.poll() for child in children]
        for rank, code in enumerate(codes, first_rank + 1):
            if code is not None and (code < 0 or code == EXIT_LOST):
                how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                for other in children:
                    other.kill()
                end(f"process {rank} of the run has died ({how}); the others are stopped")
        if None not in codes:
            return
        time.sleep(SECONDS)


def watch_parent(parent: int, rank: int) -> None:
    """Ends this process once `parent`, which has started it, is gone."""
    while os.getppid() == parent:
        time.sleep(SECONDS)
    end(f"process {rank}: the process that started it has died")


def end(line: str) -> None:
    """Prints a line, and ends the process from within a thread."""
    print(f"error: {line}; {CONTINUE}", file=sys.stderr, flush=True)
    os._exit(EXIT_LOST)
