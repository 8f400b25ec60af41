"""YAML files of plain values, and the texts in them that name code. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from common.errors import UserError, one_line

CODE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w./-]*")  # PACKAGE.MODULE:NAME


def read_yaml(path: Path, label: str) -> Any:
    """Content of a YAML file of plain values. Raises UserError, which begins with `label`, for any other."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{label}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise UserError(f"{label}: not YAML: {one_line(error)}") from error


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Texts in nested settings, each after its dotted key; those in lists have the list's. A text may be YAML itself."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from leaves(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from leaves(item, key)
    elif value is not None:
        yield key, value if isinstance(value, str) else ""
        with suppress(yaml.YAMLError, RecursionError, ValueError):
            if isinstance(value, str) and (inside := yaml.safe_load(value)) != value:
                yield from leaves(inside, key)


def code_flags(path: Path) -> list[str]:
    """Flags that a saved configuration needs to be resumed from: those that name code."""
    return [word for key, text in leaves(read_yaml(path, str(path))) if CODE.fullmatch(text) for word in (f"--{key}", text)]
