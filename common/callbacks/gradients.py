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

NO_STEP = 2**62


class GradientMonitor(Callback):
    """Logs `grad/norm`, the 2-norm of all gradients together, and stops at NaN and infinity.

    On a CPU the norm is checked before each step of the optimizer, so no non-finite value reaches weights or checkpoints.
    Elsewhere the host would have to wait for the device, so the first step that was not finite is kept there; it is read in
    logged steps, before a validation and before a checkpoint is saved: no checkpoint holds such weights.

    A loss that is not finite makes its gradient so and, by the all-reduce, that of all processes: they stop together. (A
    gradient scaler, under `16-mixed`, handles infinite gradients itself; there the loss is checked.) A validation or test
    loss that is not finite stops the run too.

    Args:
        checkpoints: Folder of checkpoints that the error message points to.

    Raises:
        UserError: From the hooks, naming the step and the last good checkpoint.
    """

    def __init__(self, checkpoints: Path) -> None:
        self.checkpoints = checkpoints
        self.loss = torch.zeros(())
        self.batch: Any = None
        self.bad_step = self.bad_loss = torch.zeros(())  # of a device: the first step that was not finite, and its loss

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.bad_step = torch.full((), NO_STEP, device=pl_module.device)
        self.bad_loss = torch.zeros((), device=pl_module.device)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.batch = batch

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self.loss = loss.detach()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        finite = torch.isfinite(self.loss if has_grad_scaler(trainer) else norm)
        if pl_module.device.type == "cpu":
            if not finite:
                raise UserError(self._message(trainer, pl_module))
        else:
            is_first = ~finite & (self.bad_step == NO_STEP)
            self.bad_loss = torch.where(is_first, self.loss, self.bad_loss)
            self.bad_step = self.bad_step.masked_fill(is_first, trainer.global_step + 1)
            if should_log(trainer):
                self._check_steps(trainer, pl_module)
        if should_log(trainer):
            pl_module.log("grad/norm", norm)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._check_steps(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check_steps(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check_steps(trainer, pl_module)

    def _check_steps(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raises UserError if a step since the start of the training was not finite. Of a device the host waits for it."""
        if self.bad_step.device.type == "cpu" or (bad_step := int(self.bad_step)) == NO_STEP:
            return
        self.loss = self.bad_loss
        if bad_step > trainer.global_step:  # it is the step at hand, and the optimizer has not been there yet
            raise UserError(self._message(trainer, pl_module))
        fault = f"since step {bad_step} {self._fault()}, and the weights with it"
        advice = "--trainer.log_every_n_steps 1 stops before such a step and names its cause"
        raise UserError(f"stopped after step {trainer.global_step}: {fault}; {self._last_good()}. {advice}")

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
        cause = self._cause(trainer, pl_module)
        return f"stopped before step {trainer.global_step + 1}: {self._fault()}; {self._last_good()}. {cause}"

    def _fault(self) -> str:
        loss = self.loss.item()
        return "the gradient is not finite" if math.isfinite(loss) else f"the loss is {loss}"

    def _last_good(self) -> str:
        good = sorted_by_step(self.checkpoints)
        return f"the last good checkpoint is {good[0]}" if good else "there is no checkpoint yet"

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
