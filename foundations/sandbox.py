"""Sandbox: runs a check in a forked process with limits of time and memory, whatever the learner's code does."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import tempfile
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

MEMORY_LIMIT = 4 * 2**30  # bytes beyond what the process has when it starts
MAX_OUTPUT = 8 * 2**20  # bytes that a learner's code may print
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


def run_sandboxed(function: str, *args: Any, seconds: float) -> SandboxResult:
    """A function's result in a process that is forked from one which has imported torch and run nothing.

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
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output"
        process = context.Process(target=_entry, args=(theirs, str(output), function, args), daemon=True)
        process.start()
        theirs.close()
        value, ended = _receive(ours, seconds)
        if ended == "time":
            process.kill()
        process.join(5)
        if process.is_alive():
            process.kill()
            process.join()
        printed = output.read_text(errors="replace")[-2000:] if output.exists() else ""
    if ended == "gone":
        ended = _how_it_ended(process.exitcode, printed)
    return SandboxResult(value, ended, printed)


def _receive(connection: Connection, seconds: float) -> tuple[Any, str]:
    """The value that the process sends, and why there is none."""
    try:
        if not connection.poll(seconds):
            return None, "time"
        kind, value = connection.recv()
    except (EOFError, OSError):
        return None, "gone"
    return (value, "") if kind == "value" else (None, str(value))


def _entry(connection: Connection, output: str, function: str, args: tuple[Any, ...]) -> None:
    """Runs in the process: redirects its output, limits it, and sends what `function` returns."""
    os.environ["OMP_NUM_THREADS"] = "1"
    vars(multiprocessing.current_process())["_config"]["daemon"] = False  # a DataLoader may start workers
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    with contextlib.suppress(ImportError, OSError, ValueError):  # no such limits on this system
        _limit_resources()
    try:
        module, _, name = function.partition(":")
        message = ("value", getattr(importlib.import_module(module), name)(*args))
    except MemoryError:
        message = ("ended", "memory")
    except SystemExit as error:
        message = ("ended", f"the code called sys.exit({error.code!r})")
    connection.send(message)
    connection.close()


def _limit_resources() -> None:
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_LIMIT
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_OUTPUT, MAX_OUTPUT))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit fails instead


def _how_it_ended(code: int | None, printed: str) -> str:
    if code is not None and code < 0:
        return f"the process was ended by {signal.Signals(-code).name}"
    last = printed.strip().splitlines()[-1] if printed.strip() else ""
    return f"the code ended its process with exit code {code}" + (f": {last}" if last and code else "")
