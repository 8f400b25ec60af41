"""Recipes: the YAML file that a run is configured by."""

from __future__ import annotations

import importlib.util
import itertools
import os
import shlex
from pathlib import Path

import yaml
from lightning.pytorch import LightningDataModule

from common.cli.flags import flag_values
from common.errors import UserError
from common.io.artifacts import is_artifact, local_checkpoint
from common.io.ranks import error_of_all, is_global_zero
from common.io.yaml_files import CODE, leaves, read_yaml

SAMPLE_VARIABLE = "CAPSTONES_SAMPLE"  # carries from rank 0 to the processes that it launches whether the data is the sample
TRUSTED = ("lightning.", "common.", "projects.")  # packages whose classes a run's own configuration may name
MAX_SETTINGS = 10_000


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
    settings = read_yaml(path, f"--config {name}")
    if settings is None:
        raise UserError(f"--config {name}: no settings in it; name another file")
    if isinstance(settings, dict) and {"method", "parameters"} <= settings.keys():
        raise UserError(
            f"--config {name}: a sweep, not a recipe; start it with `wandb sweep {shlex.quote(str(path))}`, "
            "or by Optuna with `python -m common.multirun PROJECT --search`"
        )
    return str(path)


def with_saved_config(args: list[str], project: str) -> list[str]:
    """`args`, with the `config.yaml` of the run that `--resume` continues, unless they name a configuration themselves.

    Raises:
        UserError: The run has checkpoints, but no `config.yaml`, or that names code or files that nobody has asked for.
    """
    flags = flag_values(args)
    resume = flags.get("--resume")
    if resume is None or "--config" in flags or "-c" in flags:
        return args
    if is_artifact(resume):
        if not is_global_zero():
            return args  # the configuration of rank zero, which downloads it
        resume = str(local_checkpoint(resume))
    by_name = resume in ("auto", "allow")
    folder = Path("runs", project, flags.get("--name", "")) if by_name else Path(resume).resolve().parent.parent
    saved = folder / "config.yaml"
    if saved.is_file():
        check_saved_config(saved, flags)
        return ["--config", str(saved), *args]
    # other nodes take the configuration of rank zero, and may have an old checkpoint on a disk of their own
    if is_global_zero() and (by_name or "--name" not in flags) and any(folder.glob("checkpoints/*.ckpt")):
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


def check_saved_config(path: Path, flags: dict[str, str]) -> None:
    """Checks a configuration that nobody has named: the run may be a stranger's, and the parser imports what it names.

    Raises:
        UserError: It names a function or environment `MODULE:NAME` without its flag, a class outside of `TRUSTED`, another
            file, or a folder outside of the working directory to write to.
    """
    try:
        texts = list(itertools.islice(leaves(read_yaml(path, f"--config {path}")), MAX_SETTINGS + 1))
    except UserError as error:
        raise saved_config_error(path, str(error)) from error
    except RecursionError as error:
        raise error_of_all(f"{path}: nested too deeply; it is no configuration of a run") from error
    if len(texts) > MAX_SETTINGS:
        raise error_of_all(f"{path}: more than {MAX_SETTINGS:,} settings; it is no configuration of a run")
    quoted = shlex.quote(str(path))
    for key, text in texts:
        group, _, name = key.partition(".")
        if CODE.fullmatch(text) and f"--{key}" not in flags:
            fault = f"names code, {text}; if you trust it, add --{key} {shlex.quote(text)}"
        elif group == "config" or (not name and group in ("trainer", "model", "data")):
            fault = f"names another file, {text}; write its settings here"
        elif (group == "trainer" or key.endswith("class_path")) and (is_foreign(text) or leads_away(text, path.parent)):
            fault = f"names code or files outside of this suite and its runs, {text}; if you trust it, add --config {quoted}"
        else:
            continue
        raise error_of_all(f"{path}: {key} {fault}")


def is_foreign(text: str) -> bool:
    """Whether `text` is the dotted name of something in a module that can be imported, and is not in `TRUSTED`."""
    root = text.partition(".")[0].strip()
    if "." not in text or text.startswith(TRUSTED) or not root.isidentifier():
        return False
    try:
        return importlib.util.find_spec(root) is not None
    except ValueError:  # of `__main__`
        return True


def leads_away(text: str, folder: Path) -> bool:
    """Whether `text` is an absolute path, or one out of its folder, or names a file in `folder`, which would be read."""
    parts = Path(text).parts
    return Path(text).is_absolute() or ".." in parts or (bool(parts) and (folder / text).is_file())
