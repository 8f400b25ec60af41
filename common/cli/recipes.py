"""Recipes: the YAML file that a run is configured by."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import yaml
from lightning.pytorch import LightningDataModule

from common.cli.flags import flag_values
from common.errors import UserError, one_line
from common.io.ranks import is_global_zero

SAMPLE_VARIABLE = "CAPSTONES_SAMPLE"  # carries from rank 0 to the processes that it launches whether the data is the sample


def uses_sample(args: list[str], data: type[LightningDataModule], recipe: Path) -> bool:
    """Whether a run of the default `recipe` with these arguments would train on the embedded sample; never with `--config`.

    Rank 0 decides for all processes, as the hub may answer one of them and not another.
    """
    flags = flag_values(args)
    if {"--help", "-h", "--config", "-c"} & set(flags):
        return False
    if not is_global_zero() and SAMPLE_VARIABLE in os.environ:
        return os.environ[SAMPLE_VARIABLE] == "1"
    from common.data.sources import resolve_source

    settings = yaml.safe_load(recipe.read_text()) or {}
    source = flags.get("--data.source") or (settings.get("data") or {}).get("source", "auto")
    sample = source == "sample" or (
        source == "auto" and resolve_source(source, getattr(data, "HUB_ID", "")).kind == "sample"
    )
    os.environ[SAMPLE_VARIABLE] = str(int(sample))
    return sample


def find_config(name: str, folder: Path) -> str:
    """Path of a configuration file: `name` below the working directory, or else below a capstone's `folder`.

    Raises:
        UserError: There is no such file, it is not YAML or empty, or it is a sweep.
    """
    path = next((path for path in (Path(name), folder / name) if path.is_file()), None)
    if path is None:
        raise UserError(f"--config {name}: no such file, neither here nor in {folder}")
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--config {name}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--config {name}: not YAML: {one_line(error)}") from error
    if settings is None:
        raise UserError(f"--config {name}: no settings in it; name another file")
    if isinstance(settings, dict) and {"method", "parameters"} <= settings.keys():
        raise UserError(f"--config {name}: a sweep, not a recipe; start it with `wandb sweep {shlex.quote(str(path))}`")
    return str(path)


def with_saved_config(args: list[str], project: str) -> list[str]:
    """`args`, with the `config.yaml` of the run that `--resume` continues, unless they name a configuration themselves.

    Raises:
        UserError: The run has checkpoints, but no `config.yaml`.
    """
    flags = flag_values(args)
    resume = flags.get("--resume")
    if resume is None or "--config" in flags or "-c" in flags:
        return args
    by_name = resume in ("auto", "allow")
    folder = Path("runs", project, flags.get("--name", "")) if by_name else Path(resume).resolve().parent.parent
    saved = folder / "config.yaml"
    if saved.is_file():
        return ["--config", str(saved), *args]
    if (by_name or "--name" not in flags) and any(folder.glob("checkpoints/*.ckpt")):  # not on another node's disk
        raise saved_config_error(saved, "no such file")
    return args


def saved_config_error(path: Path, fault: str) -> UserError:
    """Error for the saved configuration `path` of a run that is resumed, with the way to continue without it."""
    fault = fault.removeprefix(f"--config {path}: ").removesuffix(" (see --help)").removesuffix("; name another file")
    return UserError(f"{path}: {fault}; restore it, or add --config recipes/NAME.yaml and the flags that began the run")


def check_complete(path: Path, text: str) -> None:
    """Raises UserError if the saved configuration `path` is cut short: without the last option of the complete `text`."""
    saved, settings, names = path.read_text(encoding="utf-8"), yaml.safe_load(text), []
    while isinstance(settings, dict) and settings:
        names.append(list(settings)[-1])
        settings = settings[names[-1]]
    found = yaml.safe_load(saved)
    for name in names:
        found = found.get(name, ...) if isinstance(found, dict) else ...
    if found is ... or not saved.endswith("\n"):
        raise saved_config_error(path, f"cut short before the end of its last option, {'.'.join(names)}")
