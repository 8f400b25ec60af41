"""Regression by mean squared error: the LightningModule with its loss, metrics, optimizer and learning-rate schedule."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jsonargparse.typing import NonNegativeFloat, PositiveFloat, PositiveInt
from lightning.pytorch import LightningModule
from torch import Tensor
from torchmetrics import MeanSquaredError, R2Score

from common.nn.optim import warmup_schedule
from common.trainer import attached_trainer, loss_scale, training_steps
from projects.blank.networks import MLPRegressor


class BlankModule(LightningModule):
    """Regression with an MLP, trained by AdamW.

    Args:
        num_features: Number of input features; taken from the data.
        hidden_dim: Units of each hidden layer.
        num_layers: Number of hidden layers.
        lr: Peak learning rate of AdamW; it falls linearly to zero.
        weight_decay: Decoupled weight decay: each step shrinks the weights by this times the learning rate.
    """

    def __init__(
        self,
        num_features: int,
        hidden_dim: PositiveInt = 64,
        num_layers: PositiveInt = 2,
        lr: PositiveFloat = 0.003,
        weight_decay: NonNegativeFloat = 0.01,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = MLPRegressor(num_features, hidden_dim, num_layers)
        # losses are metrics too: the mean over several processes is not the mean of their means
        self.val_loss, self.test_loss, self.test_r2 = MeanSquaredError(), MeanSquaredError(), R2Score()

    def setup(self, stage: str) -> None:
        if stage == "fit":
            self.net.init_stats(*self.trainer.datamodule.train)  # type: ignore[attr-defined]

    def forward(self, inputs: Tensor) -> Tensor:
        """Features (batch, features) -> predictions (batch,)."""
        return self.net(inputs)

    def compute_loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Mean squared error of a batch: inputs (batch, features), targets (batch,)."""
        inputs, targets = batch
        return F.mse_loss(self(inputs), targets)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = self.compute_loss(batch)
        self.log("train/loss", loss)
        return loss * loss_scale(self.trainer, batch_idx, len(batch[1]))

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        inputs, targets = batch
        self.val_loss.update(self(inputs).float(), targets)
        self.log("val/loss", self.val_loss, prog_bar=True)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Mean squared error, and R²: the fraction of the targets' variance that is explained."""
        inputs, targets = batch
        predictions = self(inputs).float()
        self.test_loss.update(predictions, targets)
        self.test_r2.update(predictions, targets)
        self.log("test/loss", self.test_loss)
        self.log("test/r2", self.test_r2)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the names of the input columns, in order."""
        trainer = attached_trainer(self)
        if trainer is not None and trainer.datamodule is not None:  # type: ignore[attr-defined]
            checkpoint["feature_names"] = trainer.datamodule.feature_names  # type: ignore[attr-defined]

    def configure_optimizers(self) -> Any:
        h = self.hparams
        optimizer = torch.optim.AdamW(self.parameters(), lr=h["lr"], weight_decay=h["weight_decay"])
        return warmup_schedule(optimizer, training_steps(self.trainer), warmup_steps=0)
