"""W&B's local files of a run, read back by W&B's own reader: what `wandb leet inspect --json` prints."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any

from wandb.util import get_core_path


def records(path: Path) -> list[dict[str, Any]]:
    """Records of a `.wandb` file, each with its `type` and, under that name, its content."""
    command = [get_core_path(), "leet", "inspect", "--no-observability", "--json", "--run-file", str(path)]
    return list(map(json.loads, subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.splitlines()))


def ended(path: Path) -> list[dict[str, Any]]:
    """Records of a run that has ended; W&B's own process may still be writing them."""
    deadline = time.monotonic() + 30
    while True:
        found = records(path)
        if found and found[-1]["type"] == "exit":
            return found
        assert time.monotonic() < deadline, f"the run in {path} was never ended"
        time.sleep(0.05)


class WandbFile:
    """A run, or one part of it, read back.

    Args:
        path: Its `.wandb` file.
    """

    def __init__(self, path: Path) -> None:
        self.files_folder = path.parent / "files"
        self.history: list[dict] = []
        self.config: dict = {}
        self.summary: dict = {}
        self.files: list[str] = []
        self.artifacts: list[dict] = []
        for record in ended(path):
            content = record.get(record["type"], {})
            if record["type"] == "history":
                self.history.append(content["item"])
            elif record["type"] == "summary":
                self.summary |= content.get("update", {})
            elif record["type"] == "run":
                self.run = content
                self.config |= content.get("config", {}).get("update", {})
            elif record["type"] == "config":
                self.config |= content["update"]
            elif record["type"] == "files":
                self.files += [file["path"] for file in content["files"]]
            elif record["type"] == "artifact":
                self.artifacts.append(content)


def parts(run_folder: Path, mode: str = "offline-") -> list[WandbFile]:
    """Parts of a run, in the order of their beginning: `offline-`, or online without a mode."""
    return list(map(WandbFile, sorted(run_folder.glob(f"wandb/{mode}run-*/*.wandb"))))


def only_part(run_folder: Path, mode: str = "offline-") -> WandbFile:
    """The only part of a run."""
    (part,) = parts(run_folder, mode)
    return part


def synced(out: str, cwd: Path = Path()) -> list[Path]:
    """Folders that the last line of the output with a `wandb sync` says how to upload, in their order."""
    found = re.findall(r"`wandb sync (.+)`", out)
    assert found, out
    folder, _, file = shlex.split(found[-1])[-1].partition("/offline-run-*/")
    return sorted(path.parent for path in (cwd / folder).glob(f"offline-run-*/{file}")) if file else [cwd / folder]
