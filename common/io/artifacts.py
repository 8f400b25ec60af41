"""W&B's artifacts: a run's best checkpoint, uploaded, and downloaded again where a command expects a checkpoint's path."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import Any

from common.errors import UserError, one_line
from common.io.connectivity import within
from common.io.ranks import print_rank_zero
from common.io.wandb_server import import_wandb, new_api, stop_wandb

PREFIX = "wandb:"
NAME = re.compile(r"([^/:]+/){2}[^/:]+:[^/:]+")
ANSWER_SECONDS = 20.0  # for the server to answer what is in an artifact
UPLOAD_SECONDS = 2.5  # for it to take a new one; what is left is uploaded while the run is finished
MIN_BYTES_PER_SECOND = 1e6  # of a transfer that is waited for


def is_artifact(text: str | os.PathLike[str] | None) -> bool:
    """Whether `text` names an artifact, in place of a path."""
    return str(text).startswith(PREFIX)


def local_checkpoint(text: str | os.PathLike[str]) -> Path:
    """Path of a checkpoint: `text` itself, or of the artifact `wandb:ENTITY/PROJECT/ARTIFACT:ALIAS` that of its download."""
    return download_checkpoint(str(text)) if is_artifact(text) else Path(text)


@cache
def download_checkpoint(text: str) -> Path:
    """Downloads the checkpoint of an artifact, once in a process, to `./artifacts` or WANDB_ARTIFACT_DIR, as W&B does.

    Raises:
        UserError: It is no such name, there is no such artifact, no login or no network, it holds no checkpoint, or wandb
            is missing.
    """
    name = text.removeprefix(PREFIX)
    if not NAME.fullmatch(name):
        raise UserError(f"{text}: name it as wandb:ENTITY/PROJECT/ARTIFACT:ALIAS")
    try:
        api = new_api(text)
        artifact = within(ANSWER_SECONDS, lambda: api.artifact(name))
        seconds = ANSWER_SECONDS + artifact.size / MIN_BYTES_PER_SECOND
        base = artifact.qualified_name.partition(":")[0]
        folder = Path(os.environ.get("WANDB_ARTIFACT_DIR") or "artifacts", f"{base}-{artifact.version}")
        within(seconds, lambda: artifact.download(str(folder), skip_cache=True))
        checkpoints = [folder / name for name in artifact.manifest.entries if name.endswith(".ckpt")]
    except UserError:
        raise
    except TimeoutError as error:
        stop_wandb()
        raise UserError(f"{text}: W&B's server has not answered in time; try again later") from error
    except Exception as error:  # what goes wrong on the way to a server has a dozen types
        stop_wandb()
        raise UserError(f"{text}: {one_line(error, 200)}") from error
    if len(checkpoints) != 1:
        raise UserError(f"{text}: holds {len(checkpoints)} checkpoints; name an artifact of train --wandb_artifact")
    return checkpoints[0]


def log_checkpoint(run: Any, path: Path, config: Path, metadata: dict[str, Any]) -> None:
    """Uploads a checkpoint as the model artifact `model-<id of the run>:best`; offline W&B keeps it for `wandb sync`.

    Args:
        run: W&B's run.
        path: The checkpoint.
        config: Configuration of the run, which the artifact has too, as a run folder does.
        metadata: Metadata of the artifact.
    """
    artifact = import_wandb().Artifact("model-" + re.sub(r"[^\w.-]", "_", run.id), type="model", metadata=metadata)
    # no copy: a checkpoint of a run is deleted, but never changed
    artifact.add_file(str(path.resolve()), f"checkpoints/{path.name}", policy="immutable", skip_cache=True)
    artifact.add_file(str(config.resolve()), config.name, skip_cache=True)
    try:
        if run.offline or run.disabled:
            run.log_artifact(artifact, aliases=["best"])
        else:
            seconds = UPLOAD_SECONDS + path.stat().st_size / MIN_BYTES_PER_SECOND
            within(seconds, lambda: run.log_artifact(artifact, aliases=["best"]).wait())
            print_rank_zero(f"W&B: checkpoint {PREFIX}{run.entity}/{run.project}/{artifact.name.partition(':')[0]}:best")
    except Exception as error:  # what goes wrong on the way to a server has a dozen types
        reason = "its server is slow" if isinstance(error, TimeoutError) else one_line(error, 100)
        print_rank_zero(f"W&B: the checkpoint is not uploaded yet: {reason}")
