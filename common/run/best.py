"""Best checkpoint: the one of the epoch with the best monitored metric, which is the one that is tested."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from common.nn.distributed import broadcast_from_rank_zero


class BestCheckpoint(ModelCheckpoint):
    """Saves `best-{step}.ckpt` at the ends of epochs, and keeps the best; of equals the lower `val/loss`, else the later.

    Of several validations in an epoch the last one counts. The best is looked for in the run's own folder, so that a run
    that was moved keeps it when it is resumed, and a new run that starts from another's checkpoint selects its own.

    Args:
        folder: Folder of the checkpoints.
        monitor: Monitored metric.
        mode: "max" if a higher value is better, "min" if a lower one is.
    """

    def __init__(self, folder: Path, monitor: str, mode: str) -> None:
        super().__init__(
            folder,
            filename="best-{step:08d}",
            monitor=monitor,
            mode=mode,
            auto_insert_metric_name=False,
            save_on_train_epoch_end=True,
            enable_version_counter=False,  # an epoch that is done again after a kill writes the same file again
        )
        self.best_loss: Tensor | None = None
        self._validated = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves if it is the best, unless the metrics are of an earlier epoch (`check_val_every_n_epoch`)."""
        if self._validated:
            super().on_train_epoch_end(trainer, pl_module)
        self._validated = False

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Whether the monitored value `current` makes this epoch the best; NaN never does."""
        if current is None or bool(current.isnan()):
            return False
        loss = trainer.callback_metrics.get("val/loss")
        is_best = super().check_monitor_top_k(trainer, current)
        if not is_best and self.best_model_score is not None:
            tie = bool(current == self.best_model_score)
            worse_loss = loss is not None and self.best_loss is not None and bool(loss > self.best_loss)
            is_best = trainer.strategy.reduce_boolean_decision(tie and not worse_loss)
        if is_best:
            self.best_loss = None if loss is None else loss.detach().clone()
        return is_best

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "best_loss": self.best_loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        path = Path(str(self.dirpath)) / Path(state_dict["best_model_path"]).name
        if broadcast_from_rank_zero(path.is_file):  # the other nodes may not have the folder
            here = {"dirpath": self.dirpath, "best_model_path": str(path), "kth_best_model_path": str(path)}
            super().load_state_dict({**state_dict, **here, "best_k_models": {str(path): state_dict["best_model_score"]}})
            self.best_loss = state_dict.get("best_loss")
