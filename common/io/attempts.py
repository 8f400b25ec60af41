"""Attempts of a run that is requeued: one that dies again and again before its next checkpoint is not started any more."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import Preempted, UserError
from common.io.files import write_text_atomically
from common.io.ranks import is_global_zero
from common.io.run_dir import RunDir

MAX_ATTEMPTS = 3  # from one checkpoint


def count_attempt(run_dir: RunDir, requeued: bool) -> None:
    """Counts, in `attempts.json` of the run folder, a start from the run's checkpoint, or from its beginning.

    Args:
        run_dir: The run folder.
        requeued: Whether nobody may be looking (`--resume allow`).

    Raises:
        UserError: MAX_ATTEMPTS starts from this checkpoint have died, and this one is requeued too.
    """
    path = attempts_file(run_dir)
    start = "its beginning" if run_dir.checkpoint is None else run_dir.checkpoint.name
    died = 0
    with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):  # there is none, or it is damaged
        died = int(json.loads(path.read_text()).get(start, 0))
    if requeued and died >= MAX_ATTEMPTS:
        raise UserError(
            f"{run_dir.path} has died {died} times between {start} and the next checkpoint, and is not started again; "
            f"look for the reason, delete {path.name} there, and use the same command"
        )
    write_text_atomically(path, json.dumps({start: died + 1}))


@contextmanager
def attempt_watched(run_dir: RunDir | None) -> Iterator[None]:
    """Context after which the attempts are forgotten, unless it ends by a kill or a bug. None for a dry run."""
    try:
        yield
    except (Preempted, UserError, KeyboardInterrupt):
        forget_attempts(run_dir)
        raise
    forget_attempts(run_dir)


def forget_attempts(run_dir: RunDir | None) -> None:
    """Forgets the attempts of a run."""
    if run_dir is not None and is_global_zero():
        with contextlib.suppress(OSError):  # of a disk that has become read-only
            attempts_file(run_dir).unlink(missing_ok=True)


def attempts_file(run_dir: RunDir) -> Path:
    """File that counts a run's attempts."""
    return run_dir.path / "attempts.json"
