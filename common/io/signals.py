"""Signals that stop a command: SIGTERM, SIGINT (Ctrl-C), and the SIGUSR1 that SLURM sends before a job's end.

One handler is there from the first import to the end, and what it does changes with the phase: while nothing is to be saved
it raises `Preempted`, in training it lets the step end first, and once the command ends no signal disturbs that.
Imports torch nowhere, so that it is there before the imports that take seconds.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from common.errors import Preempted
from common.io.ranks import is_global_zero

Action = Callable[[str], None]  # takes the signal's name


class _State:
    """What a signal does now, in this process."""

    action: Action | None = None  # None: the command has ended, and signals do nothing
    stopped: Preempted | None = None  # raised before: the command is ending
    in_command = False  # whether `stop_signals_handled` is open
    pid = 0  # a forked worker is another process


def _handle(signum: int, frame: FrameType | None) -> None:
    name = signal.Signals(signum).name
    if os.getpid() != _State.pid:
        os._exit(128 + signum)
    if _State.stopped is None:
        if _State.action is not None:
            _State.action(name)
    elif name == "SIGINT":
        end_now(name)  # whoever presses Ctrl-C again does not want to wait


def stop_signals() -> list[signal.Signals]:
    """Signals that ask a command to stop; without SIGINT where it is ignored, as in a shell's background jobs."""
    under_slurm = "SLURM_JOB_ID" in os.environ and hasattr(signal, "SIGUSR1")
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    return [signal.SIGTERM, *([] if ignored else [signal.SIGINT]), *([signal.SIGUSR1] if under_slurm else [])]


def handle_stop_signals(action: Action) -> None:
    """Lets `action` handle the stop signals; in the main thread, the only one that Python lets do it.

    Raises:
        Preempted: It was raised before where exceptions are lost, as in `__del__`.
    """
    if not _State.in_command:
        _State.stopped = None
    if threading.current_thread() is threading.main_thread():
        _State.action, _State.pid = action, os.getpid()
        for each in stop_signals():
            signal.signal(each, _handle)
    if _State.stopped is not None:
        raise _State.stopped


def stop(checkpoint: Path | None, by: str, in_run: bool = True) -> NoReturn:
    """Raises Preempted; the signals that follow do not disturb the orderly end."""
    _State.stopped = Preempted(None if checkpoint is None else str(checkpoint), by, in_run)
    raise _State.stopped


def stop_now(folder: Path | None, in_run: bool = True) -> Action:
    """Action that raises Preempted at once, with the newest checkpoint in `folder`, which continues the run."""
    return lambda name: stop(None if folder is None else newest_checkpoint(folder), name, in_run)


def newest_checkpoint(folder: Path) -> Path | None:
    """Newest checkpoint to resume from in `folder`, None if there is none yet."""
    return max(folder.glob("step-*.ckpt"), key=lambda path: path.stat().st_mtime_ns, default=None)


def end_now(name: str) -> NoReturn:
    """Ends the process with a line, without an exception: one raised within the import of an extension may crash it."""
    stopped = _State.stopped or Preempted(None, name, in_run=False)
    if is_global_zero():
        os.write(2, f"{stopped}\n".encode())
    os._exit(stopped.exit_code)


def handle_signals_of_command() -> None:
    """Called by the packages of `python -m PACKAGE.COMMAND` before all imports: ends it at once, and in one line."""
    if sys.argv[:1] == ["-m"]:  # while Python looks for the command
        handle_stop_signals(end_now)


@contextmanager
def stop_signals_handled() -> Iterator[None]:
    """Context of a command, in which stop signals raise Preempted; within another one it changes nothing.

    Afterwards the signals have the handlers that they had before; in a process that is this command alone they are ignored,
    as all is done.
    """
    before = {each: signal.getsignal(each) for each in stop_signals()}
    alone = _State.action is end_now
    if _State.in_command or threading.current_thread() is not threading.main_thread():
        yield
        return
    _State.stopped, _State.in_command = None, True
    try:
        handle_stop_signals(stop_now(None, in_run=False))
        yield
    finally:
        _State.action, _State.stopped, _State.in_command = None, None, False
        for each, handler in before.items():
            signal.signal(each, signal.SIG_IGN if alone else handler)
