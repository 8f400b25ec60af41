"""Lightning modules: the same five loops, without the loops

What differs between your loops is the loss and the metric. Lightning does the rest: batches, modes, gradients, best weights.
"""

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from loops.imbalanced_loop import best_threshold
from torch import Tensor, nn
from torch.utils.data import DataLoader


class LoopModule(LightningModule):
    """What the five have in common: a model, SGD, and a learning rate that falls linearly to 0, a little in every step.

    Args:
        model: Network.
        lr: Learning rate of the first step; in step k, counted from 0, it is lr * (1 - k / total_steps).
        total_steps: Steps of the whole training.
    """

    def __init__(self, model: nn.Module, lr: float, total_steps: int) -> None:
        super().__init__()
        self.model, self.lr, self.total_steps = model, lr, total_steps

    def configure_optimizers(self) -> dict:
        """SGD, and the schedule of its learning rate."""
        optimizer = torch.optim.SGD(self.model.parameters(), lr=self.lr)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class ImageModule(LoopModule):
    """Mean cross-entropy of images and labels (B,); logs `val/accuracy`, over all validation images."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Loss of a batch."""
        images, labels = batch
        return F.cross_entropy(self.model(images), labels)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Logs the metric, exact for batches of any sizes."""
        images, labels = batch
        accuracy = (self.model(images).argmax(1) == labels).float().mean()
        self.log("val/accuracy", accuracy)


class RegressionModule(LoopModule):
    """Mean squared error of predictions (B, 1) to (targets (B,) - mean) / std; logs `val/mse`, in squared target units.

    Args:
        model: Network.
        lr: Learning rate of the first step.
        total_steps: Steps of the whole training.
        mean: Mean of the training targets.
        std: Their standard deviation.
    """

    def __init__(self, model: nn.Module, lr: float, total_steps: int, mean: float, std: float) -> None:
        super().__init__(model, lr, total_steps)
        self.mean, self.std = mean, std

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Loss of a batch."""
        inputs, targets = batch
        return F.mse_loss(self.model(inputs)[:, 0], (targets - self.mean) / self.std)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Logs the metric, exact for batches of any sizes."""
        inputs, targets = batch
        predictions = self.model(inputs)[:, 0] * self.std + self.mean
        self.log("val/mse", (predictions - targets).square().mean())


class SequenceModule(LoopModule):
    """Mean cross-entropy of the real tokens; logs `val/accuracy`, over all real tokens.

    A batch is tokens (B, T) and labels (B, T), with label -100 at padding; the model gives (logits (B, T, K), state).
    """

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Loss of a batch."""
        tokens, labels = batch
        return F.cross_entropy(self.model(tokens)[0].flatten(0, 1), labels.flatten())

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Logs the metric, exact for batches of any sizes."""
        tokens, labels = batch
        real = labels != -100
        accuracy = (self.model(tokens)[0].argmax(2) == labels)[real].float().mean()
        self.log("val/accuracy", accuracy, batch_size=int(real.sum()))


class ImbalancedModule(LoopModule):
    """Binary cross-entropy of logits (B, 1) and labels (B,), positives weighted; logs `val/f1`, at the best threshold.

    Args:
        model: Network.
        lr: Learning rate of the first step.
        total_steps: Steps of the whole training.
        pos_weight: Weight of a positive in the loss.

    Attributes:
        threshold: Buffer () with the threshold of the last validation, on the probability.
    """

    def __init__(self, model: nn.Module, lr: float, total_steps: int, pos_weight: float) -> None:
        super().__init__(model, lr, total_steps)
        self.pos_weight, self.outputs = torch.tensor(pos_weight), []
        self.register_buffer("threshold", torch.zeros(()))  # a buffer: it is saved and loaded with the weights

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Loss of a batch."""
        inputs, labels = batch
        logits = self.model(inputs)[:, 0]
        return F.binary_cross_entropy_with_logits(logits, labels.float(), pos_weight=self.pos_weight)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Keeps what the metric needs: F1 is no mean over batches."""
        inputs, labels = batch
        self.outputs.append((self.model(inputs)[:, 0].sigmoid(), labels))

    def on_validation_epoch_end(self) -> None:
        """Logs the metric."""
        probabilities, labels = (torch.cat(parts) for parts in zip(*self.outputs, strict=True))
        threshold, f1 = best_threshold(probabilities, labels)
        self.threshold.fill_(threshold)
        self.log("val/f1", f1)
        self.outputs.clear()


class MultilabelModule(LoopModule):
    """Mean binary cross-entropy of logits (B, K) and labels (B, K); logs `val/accuracy`, over all entries."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Loss of a batch."""
        inputs, labels = batch
        return F.binary_cross_entropy_with_logits(self.model(inputs), labels)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Logs the metric, exact for batches of any sizes."""
        inputs, labels = batch
        accuracy = ((self.model(inputs) > 0) == labels.bool()).float().mean()
        self.log("val/accuracy", accuracy)


def fit(
    module: LightningModule, train: DataLoader, val: DataLoader, epochs: int, monitor: str, mode: str, folder: str
) -> float:
    """Trains on the CPU, without logger, progress bar and summary, and loads the state dict of the best epoch.

    Args:
        module: One of the five.
        train: Training batches.
        val: Validation batches.
        epochs: Number of epochs.
        monitor: Name of the metric that decides, such as "val/accuracy".
        mode: "max" or "min".
        folder: Where checkpoints are kept.

    Returns:
        The best value of the metric.
    """
    checkpoint = ModelCheckpoint(folder, monitor=monitor, mode=mode)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[checkpoint],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, train, val)
    module.load_state_dict(torch.load(checkpoint.best_model_path)["state_dict"])
    return checkpoint.best_model_score.item()
