"""Viewing: our solution beside the learner's, and torch's own code."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.syntax import Syntax

from common.errors import UserError
from foundations.exercise import Exercise

MIN_COLUMN = 70  # letters of a file's half of the screen
MAX_SOURCE_LINES = 120


def print_side_by_side(mine: Path, ours: Path) -> None:
    """Prints two files beside each other, or one below the other on a narrow terminal."""
    console = Console()
    panels = []
    for title, path in (("yours", mine), ("ours", ours)):
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        panels.append(Panel(Syntax(text.strip("\n"), "python", word_wrap=True), title=title))
    if console.width >= 2 * MIN_COLUMN:
        for panel in panels:
            panel.width = console.width // 2 - 1
        console.print(Columns(panels))
    else:
        for panel in panels:
            console.print(panel)


def print_source(task: Exercise) -> None:
    """Prints torch's own code of what an exercise builds, and what to look at.

    Raises:
        UserError: torch has nothing of the kind.
    """
    if not task.source:
        raise UserError(f"torch has no function of its own for this. {task.look_at}".strip())
    value = inspect.unwrap(find_object(task.source))  # a decorator's wrapper has another file
    lines, first = inspect.getsourcelines(value)
    path = inspect.getsourcefile(value)
    console = Console()
    console.print(f"{task.source.replace(':', '.')}, {path}:{first}", soft_wrap=True)
    shown = "".join(lines[:MAX_SOURCE_LINES])
    width = None if console.is_terminal else max(len(line) for line in lines) + 10  # a pipe gets whole lines
    console.print(Syntax(shown, "python", line_numbers=True, start_line=first, code_width=width), soft_wrap=True)
    if len(lines) > MAX_SOURCE_LINES:
        console.print(f"… {len(lines) - MAX_SOURCE_LINES} lines more")
    console.print(task.look_at, soft_wrap=True)


def find_object(path: str) -> Any:
    """Object named as `module:qualified.name`, or a module."""
    module, _, name = path.partition(":")
    value: Any = importlib.import_module(module)
    for part in filter(None, name.split(".")):
        value = getattr(value, part)
    return value
