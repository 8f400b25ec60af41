"""Checkpoints: atomic writing, checked loading, and the latest valid one of a folder."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.io import TorchCheckpointIO

from common.errors import UserError, one_line
from common.io.disk import named
from common.io.ranks import print_rank_zero
from common.nn.distributed import broadcast_from_rank_zero
from common.options import plain_numbers

M = TypeVar("M", bound=LightningModule)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Atomic checkpoint writer: writes a temporary file beside the target, syncs it to disk, then renames it.

    A kill leaves the old file or the new one, never half of one. Lightning's own writer moves the file from the system's
    temporary folder; where that is another file system the move is not atomic.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Writes `checkpoint` to `path`, its hyper-parameters as plain builtins."""
        if "hyper_parameters" in checkpoint:
            checkpoint = {**checkpoint, "hyper_parameters": plain(dict(checkpoint["hyper_parameters"]))}
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with named(target), partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads the file on rank zero, and broadcasts it."""
        read = super().load_checkpoint
        return broadcast_from_rank_zero(lambda: read(path, map_location, weights_only))


def plain(value: Any) -> Any:
    """Nested options as plain builtins, which `torch.load(weights_only=True)` reads back.

    Numbers of the parser's restricted types (`PositiveInt`) become int or float, dataclasses dicts, paths strings.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return (list if isinstance(value, list) else tuple)(map(plain, value))
    return str(value) if isinstance(value, str | os.PathLike) else plain_numbers(value)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Checkpoint of a run, on the CPU.

    Raises:
        UserError: The file is missing, truncated, or not a Lightning checkpoint.
    """
    if not path.is_file():
        raise UserError(f"checkpoint {path}: no such file")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged file raises depends on where it is damaged
        with path.open("rb") as file:
            begins_well = b"PK".startswith(file.read(2))
        fault = "truncated or damaged" if begins_well else "not a checkpoint; the files to read go before --checkpoint"
        raise UserError(f"checkpoint {path}: {fault}") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise UserError(f"checkpoint {path}: not a checkpoint of this suite")
    return checkpoint


def check_project(checkpoint: dict[str, Any], project: str, path: Path) -> None:
    """Raises UserError if `checkpoint` was written by another capstone than `project`."""
    written_by = checkpoint.get("project")
    if written_by != project:
        raise UserError(f"checkpoint {path}: belongs to {written_by or 'no project of this suite'}, not to {project}")


def check_data(checkpoint: dict[str, Any], fingerprint: dict[str, str | int], path: Path) -> None:
    """Raises UserError if `checkpoint` was trained on other data than that of `fingerprint`: no order of it fits both."""
    saved = checkpoint.get("data", fingerprint)
    changed = [name for name in {**saved, **fingerprint} if saved.get(name) != fingerprint.get(name)]
    changes = [f"{name}: {saved.get(name, 'none')} then, {fingerprint.get(name, 'none')} now" for name in changed[:3]]
    if changes:
        raise UserError(
            f"checkpoint {path}: the data has changed since: {'; '.join(changes)}{'; ...' * (len(changed) > 3)}. "
            "Restore the data and its options, or train anew with another --name and without --resume"
        )


def load_module(path: Path, module_class: type[M], project: str) -> tuple[M, dict[str, Any]]:
    """LightningModule of a run's checkpoint, on the CPU and in eval mode, and the checkpoint itself.

    Args:
        path: The checkpoint.
        module_class: Class that wrote it. Options whose default is a dataclass are built from the dicts saved for them.
        project: The capstone's name.

    Raises:
        UserError: The file is missing or damaged, another project's, or written by another version of this one, or a weight
            is NaN or infinite.
    """
    checkpoint = read_checkpoint(path)
    check_project(checkpoint, project, path)
    try:
        options = dict(checkpoint["hyper_parameters"])
        for name, parameter in inspect.signature(module_class).parameters.items():
            if is_dataclass(parameter.default) and isinstance(options.get(name), dict):
                config_class: Any = type(parameter.default)
                options[name] = config_class(**options[name])
        module = module_class(**options)
        module.load_state_dict(checkpoint["state_dict"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"checkpoint {path}: written by another version of this project ({one_line(error, 200)})") from error
    for name, value in checkpoint["state_dict"].items():
        if not value.isfinite().all():
            raise UserError(f"checkpoint {path}: {name} is not finite; use one from before the training diverged")
    return module.eval(), checkpoint


def sorted_by_step(folder: Path, pattern: str = "*.ckpt") -> list[Path]:
    """Checkpoints in `folder`, the latest first: those for resuming (`step-*`) by time, then copies of the best."""

    def key(path: Path) -> tuple[bool, int, str]:
        return path.name.startswith("step-"), path.stat().st_mtime_ns, path.name

    return sorted(folder.glob(pattern), key=key, reverse=True)


def latest_valid_checkpoint(candidates: list[Path], project: str) -> Path:
    """First of `candidates` that loads and so can be resumed; prints a line about each damaged one before it.

    Raises:
        UserError: None is valid, or the first that loads is another project's.
    """
    for path in candidates:
        try:
            checkpoint = read_checkpoint(path)
        except UserError as error:
            print_rank_zero(f"{error}; falling back to the one before")
            continue
        check_project(checkpoint, project, path)
        return path
    raise UserError("no valid checkpoint to resume from" + (f" in {candidates[0].parent}" if candidates else ""))
