"""Run folder `runs/<project>/<name>/`: its name, its layout, and the checkpoint that a run resumes from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from common.errors import UserError
from common.io.checkpoints import latest_valid_checkpoint, sorted_by_step
from common.io.run_name import check_run_name

RUNS = Path("runs")
ALLOW = "allow"  # value of --resume: continue the run if there is one, else start it


@dataclass
class RunDir:
    """Run folder, and the checkpoint that the run resumes from, if any."""

    path: Path
    checkpoint: Path | None = None

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
    """Run folder for the flags `--name` and `--resume`; creates it. Called on rank zero alone, see `common.run.rendezvous`.

    Args:
        resume: A checkpoint's path; "auto" for the latest valid one of the run `name`; "allow" for the same if there is one.

    Raises:
        UserError: The name is not one folder's or another run's, or there is nothing to resume from.
    """
    allowed = False  # to start a run where one has begun, but not come as far as to a checkpoint
    if name is None and resume in ("auto", ALLOW):
        raise UserError(f"--resume {resume}: of which run? add --name")
    if name is None and resume is not None:
        run_dir = RunDir(Path(os.path.relpath(Path(resume).resolve().parent.parent)))
    else:
        if name is None:
            name = f"{recipe}-{datetime.now():%Y%m%d-%H%M%S}"
            check_run_name(name, "the name that follows from the recipe,")
            with creating(RUNS / project / name):
                name = unique_name(RUNS / project, name)
        check_run_name(name)
        run_dir = RunDir(RUNS / project / name)
    if resume == ALLOW:
        resume = "auto" if any(run_dir.checkpoints.glob("*.ckpt")) else None
        allowed = resume is None
    if resume is not None:
        run_dir.checkpoint = resumable_checkpoint(resume, run_dir, project)
        if name is None and run_dir.checkpoint.resolve().parent != run_dir.checkpoints.resolve():
            raise UserError(f"--resume {resume}: its folder is not a run's checkpoints/; add --name for a run folder")
    continues = run_dir.checkpoint is not None and run_dir.checkpoint.resolve().parent == run_dir.checkpoints.resolve()
    if not (continues or allowed) and run_dir.run_exists():
        raise UserError(f"{run_dir.path} exists; choose another --name, or add --resume auto to continue it")
    with creating(run_dir.path):
        run_dir.checkpoints.mkdir(parents=True, exist_ok=True)
    return run_dir


@contextmanager
def creating(path: Path) -> Iterator[None]:
    """Context in which the run folder `path` is created. Raises UserError if the system refuses it."""
    try:
        yield
    except OSError as error:
        raise UserError(f"run folder {path} cannot be created: {error.strerror or error}; choose another --name") from error


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
    if not path.is_file():
        raise UserError(f"--resume {resume}: no such checkpoint; use a .ckpt file, or auto with --name")
    others = [other for other in sorted_by_step(path.parent) if other != path]
    return latest_valid_checkpoint([path, *others], project, named=True)
