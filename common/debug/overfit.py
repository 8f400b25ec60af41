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

from common.debug.loss import first_batch, loss_of, repeatable
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

    The goal is `tolerance` above the minimum of the loss, or a tenth as far above it as the first loss, if that is nearer.
    With manual optimization, where `training_step` need not return a loss, it is computed before every tenth step.
    """

    def __init__(self, min_loss: float, tolerance: float, steps: int) -> None:
        self.min_loss, self.tolerance, self.steps = min_loss, tolerance, steps
        self.losses: list[float] = []

    @property
    def goal(self) -> float:
        """Loss to reach."""
        return self.min_loss + min(self.tolerance, 0.1 * (self.losses[0] - self.min_loss))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if not pl_module.automatic_optimization and batch_idx % 10 == 0:
            with torch.no_grad(), repeatable(pl_module), trainer.precision_plugin.forward_context():
                self.record(trainer, float(loss_of(pl_module, batch)), batch_idx)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if pl_module.automatic_optimization and loss is not None:
            self.record(trainer, float(loss), batch_idx)

    def record(self, trainer: Trainer, loss: float, batch_idx: int) -> None:
        """Records and prints the loss before the step `batch_idx`."""
        self.losses.append(loss)
        if self.losses[0] - self.min_loss <= 1e-6:
            raise UserError(
                f"overfitting one batch failed: the loss starts at {loss:.4g}, and its minimum is {self.min_loss:g}; "
                "there is nothing to learn from this batch"
            )
        trainer.should_stop = loss <= self.goal or not math.isfinite(loss)
        if batch_idx % max(1, self.steps // 10) == 0 or trainer.should_stop:
            print(f"step {batch_idx:4d}  loss {loss:.4f}")


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
        tolerance: How far above the module's `min_loss` (0 if it has none) the loss may end, if it starts far above.

    Raises:
        UserError: The loss did not come down, or could not; the message names the losses and what to check.
    """
    min_loss = float(getattr(module, "min_loss", 0.0))
    stop = StopAtLoss(min_loss, tolerance, steps)
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
            f"above the goal {stop.goal:.4g} near its minimum {min_loss:g}; check whether labels are shuffled against "
            f"inputs, the graph is detached, the learning rate is wrong or layers are frozen{hint}"
        )
    print(f"The network can overfit one batch: loss {start:.4g} -> {end:.4g}, goal {stop.goal:.4g} (minimum {min_loss:g}).")
    return end
