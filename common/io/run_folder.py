"""Run folder: `runs/<project>/<name>/`, made once, and what a run resumes from."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UserError
from common.io.checkpoints import latest_valid_checkpoint, sorted_by_step
from common.io.ranks import print_rank_zero

if TYPE_CHECKING:
    pass

RUNS = Path("runs")
NAME_VARIABLE = "CAPSTONES_RUN_NAME"  # how the first process tells the run's name to those that it starts


@dataclass
class Run:
    """A run's place on disk and what it continues from, if anything."""

    folder: Path
    checkpoint: Path | None

    @property
    def checkpoints(self) -> Path:
        """The folder of its checkpoints."""
        return self.folder / "checkpoints"

    @property
    def plots(self) -> Path:
        """The folder of its pictures."""
        return self.folder / "plots"


def open_run(project: str, name: str | None, resume: str | None, recipe: str) -> Run:
    """Settles the run's folder and what it resumes from, and makes the folder.

    Raises:
        UserError: another run of that name exists, or there is nothing to resume from.
    """
    first = int(os.environ.get("LOCAL_RANK", "0")) == 0 and int(os.environ.get("NODE_RANK", "0")) == 0
    if resume not in (None, "auto") and name is None:
        folder = Path(resume).resolve().parent.parent
        place = Run(Path(os.path.relpath(folder)), None)
    else:
        if name is None and resume == "auto":
            raise UserError("--resume auto: of which run? add --name")
        if name is None:
            name = f"{recipe}-{datetime.now():%Y%m%d-%H%M%S}"
            name = claim_name(RUNS / project, name) if first else os.environ.get(NAME_VARIABLE, name)
        os.environ[NAME_VARIABLE] = name
        place = Run(RUNS / project / name, None)
    if resume is not None:
        place.checkpoint = find_resumable(resume, place, project)
    continues_itself = place.checkpoint is not None and place.checkpoint.resolve().parent == place.checkpoints.resolve()
    if first and not continues_itself and run_exists(place):
        raise UserError(f"{place.folder} exists; choose another --name, or add --resume auto to continue it")
    if first:
        place.checkpoints.mkdir(parents=True, exist_ok=True)
    return place


def claim_name(folder: Path, name: str) -> str:
    """`name`, with a number behind it if a run that began in the same second has it; makes the run's folder."""
    numbered, number = name, 1
    while True:
        try:
            (folder / numbered).mkdir(parents=True)
            return numbered
        except FileExistsError:
            number += 1
            numbered = f"{name}-{number}"


def run_exists(place: Run) -> bool:
    """Whether there is anything in the run's folder but what a start that failed on its settings has left there."""
    return (place.folder / "metrics.csv").exists() or any(place.checkpoints.glob("*"))


def find_resumable(resume: str, place: Run, project: str) -> Path:
    """The newest good checkpoint for `--resume auto`; for a path that one, or if it is damaged the newest beside it."""
    if resume == "auto":
        return latest_valid_checkpoint(sorted_by_step(place.checkpoints), project, print_rank_zero)
    asked = Path(resume)
    if not asked.is_file():
        raise UserError(f"--resume {resume}: no such checkpoint; use a .ckpt file, or auto with --name")
    return latest_valid_checkpoint(
        [asked, *(path for path in sorted_by_step(asked.parent) if path != asked)], project, print_rank_zero
    )
