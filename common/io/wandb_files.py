"""W&B's files of a run on this machine: a part for each process that has logged to it, each in a folder of its own."""

from __future__ import annotations

import contextlib
import glob
import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

READ_SECONDS = 10.0  # for W&B's reader, which takes hundredths of one


def run_folder(run: Any) -> Path:
    """Folder of W&B's `run` of this process."""
    return Path(run.dir).parent


def shown(path: Path) -> str:
    """Path as it is printed: relative if it is below the working directory."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def sync_command(run: Any) -> str:
    """Command that uploads what is kept of `run` on this machine: all parts that were logged offline, or the one online."""
    folder = run_folder(run)
    if not run.offline:
        return shlex.join(["wandb", "sync", "--include-online", shown(folder)])
    # a pattern, for the shell: W&B passes over those that it has uploaded, and puts the others into their order
    return f"wandb sync {shlex.quote(shown(folder.parent))}/offline-run-*/run-{shlex.quote(run.id)}.wandb"


def next_step(run: Any) -> int:
    """W&B's `_step` after the last one of the earlier parts of `run`; 0 if there are none."""
    files = run_folder(run).parent.glob(f"*run-*/run-{glob.escape(run.id)}.wandb")
    return max((last_step(file) for file in files if file.parent != run_folder(run)), default=-1) + 1


def last_step(file: Path) -> int:
    """W&B's `_step` of the last row in a `.wandb` file, by W&B's own reader; -1 if there is none."""
    from wandb.util import get_core_path

    command = [get_core_path(), "leet", "inspect", "--no-observability", "--summary", "--json", "--run-file", str(file)]
    with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
        done = subprocess.run(command, capture_output=True, check=True, timeout=READ_SECONDS)
        return int(json.loads(done.stdout)["step"])
    return -1
