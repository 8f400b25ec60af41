"""Exported folders: a checkpoint as `model.safetensors` and `config.json`, which is read like the checkpoint itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from common.errors import UserError, one_line
from common.io.files import write_text_atomically
from common.version import VERSION

WEIGHTS, CONFIG = "model.safetensors", "config.json"
ENTRY = "capstone"  # key of the configuration that this suite reads; the others are for other programs
OF_EVERY_CHECKPOINT = (
    "project",
    "precision",
    "epoch",
    "global_step",
    "hyper_parameters",
    "datamodule_hyper_parameters",
    "data",
)


def checkpoint_config(checkpoint: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """What a folder's configuration holds of a checkpoint: no weights, nothing that only a run is resumed from.

    Args:
        checkpoint: The checkpoint.
        keys: Keys that the capstone has added, see its `on_save_checkpoint`.
    """
    kept = {key: checkpoint[key] for key in (*OF_EVERY_CHECKPOINT, *keys) if key in checkpoint}
    return {ENTRY: {**kept, "version": checkpoint.get("version", VERSION)}}


def write_exported(module: nn.Module, config: dict[str, Any], folder: Path) -> None:
    """Writes weights, tied ones once, and configuration."""
    from safetensors.torch import save_model

    save_model(module, str(folder / WEIGHTS), {"format": "pt"})  # with the names of tied weights in its metadata
    write_text_atomically(folder / CONFIG, json.dumps(config, indent=2) + "\n")


def is_exported(path: Path) -> bool:
    """Whether `path` is an exported folder."""
    return (path / WEIGHTS).is_file() and (path / CONFIG).is_file()


def read_config(folder: Path) -> dict[str, Any]:
    """Content of `config.json` of an exported folder. Raises UserError if it is not one of this suite."""
    if not is_exported(folder):
        raise UserError(
            f"checkpoint {folder}: a folder without {WEIGHTS} and {CONFIG}; name a checkpoint, or what export wrote"
        )
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if not isinstance(config[ENTRY]["hyper_parameters"], dict):
            raise TypeError
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"checkpoint {folder}: its {CONFIG} is damaged, or not of this suite") from error
    return config


def read_exported(folder: Path) -> dict[str, Any]:
    """The checkpoint that a folder was exported from, without what only a run is resumed from.

    Raises:
        UserError: It is no such folder, it is damaged, or its weights have names of `transformers`.
    """
    from safetensors import safe_open

    config = read_config(folder)
    if "model_type" in config:
        raise UserError(f"checkpoint {folder}: its weights are in the layout of transformers; name the run's checkpoint")
    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
            tied = {name: kept for name, kept in (file.metadata() or {}).items() if name != "format"}
        state |= {name: state[kept] for name, kept in tied.items()}
    except Exception as error:  # the library, written in Rust, has exceptions of its own
        raise UserError(f"checkpoint {folder}: {WEIGHTS} is damaged: {one_line(error, 100)}") from error
    return {**config[ENTRY], "state_dict": state}
