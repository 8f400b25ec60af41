"""Gradient norm: logged in every logged step, with a stop at NaN and infinity before they reach the weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from common.errors import UserError
from common.io.checkpoints import sorted_by_step
from common.trainer import has_grad_scaler, should_log


class GradientMonitor(Callback):
    """Logs `grad/norm`, the 2-norm of all gradients together, and stops at NaN and infinity.

    The norm is checked before the optimizer's step, so no non-finite value reaches weights or checkpoints. A loss that is
    not finite makes its gradient so and, by the all-reduce, that of all processes: they stop together. (A gradient scaler,
    under `16-mixed`, handles infinite gradients itself; there the loss is checked.) A validation or test loss that is not
    finite stops the run too.

    Args:
        checkpoints: Folder of checkpoints that the error message points to.

    Raises:
        UserError: From the hooks, naming the step and the last good checkpoint.
    """

    def __init__(self, checkpoints: Path) -> None:
        self.checkpoints = checkpoints
        self.loss = torch.zeros(())
        self.batch: Any = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.batch = batch

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self.loss = loss.detach()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if not torch.isfinite(self.loss if has_grad_scaler(trainer) else norm):
            raise UserError(self._message(trainer, pl_module))
        if should_log(trainer):
            pl_module.log("grad/norm", norm)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check_loss(trainer, pl_module, "val/loss")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check_loss(trainer, pl_module, "test/loss")

    def _check_loss(self, trainer: Trainer, pl_module: LightningModule, name: str) -> None:
        loss = float(trainer.callback_metrics.get(name, 0.0))
        if not math.isfinite(loss):
            self.batch = None
            raise UserError(f"stopped after step {trainer.global_step}: {name} is {loss}. {self._cause(trainer, pl_module)}")

    def _message(self, trainer: Trainer, pl_module: LightningModule) -> str:
        loss = self.loss.item()
        fault = "the gradient is not finite" if math.isfinite(loss) else f"the loss is {loss}"
        good = sorted_by_step(self.checkpoints)
        where = f"the last good checkpoint is {good[0]}" if good else "there is no checkpoint yet"
        return f"stopped before step {trainer.global_step + 1}: {fault}; {where}. {self._cause(trainer, pl_module)}"

    def _cause(self, trainer: Trainer, pl_module: LightningModule) -> str:
        """What is to blame, data or weights as far as that can be seen, else the learning rate; and what to do."""
        if not all(part.isfinite().all() for part in tree_leaves(self.batch) if isinstance(part, Tensor)):
            return "The batch has values that are not finite: mend the data"
        broken = next((name for name, p in pl_module.named_parameters() if not p.isfinite().all()), None)
        if broken is not None and not trainer.global_step:
            return f"The weights {broken} are not finite from the start: use another checkpoint"
        if not trainer.global_step:
            return "Data and weights are finite: look for values that are too large, or try --precision 32-true"
        weights = "" if broken is None else f"The weights {broken} are not finite. "
        clipping = "clip gradients (--trainer.gradient_clip_val 1), " if pl_module.automatic_optimization else ""
        return f"{weights}Lower the learning rate, {clipping}or try --precision 32-true"
