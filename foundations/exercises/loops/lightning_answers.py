"""Modules of exercise lightning_modules as people write them, right ones and wrong ones."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundations.exercises.loops import imbalanced_loop

Batch = tuple[Tensor, Tensor]


def image_module(fault: str) -> Callable[..., Any]:
    """An ImageModule with one of the known faults, made when it is called: lightning is slow to import."""

    def make(model: nn.Module, lr: float, total_steps: int) -> Any:
        from lightning.pytorch import LightningModule

        class ImageModule(LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.model = model
                self.automatic_optimization = fault != "manual"

            def training_step(self, batch: Batch, batch_idx: int) -> Any:
                loss = F.cross_entropy(self.model(batch[0]), batch[1])
                if fault in ("stepped", "manual"):
                    self.optimizers().zero_grad()
                    loss.backward()
                    self.optimizers().step()
                if fault == "manual":
                    self.lr_schedulers().step()
                return None if fault == "no_loss" else loss

            def validation_step(self, batch: Batch, batch_idx: int) -> None:
                logits = self.model(batch[0])
                right = (logits.argmax(1) == batch[1]).float()
                size = 1 if fault == "mean_of_means" else len(right)
                self.log("val/accuracy", right.sum() if fault == "sum" else right.mean(), batch_size=size)

            def configure_optimizers(self) -> Any:
                optimizer = torch.optim.SGD(self.parameters(), lr=lr)
                start = lr if fault == "lr_twice" else 1
                schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: start * (1 - step / total_steps))
                interval = "epoch" if fault == "per_epoch" else "step"
                return [optimizer], [{"scheduler": schedule, "interval": interval}]

        return ImageModule()

    return make


def sequence_module(fault: str) -> Callable[..., Any]:
    """A SequenceModule with one of the known faults."""

    def make(model: nn.Module, lr: float, total_steps: int) -> Any:
        from lightning.pytorch import LightningModule

        class SequenceModule(LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.model, self.right = model, []

            def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
                logits, _ = self.model(batch[0])
                return F.cross_entropy(logits.transpose(1, 2), batch[1])

            def validation_step(self, batch: Batch, batch_idx: int) -> None:
                tokens, labels = batch
                self.right.append((self.model(tokens)[0].argmax(-1) == labels)[tokens > 0].float())
                if fault == "rows":
                    self.log("val/accuracy", self.right[-1].mean())

            def on_validation_epoch_end(self) -> None:
                if fault != "rows":
                    self.log("val/accuracy", torch.cat(self.right).mean())
                self.right = []

            def configure_optimizers(self) -> Any:
                optimizer = torch.optim.SGD(self.parameters(), lr=lr)
                schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_steps)
                return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

        return SequenceModule()

    return make


def imbalanced_module(fault: str) -> Callable[..., Any]:
    """An ImbalancedModule with one of the known faults."""

    def make(model: nn.Module, lr: float, total_steps: int, pos_weight: float) -> Any:
        from lightning.pytorch import LightningModule

        class ImbalancedModule(LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.model, self.scores, self.labels = model, [], []
                if fault == "no_buffer":
                    self.threshold = torch.zeros(())
                else:
                    self.register_buffer("threshold", torch.zeros(()))

            def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
                losses = F.binary_cross_entropy_with_logits(self.model(batch[0])[:, 0], batch[1].float(), reduction="none")
                return (losses * torch.where(batch[1] == 1, pos_weight, 1.0)).mean()

            def on_validation_epoch_start(self) -> None:
                if fault != "not_emptied":
                    self.scores, self.labels = [], []

            def validation_step(self, batch: Batch, batch_idx: int) -> None:
                self.scores += self.model(batch[0])[:, 0].sigmoid().tolist()
                self.labels += batch[1].tolist()

            def on_validation_epoch_end(self) -> None:
                scores, labels = torch.tensor(self.scores), torch.tensor(self.labels)
                f1, threshold = max((imbalanced_loop.f1_of(scores, labels, score), score) for score in self.scores)
                self.threshold.fill_(threshold)
                self.log("val/f1", f1)

            def configure_optimizers(self) -> Any:
                optimizer = torch.optim.SGD(self.parameters(), lr=lr)
                schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / total_steps)
                return [optimizer], [{"scheduler": schedule, "interval": "step"}]

        return ImbalancedModule()

    return make
