"""`--debug overfit`: can the network overfit one batch?"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import nn

from common.debug.loss import first_batch, loss_of
from common.errors import UserError

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


@dataclass
class RepeatedBatch:
    """Loader that yields one batch `steps` times. (Lightning would take a list for several loaders.)"""

    batch: Any
    steps: int

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Any]:
        return iter([self.batch] * self.steps)


class StopAtLoss(Callback):
    """Records the loss of the training steps, and stops the training once it is at most `goal` or not finite.

    Where `training_step` returns no loss, it is computed every tenth step.
    """

    def __init__(self, goal: float, steps: int) -> None:
        self.goal, self.steps = goal, steps
        self.losses: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if loss is None:
            if batch_idx % 10 and batch_idx < self.steps - 1:
                return
            with torch.no_grad(), trainer.precision_plugin.forward_context():
                loss = loss_of(pl_module, batch)
        self.losses.append(float(loss))
        trainer.should_stop = self.losses[-1] <= self.goal or not math.isfinite(self.losses[-1])
        if batch_idx % max(1, self.steps // 10) == 0 or trainer.should_stop:
            print(f"step {batch_idx:4d}  loss {self.losses[-1]:.4f}")


def disable_dropout(module: nn.Module) -> None:
    """Sets the probability of every dropout layer to 0: dropout is there to prevent overfitting."""
    for layer in module.modules():
        if isinstance(layer, DROPOUTS):
            layer.p = 0.0
        elif isinstance(layer, nn.RNNBase):
            layer.dropout = 0.0


def overfit_one_batch(
    module: LightningModule,
    datamodule: LightningDataModule,
    trainer_options: dict[str, Any],
    steps: int = 200,
    tolerance: float = 0.02,
) -> float:
    """Trains on one batch with the module's own optimizers until the network overfits it; returns the last loss.

    Even a network that is too small for its data set can memorize a single batch. One that cannot is broken. Dropout is
    disabled. (Lightning's `overfit_batches=1` would give loaders that shuffle by the epoch another batch in each.)

    Args:
        trainer_options: Arguments of the Trainer, such as accelerator, devices and precision.
        steps: Maximum of training steps; for the module's schedules they are the whole training.
        tolerance: How far above the module's `min_loss` (0 if it has none) the loss may end.

    Raises:
        UserError: The loss did not come down; the message names the losses and what to check.
    """
    min_loss = float(getattr(module, "min_loss", 0.0))
    stop = StopAtLoss(min_loss + tolerance, steps)
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    options = trainer_options | dict.fromkeys(quiet, False)
    options |= {"max_epochs": 1, "limit_val_batches": 0, "num_sanity_val_steps": 0, "callbacks": [stop]}
    before = {name: weight.detach().cpu().clone() for name, weight in module.named_parameters()}
    loader = RepeatedBatch(first_batch(datamodule), steps)
    one_batch_data = copy.copy(datamodule)  # the module may ask it things through `self.trainer.datamodule`
    vars(one_batch_data)["train_dataloader"] = lambda: loader
    disable_dropout(module)
    if (prepare := getattr(module, "prepare_overfit", None)) is not None:
        prepare()
    try:
        Trainer(**options).fit(module, datamodule=one_batch_data)
    except RuntimeError as error:
        if "does not require grad" not in str(error):
            raise
        raise UserError(
            "overfitting one batch failed: no gradient flows back from the loss; look for detach(), "
            "no_grad() or argmax between the weights and compute_loss, and for layers that are all frozen"
        ) from error

    if not stop.losses:
        raise UserError("overfitting one batch failed: no training step ran; does a hook skip the epoch?")
    start, end = stop.losses[0], stop.losses[-1]
    if not end <= stop.goal:  # so that NaN counts as a failure
        after = dict(module.named_parameters())
        unchanged = [name for name, weight in before.items() if torch.equal(weight, after[name].detach().cpu())]
        hint = f" ({len(unchanged)} weights never changed, {unchanged[0]} first)" if unchanged else ""
        raise UserError(
            f"overfitting one batch failed: the loss started at {start:.4g} and ended at {end:.4g}, "
            f"not within {tolerance:g} of its minimum {min_loss:g}; check whether labels are shuffled against "
            f"inputs, the graph is detached, the learning rate is wrong or layers are frozen{hint}"
        )
    print(f"The network can overfit one batch: loss {start:.4f} -> {end:.4f} (its minimum is {min_loss:g}).")
    return end
