"""Run folder `runs/<project>/<name>/`: its name, its layout, and the checkpoint that a run resumes from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from common.errors import UserError
from common.io.artifacts import is_artifact, local_checkpoint
from common.io.checkpoints import latest_valid_checkpoint, sorted_by_step
from common.io.disk import OF_DISK
from common.io.locks import LOCK, lock_folder, lock_is_gone
from common.io.ranks import is_global_zero
from common.io.run_name import check_run_name

RUNS = Path("runs")
OF_A_START = (LOCK, "config.yaml", "hparams.yaml", "attempts.json")  # files that a run folder has before its run begins
ALLOW = "allow"  # value of --resume: continue the run if there is one, else start it


@dataclass
class RunDir:
    """Run folder, the checkpoint that the run resumes from, if any, and whether nothing was in the folder before."""

    path: Path
    checkpoint: Path | None = None
    is_new: bool = False

    @property
    def checkpoints(self) -> Path:
        """Folder of the run's checkpoints."""
        return self.path / "checkpoints"

    @property
    def plots(self) -> Path:
        """Folder of the run's plots."""
        return self.path / "plots"

    def run_exists(self) -> bool:
        """Whether a run has begun here. A start that failed on its settings leaves neither metrics nor checkpoints."""
        return (self.path / "metrics.csv").exists() or any(self.checkpoints.glob("*"))


def open_run_dir(project: str, name: str | None, resume: str | None, recipe: str) -> RunDir:
    """Run folder for the flags `--name` and `--resume`; creates and locks it. Called on rank zero, see `rendezvous`.

    Args:
        resume: A checkpoint's path, or an artifact's name, from which a new run begins; "auto" for the latest valid one of
            the run `name`; "allow" for the same if there is one.

    Raises:
        UserError: The name is not one folder's or another run's, another process trains the run, the folder cannot be
            written, or there is nothing to resume from.
    """
    from_artifact = is_artifact(resume)
    if resume is not None and resume not in ("auto", ALLOW):
        resume = str(local_checkpoint(resume))
        if not Path(resume).is_file():
            raise UserError(f"--resume {resume}: no such checkpoint; use a .ckpt file, or auto with --name")
    run_dir = RunDir(find_run_path(project, name, None if from_artifact else resume, recipe))
    run_dir.is_new = is_empty(run_dir.path)
    if resume == "auto" and not any(run_dir.checkpoints.glob("*.ckpt")):
        raise UserError(f"--resume auto: {run_dir.path} has no checkpoint; check --name, or start it with --resume allow")
    with creating(run_dir.path):
        run_dir.checkpoints.mkdir(parents=True, exist_ok=True)
        locked = lock_folder(run_dir.path)  # before a look at what is in it
    if not locked:
        raise UserError(f"{run_dir.path} exists; another process trains it: wait for its end, or choose another --name")
    with removed_on_error(run_dir):
        allowed = False  # to start a run where one has begun, but not come as far as to a checkpoint
        if resume == ALLOW:
            resume = "auto" if any(run_dir.checkpoints.glob("*.ckpt")) else None
            allowed = resume is None
        if resume is not None:
            run_dir.checkpoint = resumable_checkpoint(resume, run_dir, project)
        continues = run_dir.checkpoint is not None and run_dir.checkpoint.resolve().parent == run_dir.checkpoints.resolve()
        if not (continues or allowed) and run_dir.run_exists():
            how = "auto to continue it" if any(run_dir.checkpoints.glob("*.ckpt")) else "allow: it has no checkpoint yet"
            raise UserError(f"{run_dir.path} exists; choose another --name, or add --resume {how}")
    return run_dir


def is_empty(folder: Path) -> bool:
    """Whether there is no such folder, or nothing in it. A path that cannot be read is left to what writes there."""
    try:
        return not any(folder.iterdir())
    except OSError:
        return not folder.exists()


@contextmanager
def removed_on_error(run_dir: RunDir | None) -> Iterator[None]:
    """Context in which a UserError removes the run folder, if it is new and no run has begun in it. None for a dry run."""
    try:
        yield
    except UserError:
        if run_dir is not None and run_dir.is_new and is_global_zero() and not begun_or_gone(run_dir):
            with suppress(OSError):  # what else is in it stays, and so does the folder
                for name in OF_A_START:
                    (run_dir.path / name).unlink(missing_ok=True)
                for folder in (run_dir.checkpoints, run_dir.plots):
                    if folder.exists():
                        folder.rmdir()
                run_dir.path.rmdir()
        raise


def begun_or_gone(run_dir: RunDir) -> bool:
    """Whether a run has begun in the folder, or it is another process's by now."""
    return run_dir.run_exists() or lock_is_gone(run_dir.path)


def find_run_path(project: str, name: str | None, resume: str | None, recipe: str) -> Path:
    """Run folder of the run `name`; without a name that of the checkpoint `resume`, or a new one, which it creates."""
    if name is not None:
        check_run_name(name)
        return RUNS / project / name
    if resume in ("auto", ALLOW):
        raise UserError(f"--resume {resume}: of which run? add --name")
    if resume is not None:
        checkpoints = Path(resume).resolve().parent
        if checkpoints.name != "checkpoints":
            raise UserError(f"--resume {resume}: its folder is not a run's checkpoints/; add --name for a run folder")
        return Path(os.path.relpath(checkpoints.parent))
    name = f"{recipe}-{datetime.now():%Y%m%d-%H%M%S}"
    check_run_name(name, "the name that follows from the recipe,")
    with creating(RUNS / project / name):
        return RUNS / project / unique_name(RUNS / project, name)


@contextmanager
def creating(path: Path) -> Iterator[None]:
    """Context in which the run folder `path` is created and locked. Raises UserError if the system refuses it."""
    try:
        yield
    except OSError as error:
        way_out = OF_DISK.get(error.errno or 0, "choose another --name")
        raise UserError(f"run folder {path} cannot be written: {error.strerror or error}; {way_out}") from error


def unique_name(folder: Path, name: str) -> str:
    """`name`, or `name-2`, `name-3` ... if a run that began in the same second has it; creates the run's folder."""
    candidate, number = name, 1
    while True:
        try:
            (folder / candidate).mkdir(parents=True)
            return candidate
        except FileExistsError:
            number += 1
            candidate = f"{name}-{number}"


def resumable_checkpoint(resume: str, run_dir: RunDir, project: str) -> Path:
    """Checkpoint for `--resume`: the run's latest valid one for `auto`; else the one named, or an earlier one if damaged."""
    if resume == "auto":
        return latest_valid_checkpoint(sorted_by_step(run_dir.checkpoints), project)
    path = Path(resume)
    others = [other for other in sorted_by_step(path.parent) if other != path]
    return latest_valid_checkpoint([path, *others], project, named=True)
