"""Image classification: the LightningModule with its loss, metrics, optimizer and learning-rate schedule."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, NonNegativeInt, PositiveFloat
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from common.errors import UserError
from common.metrics import MeanLoss
from common.nn.calibration import fit_temperature
from common.nn.distributed import all_gather_objects
from common.nn.losses import min_smoothed_cross_entropy
from common.nn.optim import lr_factor
from common.options import AtLeastTwo, Fraction, as_dataclass
from common.trainer import attached_trainer, loss_scale, training_steps
from projects.cifar10.config import ImageSize, SpeedNetConfig
from projects.cifar10.lookahead import Lookahead
from projects.cifar10.networks import SpeedNet, resize
from projects.cifar10.optim import MuonSGD, parameter_groups
from projects.cifar10.resnet import ResNet18
from projects.cifar10.tta import predict_logits


class CIFAR10Module(LightningModule):
    """Classifier of small images.

    Args:
        network: `speednet` or `resnet18`.
        speednet: Options of the speed network.
        num_classes: Number of classes.
        optimizer: `muon` (convolution filters by Muon, the rest by SGD) or `sgd` (everything by SGD with `lr`).
        lr: Peak learning rate under `sgd`.
        muon_lr: Peak learning rate of the filters under `muon`: length of a step on a filter bank of norm sqrt(out).
        muon_momentum: Momentum of the filters under `muon`.
        head_lr: Peak learning rate of the last layer under `muon`; large, as the logits are divided by its input features.
            In proportion to these features and to the batch size it suits other networks: at 32 features and batches of
            50, 4.2 in place of 335 (for 256 and 500), at which all units of the last block would die.
        bias_lr: Peak learning rate of the biases under `muon`; in the same proportion.
        momentum: Nesterov momentum of SGD.
        weight_decay: Weight decay: under `sgd` the usual L2 coefficient; under `muon` head and biases shrink in a step at
            the peak learning rate by the fraction `weight_decay` / (1 - `momentum`), as momentum adds up.
        whiten_bias_epochs: Epochs after which the bias of the whitening layer is frozen.
        schedule: Learning-rate decay: `linear` or `cosine`, each to zero at the last step.
        label_smoothing: Label smoothing: fraction of the target spread evenly over all classes.
        progressive_resizing: Progressive resizing: pairs (fraction of training done, image size in pixels) from which on
            that size is trained; empty for the full size throughout. A convolution's cost falls with the square.
        lookahead: Lookahead optimizer: slow weights that the fast ones return to every five steps.
        tta: Test-time augmentation: 0 the image alone, 1 with its horizontal flip, 2 with flip and shifts (six views).
            No flips under `--data.augmentation.flip none`.
    """

    def __init__(
        self,
        network: Literal["speednet", "resnet18"] = "speednet",
        speednet: SpeedNetConfig = SpeedNetConfig(),
        num_classes: AtLeastTwo = 10,
        optimizer: Literal["muon", "sgd"] = "muon",
        lr: PositiveFloat = 0.1,
        muon_lr: PositiveFloat = 0.12,
        muon_momentum: Fraction = 0.6,
        head_lr: PositiveFloat = 335.0,
        bias_lr: PositiveFloat = 26.5,
        momentum: Fraction = 0.85,
        weight_decay: NonNegativeFloat = 1e-3,
        whiten_bias_epochs: NonNegativeInt = 5,
        schedule: Literal["linear", "cosine"] = "linear",
        label_smoothing: Fraction = 0.2,
        progressive_resizing: tuple[tuple[ClosedUnitInterval, ImageSize], ...] = (
            (0.0, 20),
            (0.25, 24),
            (0.5, 28),
            (0.7, 32),
        ),
        lookahead: bool = False,
        tta: Literal[0, 1, 2] = 2,
    ) -> None:
        super().__init__()
        speednet = as_dataclass(SpeedNetConfig, speednet)
        self.save_hyperparameters()
        self.net: SpeedNet | ResNet18
        if network == "resnet18":
            self.net = ResNet18(num_classes)
        else:
            self.net = SpeedNet(speednet.block_channels, speednet.convs_per_block, speednet.bn_momentum, num_classes)
        self.net.to(memory_format=torch.channels_last)
        self.lookahead = Lookahead(self.net) if lookahead else None
        # losses as metrics too: `log(..., sync_dist=True)` rounds the mean batch size of the processes down
        self.val_loss, self.val_accuracy = MeanLoss(), MulticlassAccuracy(num_classes, average="micro")
        self.test_metrics = nn.ModuleDict({suffix: classification_metrics(num_classes) for suffix in ("plain", "tta")})
        self.register_buffer("temperature", torch.ones(()))  # of temperature scaling, fitted after each validation
        self.temperature: Tensor
        self.val_outputs: list[tuple[Tensor, Tensor]] = []  # logits and labels of each batch
        self.metadata: dict[str, float] = {}

    @property
    def min_loss(self) -> float:
        """Minimum of the cross-entropy with smoothed targets, in nats."""
        return min_smoothed_cross_entropy(self.hparams["label_smoothing"], self.hparams["num_classes"])

    def setup(self, stage: str) -> None:
        """Initializes the network's input statistics from the training images, the same in every process."""
        if stage != "fit":
            return
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if len(data.class_names) != self.hparams["num_classes"]:
            raise UserError(
                f"--model.num_classes {self.hparams['num_classes']}: the data has {len(data.class_names)} classes"
            )
        self.net.init_input_stats(data.train.images.cpu())
        if self.lookahead is not None:
            self.lookahead = Lookahead(self.net)

    def on_fit_start(self) -> None:
        if self.lookahead is not None:
            self.lookahead.to(self.net)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 3, height, width) uint8 -> logits (batch, num_classes)."""
        return self.net(images)

    def losses(self, images: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy (batch,) with label smoothing, in nats, of images (batch, 3, height, width)."""
        logits = self(images).to(self.net.normalize.mean.dtype)
        return F.cross_entropy(logits, labels, label_smoothing=self.hparams["label_smoothing"], reduction="none")

    def compute_loss(self, batch: tuple[Tensor, ...]) -> Tensor:
        """Mean of `losses` over a batch (images, labels, ...)."""
        return self.losses(batch[0], batch[1]).mean()

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels, index = batch
        size = self.scheduled_size(images.shape[-1])  # progressive resizing
        self.net.normalize.size = size
        losses = self.losses(resize(images, size), labels)  # (batch,)
        num_samples = self.trainer.train_dataloader.global_batch_size  # type: ignore[union-attr]
        self.trainer.datamodule.hard_examples.update(index, losses, num_samples)  # type: ignore[attr-defined]
        loss = losses.mean()
        self.log("train/loss", loss)
        return loss * loss_scale(self.trainer, batch_idx, len(labels))

    def scheduled_size(self, full_size: int) -> int:
        """Image size in pixels at this point of training; `full_size` where progressive resizing has none."""
        done = self.trainer.global_step / self.trainer.estimated_stepping_batches
        sizes = [size for start, size in self.hparams["progressive_resizing"] if done >= start]
        return sizes[-1] if sizes else full_size

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Cross-entropy without smoothing, and accuracy."""
        images, labels = batch
        logits = self(images).float()
        self.val_loss.update(F.cross_entropy(logits, labels), len(labels))
        self.val_accuracy.update(logits, labels)
        self.val_outputs.append((logits, labels))
        self.log("val/loss", self.val_loss)
        self.log("val/accuracy", self.val_accuracy, prog_bar=True)

    def on_validation_start(self) -> None:
        self.val_outputs = []

    def on_validation_epoch_end(self) -> None:
        """Fits the temperature on all validation images; checkpoints hold it beside the weights it belongs to."""
        if not self.val_outputs:
            return
        logits, labels = (torch.cat(parts).cpu() for parts in zip(*self.val_outputs, strict=True))
        self.val_outputs = []
        shards = all_gather_objects((logits, labels), self.trainer.world_size)
        logits, labels = (torch.cat(parts) for parts in zip(*shards, strict=True))
        # four digits of it do not depend on the order in which processes have the images
        self.temperature.fill_(round(fit_temperature(logits, labels).item(), 4))

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Metrics as in validation, and calibration errors; the same with test-time augmentation (TTA).

        Returns images, labels, and for the plots the calibrated logits (batch, num_classes) with TTA.
        """
        images, labels = batch
        self.update_test_metrics(self(images).float(), labels, "plain", suffix="")
        flip = self.trainer.datamodule.horizontal_flip  # type: ignore[attr-defined]
        logits = predict_logits(self.net, images, self.hparams["tta"], flip)
        self.update_test_metrics(logits, labels, "tta", suffix="_tta")
        return {"images": images, "labels": labels, "logits": logits / self.temperature}

    def on_test_epoch_end(self) -> None:
        self.metadata["temperature"] = round(self.temperature.item(), 4)

    def update_test_metrics(self, logits: Tensor, labels: Tensor, name: str, suffix: str) -> None:
        """Updates and logs the metrics `name` from logits (batch, num_classes) and labels (batch,)."""
        metrics: Any = self.test_metrics[name]
        metrics["loss"].update(F.cross_entropy(logits, labels), len(labels))
        metrics["accuracy"].update(logits, labels)
        metrics["calibration_error"].update(logits.softmax(1), labels)
        metrics["calibration_error_scaled"].update((logits / self.temperature).softmax(1), labels)
        self.log_dict({f"test/{metric}{suffix}": value for metric, value in metrics.items()})

    def configure_optimizers(self) -> Any:
        """The optimizer, and the learning-rate schedule of each parameter group, stepped every batch."""
        h = self.hparams
        sgd = {"lr": h["lr"], "momentum": h["momentum"], "weight_decay": h["weight_decay"]}
        filters = head = biases = sgd
        if h["optimizer"] == "muon":
            filters = {"muon": True, "lr": h["muon_lr"], "momentum": h["muon_momentum"]}
            # SGD shrinks a weight by lr * weight_decay / (1 - momentum) in a step: divided by lr, it is independent of lr
            head = {**sgd, "lr": h["head_lr"], "weight_decay": h["weight_decay"] / h["head_lr"]}
            biases = {**sgd, "lr": h["bias_lr"], "weight_decay": h["weight_decay"] / h["bias_lr"]}
        optimizer = MuonSGD(parameter_groups(self.net, filters, head, biases))

        steps = training_steps(self.trainer)
        self.trainer.fit_loop.setup_data()  # with --max_steps alone nobody has counted the batches yet
        epoch_steps = math.ceil(min(steps, self.trainer.num_training_batches / self.trainer.accumulate_grad_batches))
        whiten_steps = min(steps, h["whiten_bias_epochs"] * epoch_steps)

        def decay(step: int) -> float:
            return lr_factor(step, steps, h["schedule"])

        def whiten_decay(step: int) -> float:
            return lr_factor(step, whiten_steps, "linear") if whiten_steps else 0.0

        factors: list[Any] = [whiten_decay if group["name"] == "whiten" else decay for group in optimizer.param_groups]
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factors), "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        """Freezes the whitening bias once its learning rate is zero: the largest feature map then needs no gradient."""
        if isinstance(self.net, SpeedNet) and self.trainer.world_size == 1:  # DDP expects the same gradients throughout
            self.net.whiten.get_parameter("bias").requires_grad_(self.current_epoch < self.hparams["whiten_bias_epochs"])

    def optimizer_step(self, *args: Any, **options: Any) -> None:
        """Optimizer step, then Lookahead: a part of the step, so that a checkpoint at the batch's end holds its result."""
        super().optimizer_step(*args, **options)
        if self.lookahead is not None:
            step = self.trainer.global_step + 1  # Lightning counts it only after this
            self.lookahead.step(self.net, step, int(self.trainer.estimated_stepping_batches))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what prediction needs, class names and whether flips are augmentation, and for resuming the slow weights."""
        trainer = attached_trainer(self)
        if trainer is not None and trainer.datamodule is not None:  # type: ignore[attr-defined]
            checkpoint["class_names"] = list(trainer.datamodule.class_names)  # type: ignore[attr-defined]
            checkpoint["horizontal_flip"] = trainer.datamodule.horizontal_flip  # type: ignore[attr-defined]
        if self.lookahead is not None:
            checkpoint["slow_weights"] = self.lookahead.slow

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"].setdefault("temperature", torch.ones(()))  # of versions that fitted none
        if self.lookahead is not None and "slow_weights" in checkpoint:
            self.lookahead.slow = checkpoint["slow_weights"]


def classification_metrics(num_classes: int) -> nn.ModuleDict:
    """Loss, accuracy, and expected calibration error with 15 bins: of the plain probabilities, and of the scaled ones."""
    accuracy = MulticlassAccuracy(num_classes, average="micro")
    plain, scaled = (MulticlassCalibrationError(num_classes, n_bins=15) for _ in range(2))
    metrics = {"loss": MeanLoss(), "accuracy": accuracy, "calibration_error": plain, "calibration_error_scaled": scaled}
    return nn.ModuleDict(metrics)
