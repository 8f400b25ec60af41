"""Clean process: a new interpreter in which an engine runs without torch and without this suite, as where it is deployed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from common.errors import UserError, one_line

SECONDS = 600.0  # for any network; one that takes longer hangs
END = """
assert not {"torch", "common", "projects"} & set(sys.modules), "the engine needs torch"
print(json.dumps(result))
"""


def run_clean(code: str, *paths: Path) -> Any:
    """Value of `result` after `code`, which finds `paths` in `sys.argv[1:]`, and has `sys` and `json` imported.

    Raises:
        UserError: It fails, imports torch or this suite, or takes longer than `SECONDS`.
    """
    command = [sys.executable, "-I", "-c", f"import json, sys\n{code}{END}", *map(str, paths)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"the exported file cannot be checked: {one_line(error)}") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(f"the exported file does not run in a process of its own: {lines[-1][:300]}")
    return json.loads(done.stdout.splitlines()[-1])
