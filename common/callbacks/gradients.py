"""The gradient's norm as a curve, and a stop before a non-finite number reaches the weights."""

from __future__ import annotations

from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from common.callbacks import log_interval
from common.checkpoints import newest_first
from common.errors import UserError


class GradientMonitor(Callback):
    """Logs `grad/norm`, the 2-norm of all gradients together, and guards against NaN and infinity.

    The loss is looked at before the backward pass and the norm before the optimizer's step, so weights and checkpoints
    never take in a non-finite number. (A gradient scaler, under `16-mixed`, deals with infinite gradients itself.)

    Args:
        checkpoints: the folder that the message about a stop points to.

    Raises:
        UserError: from the hooks, naming the step and the last good checkpoint.
    """

    def __init__(self, checkpoints: Path) -> None:
        self.checkpoints = checkpoints

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Stops on a loss that is not finite."""
        if not torch.isfinite(loss).all():
            self._stop(trainer, f"the loss is {loss.item()}")

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Logs the norm, and stops if it is not finite."""
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if getattr(trainer.precision_plugin, "scaler", None) is None and not torch.isfinite(norm):
            self._stop(trainer, "the gradient is not finite")
        if trainer.global_step % log_interval(trainer) == 0:
            pl_module.log("grad/norm", norm)

    def _stop(self, trainer: Trainer, what: str) -> None:
        good = newest_first(self.checkpoints)
        where = f"the last good checkpoint is {good[0]}" if good else "there is no checkpoint yet"
        raise UserError(
            f"stopped before step {trainer.global_step + 1}: {what}; {where}. "
            "Lower the learning rate, clip gradients (--trainer.gradient_clip_val 1), or try --precision 32-true"
        )
