"""Checkpoints: atomic writing, checked loading, and the latest valid one of a folder."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.io import TorchCheckpointIO

from common.errors import UserError, one_line
from common.io.artifacts import local_checkpoint
from common.io.exported import read_exported
from common.io.files import atomic_write
from common.io.ranks import print_rank_zero
from common.nn.distributed import broadcast_from_rank_zero
from common.options import plain_numbers
from common.trainer import logged_steps
from common.version import VERSION

M = TypeVar("M", bound=LightningModule)
PathLike = str | os.PathLike[str]
HYPER_PARAMETERS = ("hyper_parameters", "datamodule_hyper_parameters")  # of the module and of the data, as Lightning has it
MOMENTS = {"exp_avg", "exp_avg_sq", "momentum_buffer"}  # in an optimizer's state, of the shape of their parameters


class AtomicCheckpointIO(TorchCheckpointIO):
    """Atomic checkpoint writer: a kill leaves the old file or the new one, never half of one.

    Lightning's own writer moves the file from the system's
    temporary folder; where that is another file system the move is not atomic.

    Args:
        project: Name of the capstone, for checkpoints of weights alone: Lightning asks no callback about them.
    """

    def __init__(self, project: str | None = None) -> None:
        super().__init__()
        self.project = project

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Writes `checkpoint` to `path` with the suite's version, hyper-parameters as plain builtins."""
        options = {key: plain(dict(checkpoint[key])) for key in HYPER_PARAMETERS if key in checkpoint}
        checkpoint = {**checkpoint, **options, "version": VERSION}
        if self.project is not None:
            checkpoint.setdefault("project", self.project)
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as partial, partial.open("wb") as file:
            torch.save(checkpoint, file)

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Removes a checkpoint; nothing else, as a callback takes the paths of earlier ones from the checkpoint resumed."""
        if Path(path).suffix == ".ckpt" and Path(path).is_file() and ".." not in Path(path).parts:
            super().remove_checkpoint(str(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads the file on rank zero, with `weights_only`, and broadcasts it. Raises UserError if it is damaged."""
        return broadcast_from_rank_zero(lambda: read_checkpoint(Path(path), map_location))


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


def checkpoint_paths(checkpoint: PathLike | Sequence[PathLike]) -> list[Path]:
    """Paths of one checkpoint, or of several."""
    return [Path(checkpoint)] if isinstance(checkpoint, str | os.PathLike) else [Path(path) for path in checkpoint]


class DamagedFile(UserError):
    """Error for a file whose content is not what the suite writes."""


def read_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Checkpoint of a run, on the CPU unless `map_location` says otherwise, after its checksums are verified.

    A folder that `export` has written is read like the checkpoint that it was made from.

    Raises:
        UserError: The file is missing, truncated, damaged, or not a Lightning checkpoint.
    """
    if path.is_dir():
        return read_exported(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path}: no such file")
    try:
        checkpoint = load_verified(path, map_location)
    except pickle.UnpicklingError as error:  # its checksums are right
        held = "holds Python objects beside tensors and plain values; they may be code, and are not loaded"
        raise DamagedFile(f"checkpoint {path}: {held}. The Trainer's plugin AtomicCheckpointIO writes none") from error
    except Exception as error:  # what a damaged file raises depends on where it is damaged
        with path.open("rb") as file:
            begins_well = b"PK".startswith(file.read(2))
        if not begins_well and not isinstance(error, DamagedFile):
            raise UserError(f"checkpoint {path}: not a checkpoint; the files to read go before --checkpoint") from error
        raise DamagedFile(f"checkpoint {path}: truncated or damaged") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise UserError(f"checkpoint {path}: not a checkpoint of this suite")
    return checkpoint


def load_verified(path: Path, map_location: Any = "cpu") -> Any:
    """Content of a file of `torch.save`, if it is still what was written: `torch.load` skips the checksums of the archive.

    Raises:
        Exception: The file is damaged, not one of `torch.save`, or holds something else than tensors and builtins.
    """
    with path.open("rb") as file:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            if any(entry.external_attr or entry.compress_type for entry in entries):  # torch would skip a "folder"
                raise DamagedFile(f"{path}: not an archive of torch.save")
            if sum(entry.file_size for entry in entries) > path.stat().st_size or archive.testzip():
                raise DamagedFile(f"{path}: a checksum differs")
        file.seek(0)
        return torch.load(file, map_location=map_location, weights_only=True)


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


def load_module(
    path: PathLike, module_class: type[M], project: str, options: Mapping[str, Any] | None = None
) -> tuple[M, dict[str, Any]]:
    """LightningModule of a run's checkpoint, on the CPU and in eval mode, and the checkpoint itself.

    No global random state is touched: the initial weights that are replaced come from a copy of it.

    Args:
        path: The checkpoint, or an artifact's name, see `local_checkpoint`.
        module_class: Class that wrote it. Its `check_hyper_parameters`, if it has one, raises ValueError for those that no
            module is to be built from.
        project: The capstone's name.
        options: Hyper-parameters in place of those in the checkpoint.

    Raises:
        UserError: The file is missing or damaged, another project's, or written by another version of this one, or a weight
            is NaN or infinite.
    """
    path = local_checkpoint(path)
    checkpoint = read_checkpoint(path)
    check_project(checkpoint, project, path)
    return build_module(checkpoint, path, module_class, options), checkpoint


def build_module(
    checkpoint: dict[str, Any], path: Path, module_class: type[M], options: Mapping[str, Any] | None = None
) -> M:
    """LightningModule of `checkpoint`, which was read from `path`; see `load_module`."""
    with content_errors(path, checkpoint), torch.random.fork_rng(devices=[]):
        options = {**checkpoint["hyper_parameters"], **(options or {})}
        check_choices(options, module_class)
        if check := getattr(module_class, "check_hyper_parameters", None):
            check(options)
        module = module_class(**options)
        module.on_load_checkpoint(checkpoint)
        module.load_state_dict(checkpoint["state_dict"])
    for name, value in checkpoint["state_dict"].items():
        if not value.isfinite().all():
            raise UserError(f"checkpoint {path}: {name} is not finite; use one from before the training diverged")
    return module.eval()


@contextmanager
def content_errors(path: Path, checkpoint: Mapping[str, Any]) -> Iterator[None]:
    """Context in which any error becomes a UserError: `checkpoint`, read from `path`, holds something else than expected."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a checkpoint may hold anything in place of a value
        raise version_error(path, checkpoint, error) from error


def version_error(path: Path, checkpoint: Mapping[str, Any], error: Exception) -> UserError:
    """Error for a checkpoint that this version of the suite cannot use, with the version that wrote it."""
    reason = f"no {error}" if isinstance(error, KeyError) else one_line(error, 200)
    version = f"version {str(checkpoint['version'])[:20]}" if "version" in checkpoint else "a version before 0.2.0"
    written_by = f"written by {version} of this suite, this is {VERSION}"
    return UserError(f"checkpoint {path}: {written_by} ({reason}); load it with the code that wrote it")


def check_choices(options: dict[str, Any], module_class: type[LightningModule]) -> None:
    """Raises ValueError for a value that is not among those of its option's `Literal`: no parser has checked it."""
    for name, hint in get_type_hints(module_class.__init__).items():
        if get_origin(hint) is Literal and name in options and options[name] not in get_args(hint):
            raise ValueError(f"{name} {str(options[name])[:40]}: none of {', '.join(map(str, get_args(hint)))}")


def sorted_by_step(folder: Path, pattern: str = "*.ckpt") -> list[Path]:
    """Checkpoints in `folder`, the latest first: those for resuming (`step-*`) by time, then copies of the best."""

    def key(path: Path) -> tuple[bool, int, str]:
        return path.name.startswith("step-"), path.stat().st_mtime_ns, path.name

    return sorted(folder.glob(pattern), key=key, reverse=True)


def latest_valid_checkpoint(candidates: list[Path], project: str, named: bool = False) -> Path:
    """First of `candidates` that can be resumed; prints a line about each before it that is damaged, or lacks states.

    Raises:
        UserError: None is valid, the first that loads is another project's, or the first is `named` and lacks states.
    """
    for path in candidates:
        try:
            checkpoint = read_checkpoint(path)
        except UserError as error:
            print_rank_zero(f"{error}; falling back to the one before")
            continue
        check_project(checkpoint, project, path)
        if lacking := missing_states(checkpoint):
            fault = f"checkpoint {path}: lacks what a run is resumed from: {', '.join(lacking)}"
            if named and path == candidates[0]:
                raise UserError(f"{fault}; resume from a step-*.ckpt of the run")
            print_rank_zero(f"{fault}; falling back to the one before")
            continue
        return path
    raise UserError("no valid checkpoint to resume from" + (f" in {candidates[0].parent}" if candidates else ""))


def missing_states(checkpoint: dict[str, Any]) -> list[str]:
    """Keys of what a run is resumed from beside its weights, as far as it is missing, empty, or of another structure."""
    lists, dicts = ("optimizer_states", "random_states"), ("callbacks", "loops")
    missing = [key for key in lists if not isinstance(checkpoint.get(key), list) or not checkpoint[key]]
    missing += [key for key in dicts if not isinstance(checkpoint.get(key), dict)]
    try:
        logged_steps(checkpoint)
        shapes = {value.shape for value in checkpoint["state_dict"].values()}
        states = [state for optimizer in checkpoint["optimizer_states"] for state in optimizer["state"].values()]
        if not {state[name].shape for state in states for name in MOMENTS & state.keys()} <= shapes:
            missing.append("optimizer_states of these weights")
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        missing = missing or [f"loops or optimizer_states ({one_line(error)})"]
    return missing
