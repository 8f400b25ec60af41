"""Weights and configuration of an exported folder, which `load` of the capstone reads like a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule

from common.errors import UserError
from common.export.graph import Written
from common.io.checkpoints import build_module
from common.io.exported import WEIGHTS, checkpoint_config, read_exported, write_exported


def write_weights(
    module: LightningModule, checkpoint: dict[str, Any], keys: Sequence[str], call: str, folder: Path, **config: Any
) -> Written:
    """Writes weights and configuration, and builds the module again from them.

    Args:
        module: Module in eval mode, as `load` has made it.
        checkpoint: The checkpoint.
        keys: Keys of it that the capstone has added.
        call: Line of Python that assigns the result of `load`'s pipeline, named `model`.
        folder: Where to write.
        config: Further entries of the configuration, for other programs.

    Raises:
        UserError: A weight of the new module differs.
    """
    write_exported(module, {**config, **checkpoint_config(checkpoint, keys)}, folder)
    again = build_module(read_exported(folder), folder, type(module)).state_dict()
    state = module.state_dict()
    if state.keys() != again.keys() or not all(torch.equal(value.cpu(), again[name]) for name, value in state.items()):
        raise UserError(f"{WEIGHTS}: the weights that are read back are others; not written")
    return Written(
        WEIGHTS, load_usage(str(checkpoint["project"]), call), "a module made from it has the same weights, bit for bit"
    )


def load_usage(project: str, call: str) -> str:
    """Lines that load the folder with this suite."""
    return f'from projects.{project}.inference import load\n\nmodel = load("FOLDER")  # this folder\n{call}'
