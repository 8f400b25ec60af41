"""Signals that stop a run: SIGTERM, and the SIGUSR1 that SLURM sends before a job's end; both end in `Preempted`."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from common.errors import Preempted
from common.io.checkpoints import sorted_by_step

Handler = Callable[[int, FrameType | None], None]


def stop_signals() -> list[signal.Signals]:
    """Signals that ask a run to save and stop."""
    under_slurm = "SLURM_JOB_ID" in os.environ and hasattr(signal, "SIGUSR1")
    return [signal.SIGTERM, *([signal.SIGUSR1] if under_slurm else [])]


def handle_stop_signals(handler: Handler) -> None:
    """Sets the handler of the stop signals; in the main thread, the only one that Python lets do it."""
    if threading.current_thread() is threading.main_thread():
        for each in stop_signals():
            signal.signal(each, handler)


def stop_now(folder: Path | None) -> Handler:
    """Handler that raises Preempted at once, with the newest checkpoint in `folder`, which continues the run."""

    def stop(signum: int, frame: FrameType | None) -> None:
        saved = [] if folder is None else sorted_by_step(folder, "step-*.ckpt")
        raise Preempted(str(saved[0]) if saved else None, signal.Signals(signum).name)

    return stop


@contextmanager
def stop_signals_restored() -> Iterator[None]:
    """Context after which the stop signals have the handlers that they had before."""
    before = {each: signal.getsignal(each) for each in stop_signals()}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for each, handler in before.items():
                signal.signal(each, handler)
