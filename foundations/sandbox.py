"""Sandbox: runs a check in a forked process with limits of time and memory, whatever the learner's code does."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

MEMORY_LIMIT = 4 * 2**30  # bytes beyond what the process has when it starts
MAX_FILE = 64 * 2**20  # bytes of a file that a learner's code writes
KEPT_OUTPUT = 8_000  # bytes that are kept of what it prints: the last
PRELOADED = ["foundations.worker"]  # modules that are imported before the first fork


@dataclass
class SandboxResult:
    """What a sandboxed call gave.

    Args:
        value: Its return value; None if there is none.
        ended: Why there is no value: "time", "memory", or how the process ended; empty if there is one.
        printed: What it printed, at most the last 2,000 characters.
    """

    value: Any
    ended: str
    printed: str


class Output(threading.Thread):
    """Thread that reads what a process prints, however much it is, and keeps the end of it.

    Args:
        connection: Reading end of a pipe.
    """

    def __init__(self, connection: Connection) -> None:
        super().__init__(daemon=True)
        self.connection, self.kept = connection, b""

    def run(self) -> None:
        with self.connection, contextlib.suppress(OSError):
            while chunk := os.read(self.connection.fileno(), 2**16):
                self.kept = (self.kept + chunk)[-KEPT_OUTPUT:]


def run_sandboxed(function: str, *args: Any, seconds: float) -> SandboxResult:
    """A function's result in a process that is forked from one which has imported torch and run nothing.

    The process and what it has started are gone afterwards, even if this one is ended meanwhile.

    Args:
        function: The function as `module:name`; arguments and result are pickled.
        args: Its arguments.
        seconds: Time after which the process is killed.
    """
    methods = multiprocessing.get_all_start_methods()
    forks = "forkserver" in methods
    context: Any = multiprocessing.get_context("forkserver" if forks else "spawn")
    if forks:
        context.set_forkserver_preload(PRELOADED)
    ours, theirs = context.Pipe(duplex=False)
    printed, printing = context.Pipe(duplex=False)
    process = context.Process(target=_entry, args=(theirs, printing, seconds, function, args), daemon=True)
    output = Output(printed)
    with _signals_end_this():
        try:
            process.start()
            theirs.close()
            printing.close()
            if forks:
                output.start()
            value, ended = _receive(ours, seconds)
            if ended != "time":
                process.join(5)
        finally:
            _kill(process)
    process.join()
    if forks:
        output.join(5)  # not for good: a process that has left the group may still hold the pipe
    text = output.kept.decode(errors="replace")[-2000:]
    if ended == "gone":
        ended = _how_it_ended(process.exitcode, text)
    return SandboxResult(value, ended, text)


@contextlib.contextmanager
def _signals_end_this() -> Iterator[None]:
    """Context in which SIGTERM and SIGHUP raise SystemExit, so that the process can be killed first."""

    def stop(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():  # it may set no handlers
        names = []
    before = [(getattr(signal, name), signal.signal(getattr(signal, name), stop)) for name in names]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def _kill(process: Any) -> None:
    """Kills a process and all that it has started in its group."""
    if process.pid is None:
        return
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()


def _receive(connection: Connection, seconds: float) -> tuple[Any, str]:
    """The value that the process sends, and why there is none."""
    try:
        if not connection.poll(seconds):
            return None, "time"
        kind, value = connection.recv()
    except (EOFError, OSError):
        return None, "gone"
    return (value, "") if kind == "value" else (None, str(value))


def _entry(connection: Connection, printing: Connection, seconds: float, function: str, args: tuple[Any, ...]) -> None:
    """Runs in the process: redirects its output, limits it, and sends what `function` returns."""
    os.environ["OMP_NUM_THREADS"] = "1"
    vars(multiprocessing.current_process())["_config"]["daemon"] = False  # a DataLoader may start workers
    if hasattr(os, "setsid"):
        os.setsid()  # a group of its own, which is killed as a whole
        for stream in (1, 2):
            os.dup2(printing.fileno(), stream)
        printing.close()
    with contextlib.suppress(ImportError, OSError, ValueError):  # no such limits on this system
        _limit_resources(seconds)
    with contextlib.suppress(ImportError, OSError, AttributeError):
        _die_with_parent()
    try:
        module, _, name = function.partition(":")
        message = ("value", getattr(importlib.import_module(module), name)(*args))
    except MemoryError:
        message = ("ended", "memory")
    except SystemExit as error:
        message = ("ended", f"the code called sys.exit({error.code!r})")
    connection.send(message)
    connection.close()


def _limit_resources(seconds: float) -> None:
    import resource

    cpu = 2 * int(seconds) + 10  # where nobody is left who would end it
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_FILE, MAX_FILE))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit fails instead
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_LIMIT
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _die_with_parent() -> None:
    """Has the system kill this process and its group when the command line ends, however it does (Linux)."""
    import fcntl

    parent = multiprocessing.parent_process()
    assert parent is not None
    pipe: Any = parent.sentinel  # its other end is open as long as the command line runs
    fcntl.fcntl(pipe, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
    if not parent.is_alive():  # it ended before
        os.killpg(0, signal.SIGKILL)


def _how_it_ended(code: int | None, printed: str) -> str:
    if code is not None and code < 0:
        return f"the process was ended by {signal.Signals(-code).name}"
    last = printed.strip().splitlines()[-1] if printed.strip() else ""
    return f"the code ended its process with exit code {code}" + (f": {last}" if last and code else "")
