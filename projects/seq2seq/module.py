"""Sequence-to-sequence training: the LightningModule with losses, translations and their metrics, and the optimizer."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any, Literal

import torch
import torch.distributed as dist
from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, PositiveFloat
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from common.errors import UserError
from common.metrics import MeanLoss
from common.nn.losses import min_smoothed_cross_entropy
from common.nn.optim import clip_gradients, warmup_schedule
from common.options import Fraction, as_dataclass
from common.trainer import attached_trainer, has_grad_scaler, training_steps
from projects.seq2seq.batch_decoding import translate_ids
from projects.seq2seq.config import (
    PAD,
    DecodingConfig,
    GenerationConfig,
    RecurrentConfig,
    TieWordEmbeddings,
    TransformerConfig,
)
from projects.seq2seq.data import Batch
from projects.seq2seq.losses import linear_cross_entropy
from projects.seq2seq.metrics import (
    BLEUTokenize,
    bleu_by_length,
    bleu_lc,
    choose_tokenizer,
    exact_match,
    length_unit,
    score_translations,
)
from projects.seq2seq.optim import ADAM_BETAS, ADAM_EPS, MuonAdamW, parameter_groups
from projects.seq2seq.recurrent import RecurrentModel
from projects.seq2seq.tokenizer import decode
from projects.seq2seq.transformer import TransformerModel


class Seq2SeqModule(LightningModule):
    """Machine translation with a recurrent network or a Transformer.

    Args:
        vocab_sizes: Sizes of the source and the target vocabulary; taken from the data.
        network: Architecture: `recurrent` or `transformer`.
        recurrent: Options of the recurrent network.
        transformer: Options of the Transformer.
        tie_word_embeddings: Weight tying: `all` makes one matrix of both embeddings and the output layer, `target` of the
            target embedding and the output layer, `none` none.
        label_smoothing: Fraction of a target that is spread evenly over the vocabulary.
        r_drop: R-Drop's alpha, the weight of the symmetric KL divergence between two passes; 0 for one pass.
        lr: Peak learning rate of AdamW.
        muon_lr: Peak learning rate of Muon for the matrices inside the network; null leaves them to AdamW.
        weight_decay: Decoupled weight decay: each step shrinks the weights by this times the learning rate.
        schedule: Learning-rate schedule: `linear` or `cosine`, each to zero at the last step, or `inverse_sqrt`.
        warmup: Fraction of all steps in which the learning rate rises linearly to its peak.
        decoding: Beam search at the test; validation decodes greedily.
        bleu_tokenize: SacreBLEU's tokenizer; `auto` is by the target language: `zh`, `ja-mecab` and `ko-mecab`, `char` for
            others without spaces between words, else `13a`.
    """

    overfit_steps = 800  # of `--debug overfit`: thousands of classes, most of them in no sentence of the batch, take a while

    def __init__(
        self,
        vocab_sizes: tuple[int, int],
        network: Literal["recurrent", "transformer"] = "recurrent",
        recurrent: RecurrentConfig = RecurrentConfig(),
        transformer: TransformerConfig = TransformerConfig(),
        tie_word_embeddings: TieWordEmbeddings = "all",
        label_smoothing: Fraction = 0.1,
        r_drop: NonNegativeFloat = 0.0,
        lr: PositiveFloat = 2e-3,
        muon_lr: PositiveFloat | None = None,
        weight_decay: NonNegativeFloat = 0.0,
        schedule: Literal["linear", "cosine", "inverse_sqrt"] = "linear",
        warmup: ClosedUnitInterval = 0.05,
        decoding: DecodingConfig = DecodingConfig(),
        bleu_tokenize: BLEUTokenize = "auto",
    ) -> None:
        super().__init__()
        recurrent, transformer = as_dataclass(RecurrentConfig, recurrent), as_dataclass(TransformerConfig, transformer)
        decoding = as_dataclass(DecodingConfig, decoding)
        vocab_sizes = vocab_sizes[0], vocab_sizes[1]
        if tie_word_embeddings == "all" and vocab_sizes[0] != vocab_sizes[1]:
            raise UserError("--model.tie_word_embeddings all: needs a joint vocabulary; use target or none")
        self.save_hyperparameters()
        self.net: RecurrentModel | TransformerModel
        if network == "recurrent":
            if recurrent.hidden_dim % 2:
                flag = f"--model.recurrent.hidden_dim {recurrent.hidden_dim}"
                raise UserError(f"{flag}: use an even number, half of it for each direction of the encoder")
            self.net = RecurrentModel(vocab_sizes, recurrent, tie_word_embeddings)
        else:
            check_heads(transformer)
            self.net = TransformerModel(vocab_sizes, transformer, tie_word_embeddings)
        self.test_generation = GenerationConfig(**asdict(decoding))
        self.val_generation = replace(self.test_generation, num_beams=1)
        self.val_loss, self.test_loss = MeanLoss(), MeanLoss()
        self.translations: dict[int, str] = {}  # of the split that is being evaluated, by the pair's index
        self.metadata: dict[str, Any] = {}  # of the test's metrics, for the summary

    @property
    def min_loss(self) -> float:
        """Minimum of the label-smoothed cross-entropy, in nats."""
        return min_smoothed_cross_entropy(self.hparams["label_smoothing"], self.hparams["vocab_sizes"][1])

    @property
    def networks_to_compile(self) -> list[nn.Module]:
        """Networks for `--compile`: packed sequences cannot be compiled."""
        return [] if isinstance(self.net, RecurrentModel) else [self.net]

    @property
    def tokenize(self) -> str:
        """SacreBLEU's tokenizer of the data's target language."""
        return choose_tokenizer(self.hparams["bleu_tokenize"], self.trainer.datamodule.languages[1])  # type: ignore[attr-defined]

    def on_fit_start(self) -> None:
        self.tokenize  # noqa: B018  a tokenizer that is not installed is said before the training

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.compute_loss(batch)
        tokens = (batch.target[:, 1:] != PAD).sum(1)
        self.log("train/loss", loss.detach() / (batch.weight * tokens).sum())  # per token of this batch alone
        return loss

    def compute_loss(self, batch: Batch) -> Tensor:
        """Training loss: label-smoothed cross-entropy with teacher forcing and, if asked for, R-Drop."""
        h = self.hparams
        ratio = self.teacher_forcing_ratio()
        options = {} if ratio == 1 else {"teacher_forcing": ratio}
        return self.cross_entropy(batch, h["label_smoothing"], h["r_drop"], **options)

    def cross_entropy(self, batch: Batch, label_smoothing: float = 0.0, r_drop: float = 0.0, **options: Any) -> Tensor:
        """Weighted cross-entropy of the target tokens, in nats, without PAD; see `Batch` and `linear_cross_entropy`."""
        source, lengths, target, weight, _, index = batch
        if r_drop:  # every pair twice, under different dropout
            source, lengths, target, weight = (torch.cat([x, x]) for x in (source, lengths, target, weight / 2))
            index = torch.cat([index, index + batch.target[:, 1:].numel()])
        inputs, labels = target[:, :-1], target[:, 1:]  # (batch, time): each token, and the one after it
        hidden = self.net(source, lengths, inputs, **options)  # (batch, time, embed_dim)
        # by an index that the host knows the length of; for that of a mask it would wait for the device
        weights = weight[:, None].expand_as(labels)
        hidden, labels, weights = (x.flatten(0, 1).index_select(0, index) for x in (hidden, labels, weights))
        output = self.net.output_layer
        return linear_cross_entropy(hidden, output.weight, output.bias, labels, weights, label_smoothing, r_drop)

    def teacher_forcing_ratio(self) -> float:
        """Scheduled teacher forcing ratio of the recurrent network: linear in the steps done; of the Transformer 1."""
        first, last = self.hparams["recurrent"].teacher_forcing
        if self.hparams["network"] == "transformer" or min(first, last) == 1:
            return 1.0
        trainer = attached_trainer(self)
        done = 0.0 if trainer is None else trainer.global_step / max(1, trainer.estimated_stepping_batches)
        return first + done * (last - first)

    def on_validation_start(self) -> None:
        self.translations = {}

    on_test_start = on_validation_start

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss without label smoothing, and greedy translations."""
        self.val_loss.update(self.cross_entropy(batch), len(batch.token_index))
        self.translate(batch, "val", self.val_generation)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss without label smoothing, and translations by beam search."""
        self.test_loss.update(self.cross_entropy(batch), len(batch.token_index))
        self.translate(batch, "test", self.test_generation)

    def translate(self, batch: Batch, split: str, generation: GenerationConfig) -> None:
        """Adds the translations of a batch of a split to `translations`."""
        data, indices = self.trainer.datamodule, batch.pair_index.tolist()  # type: ignore[attr-defined]
        sources = [data.splits[split].source_ids[i] for i in indices]
        limit, size = data.length_limit, len(sources)
        found = translate_ids(self.net, sources, generation, self.device, batch_size=size, length_limit=limit)
        for index, hypotheses in zip(indices, found, strict=True):
            self.translations[index] = decode(data.tokenizers[1], hypotheses[0].tokens)

    def on_validation_epoch_end(self) -> None:
        """Loss, perplexity (e to the loss), and BLEU and exact matches of greedy translations."""
        translations, references = self.all_gather_translations("val")
        loss = self.val_loss.compute()
        self.val_loss.reset()
        metrics = {"loss": loss, "perplexity": loss.exp(), "exact_match_greedy": exact_match(translations, references)}
        self.log_metrics("val", metrics)
        self.log("val/bleu_greedy_lc", bleu_lc(translations, references, self.tokenize), prog_bar=True, sync_dist=True)

    def on_test_epoch_end(self) -> None:
        """All metrics, and BLEU by the length of the reference."""
        translations, references = self.all_gather_translations("test")
        loss = self.test_loss.compute()
        self.test_loss.reset()
        metrics = {"loss": loss, "perplexity": loss.exp(), "exact_match": exact_match(translations, references)}
        self.log_metrics("test", metrics)
        if not translations:
            return
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        scores, signatures = score_translations(translations, references, data.languages[1], self.tokenize)
        by_length, unit = bleu_by_length(translations, references, self.tokenize), length_unit(self.tokenize)
        self.log_metrics("test", scores | {f"bleu_lc_{name}_{unit}": score for name, (score, _) in by_length.items()})
        self.metadata = {
            "signatures": signatures,
            "direction": "-".join(data.languages),
            "lowercase": data.lowercase,
        }

    def log_metrics(self, split: str, metrics: dict[str, Any]) -> None:
        """Logs metrics that are the same in every process; averaged over them, or Lightning warns of each."""
        self.log_dict({f"{split}/{name}": value for name, value in metrics.items()}, sync_dist=True)

    def all_gather_translations(self, split: str) -> tuple[list[str], list[str]]:
        """Translations of all processes, in the order of the split, and their references."""
        if self.trainer.world_size > 1:
            parts: list[dict[int, str]] = [{} for _ in range(self.trainer.world_size)]
            dist.all_gather_object(parts, self.translations)
            self.translations = {index: text for part in parts for index, text in part.items()}
        pairs = self.trainer.datamodule.splits[split]  # type: ignore[attr-defined]
        order = sorted(self.translations)
        return [self.translations[i] for i in order], [pairs.target[i] for i in order]

    def configure_optimizers(self) -> Any:
        h = self.hparams
        groups = parameter_groups(self.net, h["muon_lr"])
        options: dict[str, Any] = {"betas": ADAM_BETAS, "eps": ADAM_EPS, "fused": not has_grad_scaler(self.trainer)}
        optimizer = MuonAdamW(groups, lr=h["lr"], weight_decay=h["weight_decay"], **options)
        steps = training_steps(self.trainer)
        return warmup_schedule(optimizer, steps, round(h["warmup"] * steps), h["schedule"])

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        clip_gradients(self.net.parameters(), gradient_clip_val, gradient_clip_algorithm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what translation needs beside the weights: tokenizers, languages, and limits of the lengths."""
        trainer = attached_trainer(self)
        if trainer is not None and trainer.datamodule is not None:  # type: ignore[attr-defined]
            data = trainer.datamodule  # type: ignore[attr-defined]
            checkpoint["tokenizers"] = [tokenizer.to_str() for tokenizer in data.tokenizers]
            checkpoint["languages"] = list(data.languages)
            checkpoint["length_limit"] = list(data.length_limit)
            checkpoint["max_length"] = data.max_length


def check_heads(config: TransformerConfig) -> None:
    """Raises UserError if `d_model` cannot be split over the heads, or rotary embedding cannot pair a head's features."""
    d_model, num_heads = config.d_model, config.num_heads
    flag = f"--model.transformer.d_model {d_model}"
    if d_model % num_heads or d_model % 2:
        raise UserError(f"{flag}: choose an even multiple of num_heads {num_heads}")
    if config.position_embedding == "rotary" and d_model // num_heads % 2:
        raise UserError(f"{flag}: rotary embedding needs an even multiple of num_heads {num_heads}, for each head")
