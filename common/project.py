"""Project description: what a capstone declares of itself, and the record that a run is started from."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule, LightningModule

from common.data.sources import SourceDataModule


@dataclass
class Project:
    """Capstone: its classes, its monitored metric, its plots.

    Args:
        name: Name of the package below `projects/` and of the folder below `runs/`.
        module: LightningModule class.
        data: LightningDataModule class.
        monitor: Validation metric that selects the best checkpoint, or a function from the data to its name.
        mode: "max" if a higher value is better, "min" if a lower one is.
        plot_callbacks: Callbacks that draw plots; each is called with the folder that its plots go to.
        links: Pairs (source, target): the value at `source` is passed to the argument `target`, which is then no option.
            The source is an attribute of the data, as in ("data.vocab_sizes", "model.vocab_sizes"), or an option of the
            model that the data needs too, as in ("model.checkpoint", "data.checkpoint").
        derived: Options that follow from the data where they are unset, such as "model.num_classes": each is the attribute
            of that name of the data, once `prepare_data` has read it.
        usage: The package's command that uses a checkpoint, with its arguments before `--checkpoint`.
    """

    name: str
    module: type[LightningModule]
    data: type[LightningDataModule]
    monitor: str | Callable[[Any], str] = "val/loss"
    mode: Literal["min", "max"] = "min"
    plot_callbacks: tuple[Callable[[Path], Any], ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    derived: tuple[str, ...] = ()
    usage: str = "predict FILE"

    def monitored(self, data: SourceDataModule) -> str:
        """Validation metric that selects the best checkpoint on `data`."""
        return self.monitor if isinstance(self.monitor, str) else self.monitor(data)

    @property
    def folder(self) -> Path:
        """Folder of the package."""
        return Path(str(sys.modules[self.module.__module__].__file__)).parent

    @property
    def default_recipe(self) -> Path:
        """Recipe that `train` runs without `--config`; on the embedded sample it is `sample.yaml`, if there is one."""
        return self.folder / "recipes" / "default.yaml"


@dataclass
class RunRequest:
    """Run request: a parsed command line, free of the parser.

    Args:
        project: The capstone.
        config: Configuration, complete: defaults, recipe and flags.
        args: Command-line arguments that it was parsed from.
        build: Builds module, datamodule and the Trainer's arguments from `config`, its loggers for a run folder if any.
        dump: Serializes a configuration: `jsonargparse.ArgumentParser.dump`.
        adopt: Replaces `config` by one that `dump` of another process has serialized, and returns it.
    """

    project: Project
    config: Namespace
    args: list[str]
    build: Callable[..., tuple[LightningModule, SourceDataModule, dict[str, Any]]]
    dump: Callable[..., str]
    adopt: Callable[[str], Namespace]


@dataclass
class EvaluationRequest:
    """Evaluation request: a parsed command line and the checkpoint that it names, free of the parser.

    Args:
        project: The capstone.
        path: Path of the checkpoint.
        checkpoint: Its content.
        config: Configuration, complete: the checkpoint's and flags.
        args: Command-line arguments that it was parsed from.
        is_other_source: Whether the data source is another than that of the checkpoint's run.
        new_data: Builds the datamodule.
    """

    project: Project
    path: Path
    checkpoint: dict[str, Any]
    config: Namespace
    args: list[str]
    is_other_source: bool
    new_data: Callable[[], SourceDataModule]
