"""The LightningModule: what is learned, how it is measured, what steps it takes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor
from torchmetrics import MeanSquaredError, R2Score

from common.errors import UserError
from common.nn.optim import warmup_schedule
from common.trainer import training_steps
from projects.blank.networks import Regressor


class BlankModule(LightningModule):
    """A regression.

    Args:
        inputs: numbers in a row; the data's.
        width: units of a hidden layer.
        layers: hidden layers.
        lr: AdamW's learning rate at its highest.
        weight_decay: share of the learning rate by which weights shrink in a step.
    """

    def __init__(self, inputs: int, width: int = 64, layers: int = 2, lr: float = 0.003, weight_decay: float = 0.01) -> None:
        super().__init__()
        if min(width, layers) < 1 or lr <= 0:
            raise UserError("--model.width and layers are at least 1, --model.lr is above 0")
        self.save_hyperparameters()
        self.net = Regressor(inputs, width, layers)
        # metrics, as a mean over several processes is not the mean of their means
        self.val_loss, self.test_loss, self.test_r2 = MeanSquaredError(), MeanSquaredError(), R2Score()

    def setup(self, stage: str) -> None:
        """Takes the scales of inputs and targets from the training rows, the same in every process."""
        if stage == "fit":
            self.net.fit_scales(*self.trainer.datamodule.train)  # type: ignore[attr-defined]

    def forward(self, inputs: Tensor) -> Tensor:
        """(batch, inputs) -> predictions (batch,)."""
        return self.net(inputs)

    def compute_loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The mean squared error of rows (batch, inputs) and targets (batch,)."""
        inputs, targets = batch
        return F.mse_loss(self(inputs), targets)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss."""
        loss = self.compute_loss(batch)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """The loss of the held-out rows."""
        inputs, targets = batch
        self.val_loss.update(self(inputs).float(), targets)
        self.log("val/loss", self.val_loss, prog_bar=True)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """The loss, and the share of the target's variance that is explained."""
        inputs, targets = batch
        predictions = self(inputs).float()
        self.test_loss.update(predictions, targets)
        self.test_r2.update(predictions, targets)
        self.log("test/loss", self.test_loss)
        self.log("test/r2", self.test_r2)

    def configure_optimizers(self) -> Any:
        """AdamW, whose rate falls linearly to zero at the last step."""
        h = self.hparams
        optimizer = torch.optim.AdamW(self.parameters(), lr=h["lr"], weight_decay=h["weight_decay"])
        return warmup_schedule(optimizer, training_steps(self.trainer), warmup_steps=0)
