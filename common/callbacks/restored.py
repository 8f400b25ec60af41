"""Check of a resumed training: each optimizer and learning-rate schedule has got its state."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from common.errors import UserError


class RestoredStates(Callback):
    """Stops a resumed training whose checkpoint has more or fewer states than there are optimizers and schedules.

    Lightning would restore as many as there are, and leave the others as they begin.
    """

    def __init__(self) -> None:
        self.saved: dict[str, int] = {}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.saved = {key: len(checkpoint.get(key, ())) for key in ("optimizer_states", "lr_schedulers")}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raises UserError if a number differs."""
        needed = {"optimizer_states": len(trainer.optimizers), "lr_schedulers": len(trainer.lr_scheduler_configs)}
        for key, count in self.saved.items():
            if count != needed[key]:
                raise UserError(
                    f"checkpoint {trainer.ckpt_path}: has {count} {key}, and this run {needed[key]}; "
                    "resume from an earlier one with --resume FILE, or train anew with another --name"
                )
