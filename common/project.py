"""What a capstone declares of itself."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningDataModule, LightningModule


@dataclass
class Project:
    """What `main` needs to know of a capstone.

    Args:
        name: of its package below `projects/`, and of its folder below `runs/`.
        module: the LightningModule class.
        data: the LightningDataModule class.
        monitor: the validation metric that picks the best checkpoint; or a function of the data that returns it.
        mode: whether more of it is better, "max", or less, "min".
        plot_callbacks: callbacks that draw; each is made with the folder that its pictures go to.
        links: pairs of where a value is and the argument that takes it; such an argument is no option. The value is an
            attribute of the data, as in ("data.vocabularies", "model.vocabularies"), or an option of the model's that the
            data needs too, as in ("model.checkpoint", "data.checkpoint").
        usage: the package's command that uses a checkpoint, with its arguments before `--checkpoint`.
    """

    name: str
    module: type[LightningModule]
    data: type[LightningDataModule]
    monitor: str | Callable[[Any], str] = "val/loss"
    mode: Literal["min", "max"] = "min"
    plot_callbacks: tuple[Callable[[Path], Any], ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    usage: str = "predict FILE"

    def monitored(self, data: LightningDataModule) -> str:
        """The validation metric that picks the best checkpoint on `data`."""
        return self.monitor if isinstance(self.monitor, str) else self.monitor(data)

    @property
    def folder(self) -> Path:
        """The package's folder."""
        return Path(str(sys.modules[self.module.__module__].__file__)).parent

    @property
    def default_recipe(self) -> Path:
        """The settings that `train` runs without `--config`; on the embedded sample it is `sample.yaml`, if there is one."""
        return self.folder / "recipes" / "default.yaml"
