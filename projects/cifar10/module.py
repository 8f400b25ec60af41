"""The LightningModule: what is learned, how it is measured, what steps it takes."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from common.errors import UserError
from common.nn.losses import min_smoothed_cross_entropy
from common.trainer import training_steps
from projects.cifar10.inference import predict_logits
from projects.cifar10.networks import ResNet18, SpeedNet, resize
from projects.cifar10.optim import Lookahead, MuonSGD, parameter_groups

LOOKAHEAD_STEPS = 5
SMALLEST = 9  # pixels: the speed network halves the size three times


class CIFAR10Module(LightningModule):
    """A classifier of small pictures.

    Args:
        network: `speednet` or `resnet18`.
        num_classes: size of the output.
        widths: channels of the speed network's three blocks.
        depths: convolutions in each of them, 2 or 3.
        bn_momentum: weight of the newest batch in its running statistics.
        optimizer: `muon` (filters by Muon, the rest by SGD) or `sgd` (everything by SGD with `lr`).
        lr: SGD's learning rate; used by `sgd` alone.
        muon_lr: length of a step on a filter bank of norm sqrt(out), before the schedule.
        muon_momentum: momentum of the filters under `muon`.
        head_lr: learning rate of the last layer under `muon`. Large, because its logits are divided by its width.
        bias_lr: learning rate of biases under `muon`.
        momentum: momentum of all SGD groups.
        weight_decay: under `sgd` the usual L2 factor; under `muon` the share by which head and biases shrink in a step
            at the full rate.
        whiten_bias_epochs: epochs after which the bias of the whitening layer stays as it is.
        schedule: `linear` or `cosine`, each down to zero at the last step.
        warmup: share of all steps in which the rate rises linearly from a fifth.
        label_smoothing: share of the target spread evenly over all classes.
        resolutions: pairs of (share of training done, picture size) from which training uses that size; empty for
            full size throughout. Smaller pictures cost the square less (progressive resizing, as in FixRes and DAWNBench).
        lookahead: whether slow weights are kept and returned to every five steps.
        tta: views at test: 0 one, 1 with mirror, 2 with mirror and shifts (six).
        compile: whether the network is compiled by `torch.compile`.
    """

    def __init__(
        self,
        network: str = "speednet",
        num_classes: int = 10,
        widths: tuple[int, int, int] = (64, 256, 256),
        depths: tuple[int, int, int] = (2, 2, 2),
        bn_momentum: float = 0.4,
        optimizer: str = "muon",
        lr: float = 0.1,
        muon_lr: float = 0.12,
        muon_momentum: float = 0.6,
        head_lr: float = 335.0,
        bias_lr: float = 26.5,
        momentum: float = 0.85,
        weight_decay: float = 1e-3,
        whiten_bias_epochs: int = 3,
        schedule: str = "linear",
        warmup: float = 0.0,
        label_smoothing: float = 0.2,
        resolutions: list[tuple[float, int]] | None = None,
        lookahead: bool = False,
        tta: int = 2,
        compile: bool = False,
    ) -> None:
        super().__init__()
        for option, value, choices in [
            ("network", network, ("speednet", "resnet18")),
            ("optimizer", optimizer, ("muon", "sgd")),
            ("schedule", schedule, ("linear", "cosine")),
            ("tta", tta, (0, 1, 2)),
        ]:
            if value not in choices:
                raise UserError(f"--model.{option} {value}: use one of {', '.join(map(str, choices))}")
        if not set(depths) <= {2, 3}:
            raise UserError(f"--model.depths {list(depths)}: each block has 2 or 3 convolutions")
        if min(lr, head_lr, bias_lr) <= 0:
            raise UserError("--model.lr, head_lr and bias_lr are above 0")
        resolutions = [(float(share), int(size)) for share, size in resolutions or []]
        for share, size in resolutions:
            if not 0 <= share <= 1 or size < SMALLEST:
                raise UserError(f"--model.resolutions [{share}, {size}]: a share is 0 to 1, a size {SMALLEST} or more")
        widths, depths = (widths[0], widths[1], widths[2]), (depths[0], depths[1], depths[2])
        self.save_hyperparameters()
        self.net: SpeedNet | ResNet18
        if network == "resnet18":
            self.net = ResNet18(num_classes)
        else:
            self.net = SpeedNet(widths, depths, bn_momentum, num_classes)
        self.net.to(memory_format=torch.channels_last)
        self.slow_weights = Lookahead(self.net) if lookahead else None
        # losses as metrics too: `log(..., sync_dist=True)` rounds the mean batch size of the processes down
        self.val_loss, self.test_loss = MeanMetric(), MeanMetric()
        self.val_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.test_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.test_accuracy_plain = MulticlassAccuracy(num_classes, average="micro")
        self.test_calibration = MulticlassCalibrationError(num_classes, n_bins=15)

    @property
    def min_loss(self) -> float:
        """The least cross-entropy that smoothed targets allow, in nats."""
        return min_smoothed_cross_entropy(self.hparams["label_smoothing"], self.hparams["num_classes"])

    def setup(self, stage: str) -> None:
        """Takes the network's input statistics from the training pictures, the same in every process."""
        if stage != "fit":
            return
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if len(data.class_names) != self.hparams["num_classes"]:
            raise UserError(
                f"--model.num_classes {self.hparams['num_classes']}: the data has {len(data.class_names)} classes"
            )
        self.net.fit_inputs(data.input_sample().cpu())
        if self.slow_weights is not None:
            self.slow_weights = Lookahead(self.net)
        if self.hparams["compile"]:
            self.net.compile()  # in place: the state's keys stay as they are

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 3, height, width) uint8 -> logits (batch, num_classes)."""
        return self.net(images)

    def losses(self, images: Tensor, labels: Tensor) -> Tensor:
        """Smoothed cross-entropy (batch,), in nats, of pictures (batch, 3, h, w) with labels (batch,)."""
        logits = self(images).to(self.net.normalize.mean.dtype)
        return F.cross_entropy(logits, labels, label_smoothing=self.hparams["label_smoothing"], reduction="none")

    def compute_loss(self, batch: tuple[Tensor, ...]) -> Tensor:
        """The mean of `losses` over a batch (images, labels, ...)."""
        return self.losses(batch[0], batch[1]).mean()

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss at the picture size that is due; the data learns which pictures are hard."""
        images, labels, index = batch
        self.net.normalize.size = self.current_resolution(images.shape[-1])
        losses = self.losses(resize(images, self.net.normalize.size), labels)
        self.trainer.datamodule.selection.report(index, losses)  # type: ignore[attr-defined]
        loss = losses.mean()
        self.log("train/loss", loss)
        return loss

    def current_resolution(self, full: int) -> int:
        """The training picture size, in pixels, at this point of training; `full` where no schedule says otherwise."""
        size = full
        if self.hparams["resolutions"]:
            done = self.trainer.global_step / self.trainer.estimated_stepping_batches
            for share, at in self.hparams["resolutions"]:
                if done >= share:
                    size = at
        return size

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Loss without smoothing and accuracy, of the plain picture."""
        images, labels = batch
        logits = self(images).float()
        self.val_loss.update(F.cross_entropy(logits, labels), len(labels))
        self.val_accuracy.update(logits, labels)
        self.log("val/loss", self.val_loss)
        self.log("val/accuracy", self.val_accuracy, prog_bar=True)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Accuracy with test-time augmentation, without it, and calibration error. Returns what the pictures show."""
        images, labels = batch
        plain = self(images).float()
        logits = predict_logits(self.net, images, self.hparams["tta"])
        self.test_loss.update(F.cross_entropy(logits, labels), len(labels))
        self.test_accuracy.update(logits, labels)
        self.test_accuracy_plain.update(plain, labels)
        self.test_calibration.update(logits.softmax(1), labels)
        self.log("test/loss", self.test_loss)
        self.log("test/accuracy", self.test_accuracy)
        self.log("test/accuracy_plain", self.test_accuracy_plain)
        self.log("test/calibration_error", self.test_calibration)
        return {"images": images, "labels": labels, "logits": logits}

    def configure_optimizers(self) -> Any:
        """The optimizer with its parameter groups, and the schedule of each group, stepped every batch."""
        h = self.hparams
        if h["optimizer"] == "sgd":
            options = {"lr": h["lr"], "momentum": h["momentum"], "weight_decay": h["weight_decay"]}
            groups = parameter_groups(self.net, options, options, options)
        else:
            # SGD shrinks a weight by rate times decay in a step: divided by the rate, the share stays what was asked for
            groups = parameter_groups(
                self.net,
                filters={"muon": True, "lr": h["muon_lr"], "momentum": h["muon_momentum"]},
                head={"lr": h["head_lr"], "momentum": h["momentum"], "weight_decay": h["weight_decay"] / h["head_lr"]},
                biases={
                    "lr": h["bias_lr"],
                    "momentum": h["momentum"],
                    "weight_decay": h["weight_decay"] / h["bias_lr"],
                },
            )
        optimizer = MuonSGD(groups)
        steps = training_steps(self.trainer)
        self.trainer.fit_loop.setup_data()  # with --max_steps alone nobody has counted the batches yet
        epoch_steps = math.ceil(min(steps, self.trainer.num_training_batches / self.trainer.accumulate_grad_batches))
        whiten_steps = min(steps, h["whiten_bias_epochs"] * epoch_steps)

        def rate(step: int) -> float:
            done = min(1.0, step / steps)
            decayed = 1 - done if h["schedule"] == "linear" else 0.5 * (1 + math.cos(math.pi * done))
            return min(decayed, 0.2 + 0.8 * done / h["warmup"]) if done < h["warmup"] else decayed

        def whiten_rate(step: int) -> float:
            return max(0.0, 1 - step / whiten_steps) if whiten_steps else 0.0

        rates: list[Any] = [whiten_rate if group["name"] == "whiten" else rate for group in optimizer.param_groups]
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, rates), "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        """Stops the gradient of the whitening bias once its rate is zero: the widest feature map needs none then."""
        if isinstance(self.net, SpeedNet) and self.trainer.world_size == 1:  # DDP expects the same gradients throughout
            self.net.whiten.get_parameter("bias").requires_grad_(self.current_epoch < self.hparams["whiten_bias_epochs"])

    def optimizer_step(self, *args: Any, **options: Any) -> None:
        """Steps, and returns to the slow weights where the recipe keeps them; they weigh more as training goes on.

        A part of the step, so that a checkpoint saved at the batch's end holds what came of it.
        """
        super().optimizer_step(*args, **options)
        if self.slow_weights is None:
            return
        step = self.trainer.global_step + 1  # Lightning counts it only after this
        done = step / self.trainer.estimated_stepping_batches
        if step % LOOKAHEAD_STEPS == 0:
            self.slow_weights.update(self.net, 0.95**LOOKAHEAD_STEPS * min(1.0, done) ** 3)
        if done >= 1:
            self.slow_weights.update(self.net, 1.0)  # training ends on the slow weights

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what prediction needs, the names of the classes, and what resuming needs, the slow weights."""
        if self._trainer is not None and self.trainer.datamodule is not None:  # type: ignore[attr-defined]
            checkpoint["class_names"] = list(self.trainer.datamodule.class_names)  # type: ignore[attr-defined]
        if self.slow_weights is not None:
            checkpoint["slow_weights"] = self.slow_weights.slow

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the slow weights back."""
        if self.slow_weights is not None and "slow_weights" in checkpoint:
            self.slow_weights.slow = checkpoint["slow_weights"]
