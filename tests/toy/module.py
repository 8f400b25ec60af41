"""Classifier with an option of each kind, and a callback that saves a plot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jsonargparse.typing import PositiveFloat, PositiveInt
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image
from torch import Tensor, nn

from common.io.loggers import log_plot
from common.options import as_dataclass
from common.plots.figures import report_plot_errors


@dataclass(frozen=True)
class MLPConfig:
    """Options of the MLP.

    Args:
        hidden_dim: Units of the hidden layer.
        activation: Its activation function.
    """

    hidden_dim: PositiveInt = 8
    activation: Literal["relu", "tanh"] = "relu"


class ToyModule(LightningModule):
    """Classifier of points.

    Args:
        num_classes: Number of classes; taken from the data.
        lr: Learning rate of SGD.
        mlp: Options of the network.
    """

    def __init__(self, num_classes: int, lr: PositiveFloat = 0.5, mlp: MLPConfig = MLPConfig()) -> None:
        super().__init__()
        mlp = as_dataclass(MLPConfig, mlp)
        self.save_hyperparameters()
        activation = nn.ReLU() if mlp.activation == "relu" else nn.Tanh()
        self.net = nn.Sequential(
            nn.Linear(4, mlp.hidden_dim), nn.Dropout(0.2), activation, nn.Linear(mlp.hidden_dim, num_classes)
        )
        self.metadata = {"classes": num_classes}

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        inputs, labels = batch
        loss = F.cross_entropy(self.net(inputs), labels)
        self.log("train/loss", loss)
        return loss

    def evaluate(self, batch: tuple[Tensor, Tensor], split: str) -> None:
        """Logs loss and accuracy."""
        inputs, labels = batch
        logits = self.net(inputs)
        self.log(f"{split}/loss", F.cross_entropy(logits, labels), batch_size=len(labels))
        self.log(f"{split}/accuracy", (logits.argmax(1) == labels).float().mean(), batch_size=len(labels))

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.evaluate(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.evaluate(batch, "test")

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"])


class SavePlot(Callback):
    """Saves and logs a plot after the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        with report_plot_errors("points.png"):
            self.folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8)).save(self.folder / "points.png")
            log_plot(trainer, "points", self.folder / "points.png")
