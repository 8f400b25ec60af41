"""Limit of CPU time for an answer that trains."""

from __future__ import annotations

import functools
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class OutOfTime(Exception):
    """The answer has used its CPU seconds."""


@contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Raises OutOfTime in the code inside, or after it, once it has used more than `seconds` of CPU time."""
    text, start = f"more than {seconds:g} CPU seconds", time.process_time()
    stopped: list[bool] = []

    def stop(*_: Any) -> None:
        stopped.append(True)  # the timer and process_time() may differ by a few milliseconds
        raise OutOfTime(text)

    timed = hasattr(signal, "setitimer")
    if timed:
        before = signal.signal(signal.SIGPROF, stop)
        signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        if timed:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)
    if stopped or time.process_time() - start > seconds:
        raise OutOfTime(text)


def limited(function: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    """`function` under a limit of CPU seconds."""

    @functools.wraps(function)
    def run(*args: Any) -> Any:
        with cpu_limit(seconds):
            return function(*args)

    return run
