"""Name of a run: one folder below `runs/<project>/`. Needs no torch."""

from __future__ import annotations

from common.errors import UserError

MAX_NAME_LENGTH = 100  # W&B's run id, at most 128 characters, has the project's name too


def check_run_name(name: str, flag: str = "--name") -> None:
    """Raises UserError, which names `flag`, unless `name` is one folder that all tools find and shells pass on."""
    if len(name.encode(errors="replace")) > MAX_NAME_LENGTH:
        raise UserError(f"{flag} {name[:20]!a}...: too long; use at most {MAX_NAME_LENGTH} characters")
    if "/" in name or "\\" in name:
        raise UserError(f"{flag} {name!a}: a run's name is one folder below runs/PROJECT; use a name without slashes")
    if name.strip(" .") == "" or name != name.strip() or name.startswith("-") or not name.isprintable():
        raise UserError(f"{flag} {name!a}: not a folder's name; use letters, digits and the like, a letter or digit first")
