"""The LightningModule: what is learned, how it is measured, what steps it takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule
from torch import Tensor
from torchmetrics import MeanMetric

from common.errors import UserError
from common.nn.losses import min_smoothed_cross_entropy
from common.nn.optim import clip_gradients, warmup_schedule
from common.trainer import training_steps
from projects.seq2seq.data import Batch
from projects.seq2seq.evaluation import bleu_by_length, corpus_bleu, evaluate, exact_match
from projects.seq2seq.inference import translate_ids
from projects.seq2seq.losses import linear_cross_entropy
from projects.seq2seq.networks import PAD, RecurrentTranslator, TransformerTranslator
from projects.seq2seq.optim import MuonAdamW, parameter_groups
from projects.seq2seq.search import SearchOptions
from projects.seq2seq.vocabulary import decode


class Seq2SeqModule(LightningModule):
    """A translator of sentences.

    Args:
        vocabularies: sizes of the source's and the target's vocabulary; the data's.
        network: `recurrent` or `transformer`.
        width: size of embeddings; of every position's vector in the Transformer.
        layers: of the encoder and of the decoder.
        hidden: size of the recurrent states.
        cell: `lstm` or `gru`.
        attention: of the recurrent network, `multiplicative` or `additive`.
        input_feeding: whether its decoder is fed what it attended to.
        locked_dropout: whether its dropout masks are the same in every step of a sentence.
        teacher_forcing: share of decoder steps in training that are given the true token and not the model's own, at
            the start and at the end of training; of the recurrent network.
        inner: size of the inner layer of the Transformer's feed-forward networks.
        heads: of its attentions.
        pre_norm: whether its layers normalise before each sublayer, or after it as in the paper.
        positions: `sinusoidal`, added to embeddings as in the paper, or `rotary`, which turns queries and keys.
        dropout: share of activations set to zero in training.
        word_dropout: share of tokens whose embedding is blanked in training.
        tie: `all` makes one matrix of both embeddings and the output layer, `target` of the target's embedding and the
            output layer, `none` none.
        label_smoothing: share of the target spread evenly over the vocabulary.
        r_drop: weight of the divergence between two passes over each batch (see `linear_cross_entropy`); 0 is one pass.
        lr: AdamW's learning rate at its highest.
        muon_lr: the same of Muon for the matrices inside the network; without it AdamW has them too.
        betas: AdamW's.
        weight_decay: share of the learning rate by which weights shrink in a step.
        schedule: `linear` or `cosine`, each down to zero at the last step, or `inverse_sqrt`.
        warmup: share of all steps in which the rate rises linearly from zero.
        beam: hypotheses that the search follows at test.
        val_beam: the same at validation; 1 is quick.
        length_penalty: p in log probability / length ** p, by which hypotheses are ranked.
        coverage_penalty: weight of source words left unread in that.
        no_repeat_ngram: no sequence of so many tokens comes twice in a translation; 0 allows all.
        max_length: tokens of a translation at most.
        compile: whether the network is compiled by `torch.compile`.
    """

    def __init__(
        self,
        vocabularies: tuple[int, int],
        network: str = "recurrent",
        width: int = 256,
        layers: int = 1,
        hidden: int = 512,
        cell: str = "lstm",
        attention: str = "multiplicative",
        input_feeding: bool = True,
        locked_dropout: bool = False,
        teacher_forcing: tuple[float, float] = (1.0, 1.0),
        inner: int = 256,
        heads: int = 4,
        pre_norm: bool = True,
        positions: str = "sinusoidal",
        dropout: float = 0.3,
        word_dropout: float = 0.0,
        tie: str = "all",
        label_smoothing: float = 0.1,
        r_drop: float = 0.0,
        lr: float = 2e-3,
        muon_lr: float | None = None,
        betas: tuple[float, float] = (0.9, 0.98),
        weight_decay: float = 0.0,
        schedule: str = "linear",
        warmup: float = 0.05,
        beam: int = 5,
        val_beam: int = 1,
        length_penalty: float = 1.0,
        coverage_penalty: float = 0.0,
        no_repeat_ngram: int = 0,
        max_length: int = 128,
        compile: bool = False,
    ) -> None:
        super().__init__()
        for option, value, choices in [
            ("network", network, ("recurrent", "transformer")),
            ("cell", cell, ("lstm", "gru")),
            ("attention", attention, ("multiplicative", "additive")),
            ("positions", positions, ("sinusoidal", "rotary")),
            ("tie", tie, ("all", "target", "none")),
            ("schedule", schedule, ("linear", "cosine", "inverse_sqrt")),
        ]:
            if value not in choices:
                raise UserError(f"--model.{option} {value}: use one of {', '.join(choices)}")
        for option, share in [("dropout", dropout), ("word_dropout", word_dropout), ("label_smoothing", label_smoothing)]:
            if not 0 <= share < 1:
                raise UserError(f"--model.{option} {share}: a share is 0 or more and below 1")
        if r_drop < 0:
            raise UserError(f"--model.r_drop {r_drop}: a weight is 0 or more")
        if min(lr, muon_lr or lr) <= 0 or not all(0 <= share <= 1 for share in (*teacher_forcing, warmup)):
            raise UserError(
                "--model.lr is above 0, and so is muon_lr; --model.teacher_forcing and warmup are shares from 0 to 1"
            )
        if network == "transformer" and (width % heads or width % 2):
            raise UserError(f"--model.width {width}: a multiple of --model.heads {heads}, and even")
        if network == "transformer" and positions == "rotary" and width // heads % 2:
            raise UserError(
                f"--model.width {width}: rotary positions need an even share of it for each of --model.heads {heads}"
            )
        vocabularies, betas = (vocabularies[0], vocabularies[1]), (betas[0], betas[1])
        teacher_forcing = (teacher_forcing[0], teacher_forcing[1])
        self.save_hyperparameters()
        shared: dict[str, Any] = {
            "width": width,
            "layers": layers,
            "dropout": dropout,
            "word_dropout": word_dropout,
            "tie": tie,
        }
        self.net: RecurrentTranslator | TransformerTranslator
        try:
            if network == "recurrent":
                self.net = RecurrentTranslator(
                    vocabularies,
                    hidden=hidden,
                    cell=cell,
                    attention=attention,
                    input_feeding=input_feeding,
                    locked_dropout=locked_dropout,
                    **shared,
                )
            else:
                self.net = TransformerTranslator(
                    vocabularies, inner=inner, heads=heads, pre_norm=pre_norm, positions=positions, **shared
                )
        except ValueError as error:
            raise UserError(f"--model.tie: {error}") from error
        self.search = SearchOptions(beam, length_penalty, coverage_penalty, 1, 0, max_length, no_repeat_ngram)
        self.quick_search = SearchOptions(val_beam, length_penalty, coverage_penalty, 1, 0, max_length, no_repeat_ngram)
        self.val_loss, self.test_loss = MeanMetric(), MeanMetric()
        self.translations: dict[int, str] = {}  # of the split that is being evaluated, by the sentence's number
        self.metadata: dict[str, Any] = {}  # what belongs to the test's figures and is no number

    overfit_steps = (
        800  # for `--debug overfit`: thousands of classes, most of them in no sentence of the batch, take a while
    )

    @property
    def min_loss(self) -> float:
        """The least cross-entropy that smoothed targets allow, in nats."""
        return min_smoothed_cross_entropy(self.hparams["label_smoothing"], self.hparams["vocabularies"][1])

    def setup(self, stage: str) -> None:
        """Compiles the network if that is asked for."""
        if stage == "fit" and self.hparams["compile"]:
            self.net.compile()  # in place: the state's keys stay as they are

    def loss(self, batch: Batch, smoothing: float, r_drop: float = 0.0, **options: Any) -> Tensor:
        """Cross-entropy, in nats, of the target tokens of a batch, each weighted by its sentence's weight; PAD left out.

        With `r_drop` the mean of two passes, and the divergence between them.
        """
        if r_drop:
            batch = Batch(*(torch.cat([part, part]) for part in batch._replace(weight=batch.weight / 2)))
        given, wanted = batch.target[:, :-1], batch.target[:, 1:]  # (batch, time): each token, and the one after it
        hidden = self.net(batch.source, batch.source_lengths, given, **options)  # (batch, time, width)
        real = wanted != PAD
        weights = batch.weight[:, None].expand_as(wanted)[real]
        output = self.net.output
        return linear_cross_entropy(hidden[real], output.weight, output.bias, wanted[real], weights, smoothing, r_drop)

    def compute_loss(self, batch: Batch) -> Tensor:
        """The training loss: smoothed cross-entropy, with the share of teacher forcing that is due."""
        h = self.hparams
        first, last = h["teacher_forcing"]
        if h["network"] == "transformer" or min(first, last) == 1:
            return self.loss(batch, h["label_smoothing"], h["r_drop"])
        done = 0.0
        if self._trainer is not None:
            done = self.trainer.global_step / max(1, self.trainer.estimated_stepping_batches)
        return self.loss(batch, h["label_smoothing"], h["r_drop"], teacher_forcing=first + done * (last - first))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch."""
        loss = self.compute_loss(batch)
        self.log("train/loss", loss)
        return loss

    def on_validation_start(self) -> None:
        """Forgets the last split's translations."""
        self.translations = {}

    on_test_start = on_validation_start

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss without smoothing, and translations by the quick search."""
        self.val_loss.update(self.loss(batch, 0.0), (batch.target[:, 1:] != PAD).sum())
        self.translate(batch, self.quick_search)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss without smoothing, and translations by the whole search."""
        self.test_loss.update(self.loss(batch, 0.0), (batch.target[:, 1:] != PAD).sum())
        self.translate(batch, self.search)

    def translate(self, batch: Batch, options: SearchOptions) -> None:
        """Adds a batch's translations to `translations`."""
        sources = [row[: length - 1].tolist() for row, length in zip(batch.source, batch.source_lengths, strict=True)]
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        found = translate_ids(self.net, sources, options, self.device, batch_size=len(sources), limit=data.length_limit)
        for index, hypotheses in zip(batch.pair.tolist(), found, strict=True):
            self.translations[index] = decode(data.target_tokenizer, hypotheses[0].tokens)

    def on_validation_epoch_end(self) -> None:
        """BLEU in lower case, the share of exact translations, and perplexity: e to the mean loss per token."""
        hypotheses, references = self.collected("val")
        loss = self.val_loss.compute()
        self.val_loss.reset()
        self.log_figures("val", {"loss": loss, "perplexity": loss.exp()})
        self.log_figures("val", {"exact_match": exact_match(hypotheses, references)})
        self.log("val/bleu", corpus_bleu(hypotheses, references), prog_bar=True, sync_dist=True)

    def on_test_epoch_end(self) -> None:
        """All scores, and BLEU by the length of the reference."""
        hypotheses, references = self.collected("test")
        loss = self.test_loss.compute()
        self.test_loss.reset()
        exact = exact_match(hypotheses, references)
        self.log_figures("test", {"loss": loss, "perplexity": loss.exp(), "exact_match": exact})
        if not hypotheses:
            return
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        scores = evaluate(hypotheses, references, data.languages[1])
        figures = {name: value for name, value in vars(scores).items() if name != "signatures"}
        by_length = {f"bleu_{name}_words": score for name, (score, _) in bleu_by_length(hypotheses, references).items()}
        self.log_figures("test", figures | by_length)
        self.metadata = {
            "signatures": scores.signatures,
            "direction": "-".join(data.languages),
            "lowercase": data.lowercase,
        }

    def log_figures(self, split: str, figures: dict[str, Any]) -> None:
        """Logs figures that are the same in every process; averaged over them, or Lightning warns of each."""
        self.log_dict({f"{split}/{name}": value for name, value in figures.items()}, sync_dist=True)

    def collected(self, split: str) -> tuple[Sequence[str], Sequence[str]]:
        """The translations of all processes, in the order of the split, and their references."""
        if self.trainer.world_size > 1:
            parts: list[dict[int, str]] = [{} for _ in range(self.trainer.world_size)]
            dist.all_gather_object(parts, self.translations)
            self.translations = {index: text for part in parts for index, text in part.items()}
        pairs = self.trainer.datamodule.splits[split]  # type: ignore[attr-defined]
        order = sorted(self.translations)
        return [self.translations[i] for i in order], [pairs.target[i] for i in order]

    def configure_optimizers(self) -> Any:
        """AdamW, with Muon beside it if that has a rate, and the schedule, stepped every batch."""
        h = self.hparams
        groups = parameter_groups(self.net, h["muon_lr"])
        optimizer = MuonAdamW(groups, lr=h["lr"], betas=h["betas"], eps=1e-9, weight_decay=h["weight_decay"])
        steps = training_steps(self.trainer)
        return warmup_schedule(optimizer, steps, max(1, round(h["warmup"] * steps)), h["schedule"])

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips; see `clip_gradients`."""
        clip_gradients(self.net.parameters(), gradient_clip_val, gradient_clip_algorithm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what translation needs beside the weights: tokenizers, names of the languages, and lengths to expect."""
        if self._trainer is not None and self.trainer.datamodule is not None:  # type: ignore[attr-defined]
            data = self.trainer.datamodule  # type: ignore[attr-defined]
            checkpoint["tokenizers"] = [data.source_tokenizer.to_str(), data.target_tokenizer.to_str()]
            checkpoint["languages"] = list(data.languages)
            checkpoint["length_limit"] = list(data.length_limit)
