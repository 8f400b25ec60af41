"""Checkpoint files: written so that a kill never costs the old one, and read with a way back to the newest good one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from common.errors import UserError


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, syncs it to disk, then renames: there is always a whole file or none.

    Lightning's own writes to the temporary folder first; where that is another file system the move is not atomic.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Writes `checkpoint` to `path`."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Loads a whole checkpoint onto the CPU.

    Raises:
        UserError: the file is missing, cut short, or not a Lightning checkpoint.
    """
    if not path.is_file():
        raise UserError(f"checkpoint {path}: no such file")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged file raises depends on where it is damaged
        raise UserError(f"checkpoint {path}: truncated or damaged") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise UserError(f"checkpoint {path}: not a checkpoint of this suite")
    return checkpoint


def logged_steps(checkpoint: dict[str, Any]) -> int:
    """The steps done when `checkpoint` was saved, as loggers number them: the next one's figures stand beside this number.

    (Its `global_step` counts the steps of every optimizer, where a module has several.)
    """
    loop = checkpoint["loops"]["fit_loop"]
    done: int = loop["epoch_loop.state_dict"]["_batches_that_stepped"]
    # inside an epoch Lightning counts the step only after the callbacks that save
    return done if loop["epoch_loop.batch_progress"]["is_last_batch"] else done + 1


def check_project(checkpoint: dict[str, Any], project: str, path: Path) -> None:
    """Raises UserError if `checkpoint` was written by another capstone than `project`."""
    written_by = checkpoint.get("project")
    if written_by != project:
        raise UserError(f"checkpoint {path}: belongs to {written_by or 'no project of this suite'}, not to {project}")


def newest_first(folder: Path, pattern: str = "*.ckpt") -> list[Path]:
    """The checkpoints in `folder`, the last written first; those made for resuming before copies of the best."""

    def rank(path: Path) -> tuple[bool, int, str]:
        return path.name.startswith("step-"), path.stat().st_mtime_ns, path.name

    return sorted(folder.glob(pattern), key=rank, reverse=True)


def find_good(candidates: list[Path], project: str, say: Callable[[str], None]) -> Path:
    """The first of `candidates` that loads, is of `project`, and so can be resumed; says which ones it passed over.

    Raises:
        UserError: none is good, or the first that loads is another project's.
    """
    for path in candidates:
        try:
            checkpoint = read_checkpoint(path)
        except UserError as error:
            say(f"{error}; falling back to the one before")
            continue
        check_project(checkpoint, project, path)
        return path
    raise UserError("no good checkpoint to resume from" + (f" in {candidates[0].parent}" if candidates else ""))
