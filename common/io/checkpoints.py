"""Checkpoint files: written so that a kill never costs the old one, and read with a way back to the newest good one."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.io import TorchCheckpointIO

from common.errors import UserError
from common.options import plain_numbers

M = TypeVar("M", bound=LightningModule)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, syncs it to disk, then renames: there is always a whole file or none.

    Lightning's own writes to the temporary folder first; where that is another file system the move is not atomic.
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


def plain(value: Any) -> Any:
    """Plain builtins of a nest of options, so that `torch.load(weights_only=True)` reads them back.

    The parser's restricted numbers (`PositiveInt`) become int and float, dataclasses dicts, paths strings.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return (list if isinstance(value, list) else tuple)(map(plain, value))
    return str(value) if isinstance(value, Path) else plain_numbers(value)


def load_module(path: Path, module_class: type[M], project: str) -> tuple[M, dict[str, Any]]:
    """LightningModule of a run's checkpoint, on the CPU and in eval mode, and the checkpoint itself.

    Args:
        path: the checkpoint.
        module_class: the class that wrote it; options that are dataclasses are made from the dicts that stand for them.
        project: the capstone's name.

    Raises:
        UserError: the file is missing or damaged, another project's, or written by another version of this one.
    """
    checkpoint = read_checkpoint(path)
    check_project(checkpoint, project, path)
    try:
        options = dict(checkpoint["hyper_parameters"])
        for name, parameter in inspect.signature(module_class.__init__).parameters.items():
            if is_dataclass(parameter.default) and isinstance(options.get(name), dict):
                config_class: Any = type(parameter.default)
                options[name] = config_class(**options[name])
        module = module_class(**options)
        module.load_state_dict(checkpoint["state_dict"])
    except (KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"checkpoint {path}: written by another version of this project ({reason})") from error
    return module.eval(), checkpoint


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


def sorted_by_step(folder: Path, pattern: str = "*.ckpt") -> list[Path]:
    """The checkpoints in `folder`, the last written first; those made for resuming before copies of the best."""

    def rank(path: Path) -> tuple[bool, int, str]:
        return path.name.startswith("step-"), path.stat().st_mtime_ns, path.name

    return sorted(folder.glob(pattern), key=rank, reverse=True)


def latest_valid_checkpoint(candidates: list[Path], project: str, say: Callable[[str], None]) -> Path:
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
