"""Gradient norm: logged in every logged step, with a stop at NaN and infinity before they reach the weights."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from common.errors import UserError
from common.io.checkpoints import sorted_by_step
from common.trainer import has_grad_scaler, should_log


class GradientMonitor(Callback):
    """Logs `grad/norm`, the 2-norm of all gradients together, and stops at NaN and infinity.

    The norm is checked before the optimizer's step, so no non-finite value reaches weights or checkpoints. A loss that is
    not finite makes its gradient so and, by the all-reduce, that of all processes: they stop together. (A gradient scaler,
    under `16-mixed`, handles infinite gradients itself; there the loss is checked.)

    Args:
        checkpoints: Folder of checkpoints that the error message points to.

    Raises:
        UserError: From the hooks, naming the step and the last good checkpoint.
    """

    def __init__(self, checkpoints: Path) -> None:
        self.checkpoints = checkpoints
        self.loss = torch.zeros(())

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self.loss = loss.detach()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if not torch.isfinite(self.loss if has_grad_scaler(trainer) else norm):
            raise UserError(self._message(trainer, pl_module))
        if should_log(trainer):
            pl_module.log("grad/norm", norm)

    def _message(self, trainer: Trainer, pl_module: LightningModule) -> str:
        loss = self.loss.item()
        fault = "the gradient is not finite" if math.isfinite(loss) else f"the loss is {loss}"
        good = sorted_by_step(self.checkpoints)
        where = f"the last good checkpoint is {good[0]}" if good else "there is no checkpoint yet"
        clipping = "clip gradients (--trainer.gradient_clip_val 1), " if pl_module.automatic_optimization else ""
        return (
            f"stopped before step {trainer.global_step + 1}: {fault}; {where}. "
            f"Lower the learning rate, {clipping}or try --precision 32-true"
        )
