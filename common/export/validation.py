"""Validation split of a checkpoint's run, on which an int8 version is tested."""

from __future__ import annotations

from pathlib import Path

from common.cli.evaluate import parse
from common.data.sources import SourceDataModule
from common.errors import UserError
from common.io.checkpoints import content_errors
from common.project import Project
from common.run.evaluate import find_data


def validation_data(project: Project, checkpoint: Path, source: str | None) -> SourceDataModule:
    """Datamodule of the checkpoint's run, set up, its training split for calibration and its validation split for the test.

    Args:
        project: The capstone.
        checkpoint: The checkpoint.
        source: Where the data of the run are now; None for where they were.

    Raises:
        UserError: They are not there, are others, or have no validation split.
    """
    moved = [] if source is None else ["--data.source", source]
    request = parse(project, ["--checkpoint", str(checkpoint), "--split", "val", *moved])
    data = find_data(request)
    if data.resolve().test_only:
        raise UserError(f"--data.source {source}: not the data of the run; int8 is tested on its validation split")
    data.prepare_data()
    with content_errors(request.path, request.checkpoint):
        data.adapt_to(request.checkpoint)
    data.setup("validate")
    if not getattr(data, "has_validation", True):
        raise UserError("--int8: the data of the run have no validation split, and none was held out of train")
    return data
