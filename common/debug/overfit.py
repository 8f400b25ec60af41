"""`--debug overfit`: can the network learn one batch by heart?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from common.debug.batches import first_batch, loss_of
from common.errors import UserError

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule, LightningModule, Trainer


@dataclass
class FixedBatch:
    """A loader that yields one batch `steps` times. (Lightning would take a list for several loaders.)"""

    batch: Any
    steps: int

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Any]:
        return iter([self.batch] * self.steps)


@dataclass
class LossWatch:
    """Records the loss of each training step; ends the training once it is at most `goal` or not finite."""

    goal: float
    steps: int
    losses: list[float] = field(default_factory=list)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, step: int) -> None:
        """Takes the loss from `training_step`'s result or, if there is none, computes it every tenth step."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if loss is None:
            if step % 10 and step < self.steps - 1:
                return
            with torch.no_grad(), trainer.precision_plugin.forward_context():
                loss = loss_of(module, batch)
        self.losses.append(float(loss))
        trainer.should_stop = self.losses[-1] <= self.goal or not math.isfinite(self.losses[-1])
        if step % max(1, self.steps // 10) == 0 or trainer.should_stop:
            print(f"step {step:4d}  loss {self.losses[-1]:.4f}")


def switch_off_dropout(module: nn.Module) -> None:
    """Sets the share of every dropout layer to 0: what is dropped at random cannot be learnt by heart."""
    for layer in module.modules():
        if isinstance(layer, nn.modules.dropout._DropoutNd):
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
    """Trains on one batch with the module's own optimizers until it is known by heart; returns its last loss.

    Even a network that is too small for its data set can learn a single batch. One that cannot is broken. Dropout is
    switched off for it.

    Args:
        trainer_options: arguments of Lightning's `Trainer`, such as accelerator, devices and precision.
        steps: training steps at most; to the module they are the whole training.
        tolerance: how far above the module's `min_loss` (0 if it has none) the loss may end.

    Raises:
        UserError: the loss did not come down; the text says how far it came and what to check.
    """
    from lightning.pytorch import Trainer
    from lightning.pytorch.callbacks import LambdaCallback

    floor = float(getattr(module, "min_loss", 0.0))
    watch = LossWatch(floor + tolerance, steps)
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    options = trainer_options | dict.fromkeys(quiet, False)
    options |= {"max_epochs": 1, "limit_val_batches": 0, "num_sanity_val_steps": 0}
    options["callbacks"] = [LambdaCallback(on_train_batch_end=watch.on_train_batch_end)]
    before = {name: weight.detach().cpu().clone() for name, weight in module.named_parameters()}
    loader = FixedBatch(first_batch(datamodule), steps)
    switch_off_dropout(module)
    if (prepare := getattr(module, "prepare_overfit", None)) is not None:
        prepare()
    # The datamodule itself stays in place, as the module may ask it things through `self.trainer.datamodule`;
    # an attribute of the instance hides the method of its class until it is deleted.
    attributes = vars(datamodule)
    replaced = {name: attributes[name] for name in ["train_dataloader"] if name in attributes}
    attributes["train_dataloader"] = lambda: loader
    try:
        Trainer(**options).fit(module, datamodule=datamodule)
    except RuntimeError as error:
        if "does not require grad" not in str(error):
            raise
        raise UserError(
            "overfitting one batch failed: no gradient flows back from the loss; look for detach(), "
            "no_grad() or argmax between the weights and compute_loss, and for layers that are all frozen"
        ) from error
    finally:
        del attributes["train_dataloader"]
        attributes.update(replaced)

    if not watch.losses:
        raise UserError("overfitting one batch failed: no training step ran; does a hook skip the epoch?")
    start, end = watch.losses[0], watch.losses[-1]
    if not end <= watch.goal:  # so that NaN counts as a failure
        now = dict(module.named_parameters())
        still = [name for name, weight in before.items() if torch.equal(weight, now[name].detach().cpu())]
        never_moved = f" ({len(still)} weights never moved, {still[0]} first)" if still else ""
        raise UserError(
            f"overfitting one batch failed: the loss started at {start:.4g} and ended at {end:.4g}, "
            f"not within {tolerance:g} of its floor {floor:g}; check whether labels are shuffled against "
            f"inputs, the graph is detached, the learning rate is wrong or layers are frozen{never_moved}"
        )
    print(f"One batch can be learnt by heart: loss {start:.4f} -> {end:.4f} (its floor is {floor:g}).")
    return end
