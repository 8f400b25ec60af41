"""A run's checkpoint as a classifier of texts: loaded, batched by length, explained word by word."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from common.errors import UserError
from common.io.checkpoints import check_project, read_checkpoint
from common.nn.device import autocast_context, parallel_map
from projects.bert_sentiment.data import encode, pad
from projects.bert_sentiment.module import BertSentimentModule
from projects.bert_sentiment.networks import Classifier
from projects.bert_sentiment.optim import merge_lora
from projects.bert_sentiment.packed import packed
from projects.bert_sentiment.pretrained import encoder_from_files, tokenizer_from_files

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH_TOKENS = 1024  # with padding, in a batch: on a CPU larger ones are no faster, and lengths differ more in them
GPU_BATCH_TOKENS = 16_384


@dataclass
class TextClassifier:
    """A network with what turns text into its ids, and the names of what it finds."""

    net: Classifier
    tokenizer: PreTrainedTokenizerBase
    class_names: list[str]
    temperature: float
    max_length: int

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, cut to what the encoder can read."""
        return encode(self.tokenizer, texts, self.max_length)

    def probabilities(self, texts: Sequence[str], device: torch.device, precision: str = "32-true") -> Tensor:
        """(texts, classes), calibrated by the temperature that was found on validation; computed in `precision`."""
        batch_tokens = BATCH_TOKENS if device.type == "cpu" else GPU_BATCH_TOKENS
        net = packed(self.net) if device.type == "cpu" and precision == "32-true" else self.net
        rows = self.encode(texts)
        logits = predict_logits(net, rows, self.tokenizer.pad_token_id, device, precision, batch_tokens)
        return (logits / self.temperature).softmax(1)


def load_classifier(path: Path) -> TextClassifier:
    """The classifier of a run's checkpoint, on the CPU, in evaluation mode, with its adapters merged.

    Raises:
        UserError: the file is not a good checkpoint of this project.
    """
    checkpoint = read_checkpoint(path)
    check_project(checkpoint, "bert_sentiment", path)
    try:
        files = checkpoint["pretrained_files"]
        tokenizer = tokenizer_from_files(files)
        # with the configuration in place of the name nothing is downloaded, and no weights are read that are not used
        settings = {**checkpoint["hyper_parameters"], "encoder": encoder_from_files(files), "gradient_checkpointing": False}
        module = BertSentimentModule(**settings)
        module.load_state_dict(checkpoint["state_dict"])
    except (KeyError, TypeError, RuntimeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"checkpoint {path}: written by another version of this project ({reason})") from error
    merge_lora(module.net)
    # positions count on from the padding's in some encoders, which may therefore read a few tokens less than they have
    longest = min(getattr(module.config, "max_position_embeddings", None) or 512, tokenizer.model_max_length)
    names = list(checkpoint["hyper_parameters"]["class_names"])
    return TextClassifier(module.net.eval(), tokenizer, names, module.temperature.item(), longest)


def predict_logits(
    net: Classifier,
    rows: Sequence[list[int]],
    padding: int,
    device: torch.device,
    precision: str = "32-true",
    batch_tokens: int = BATCH_TOKENS,
) -> Tensor:
    """Logits (texts, classes) in float32, in the order of `rows`, computed in batches of similar length.

    Args:
        net: on `device`, in evaluation mode.
        rows: the ids of each text with its special tokens.
        padding: the id that fills up short texts.
        device: where to compute.
        precision: `32-true` or `bf16-mixed`.
        batch_tokens: in a batch at most, with padding, unless a single text has more.
    """
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    batches: list[list[int]] = []
    start = 0
    while start < len(order):
        end = start + 1
        while end < len(order) and (end + 1 - start) * len(rows[order[end]]) <= batch_tokens:
            end += 1
        batches.append(order[start:end])
        start = end
    found: dict[int, Tensor] = {}  # each text's logits

    @torch.inference_mode()
    def work(batches: Iterable[list[int]]) -> None:
        with autocast_context(precision, device):
            for batch in batches:
                ids, mask = pad([rows[i] for i in batch], padding)
                found.update(zip(batch, net(ids.to(device), mask.to(device)).float().cpu(), strict=True))

    parallel_map(work, batches, device)
    return torch.stack([found[i] for i in range(len(rows))]) if rows else torch.empty(0, 0)


def attributions(classifier: TextClassifier, text: str, device: torch.device, steps: int = 32) -> tuple[list[str], Tensor]:
    """The words of a text, and how much each spoke for the class that was found, in logits: (words,).

    See `integrated_gradients`; a word has the sum of its pieces, and special tokens are left out.
    """
    encoding = classifier.tokenizer(text, truncation=True, max_length=classifier.max_length, return_offsets_mapping=True)
    ids = torch.tensor(encoding["input_ids"], device=device)
    owners = encoding.word_ids()
    words_only = torch.tensor([owner is not None for owner in owners], device=device)
    values = integrated_gradients(classifier.net, ids, words_only, classifier.tokenizer.pad_token_id, steps)
    spans: dict[int, tuple[int, int]] = {}
    sums: dict[int, float] = {}
    for owner, (begin, end), value in zip(owners, encoding["offset_mapping"], values.tolist(), strict=True):
        if owner is not None:
            spans[owner] = min(begin, spans.get(owner, (begin, end))[0]), end
            sums[owner] = sums.get(owner, 0.0) + value
    return [text[begin:end] for begin, end in spans.values()], torch.tensor(list(sums.values()))


def integrated_gradients(net: Classifier, ids: Tensor, replaced: Tensor, blank: int, steps: int) -> Tensor:
    """How much each token speaks for the likeliest class, (time,), by Sundararajan et al. (arXiv 1703.01365), eq. 3.

    The path leads from the text with `blank` in place of its words to the text itself. What is explained is the logit of the
    class that the text is taken for, less the mean of the other logits. The values add up to how far that rises along the
    path, but for the error of the midpoint rule, which falls with the square of `steps`.

    Args:
        net: in evaluation mode.
        ids: (time,) int64, of one text.
        replaced: (time,) bool, which tokens are blank at the path's start.
        blank: an id that says nothing.
        steps: points of the path.
    """
    embed = net.encoder.get_input_embeddings()  # type: ignore[operator]
    mask = torch.ones_like(ids)[None]
    with torch.no_grad():
        text, start = embed(ids), embed(torch.where(replaced, blank, ids))  # (time, width)
        label = int(net(ids[None], mask).argmax())
    where = (torch.arange(steps, device=ids.device) + 0.5) / steps
    path = (start + where[:, None, None] * (text - start)).requires_grad_()  # (steps, time, width)
    logits = net(None, mask.expand(steps, -1), path)  # (steps, classes)
    others = (logits.sum(1) - logits[:, label]) / (logits.shape[1] - 1)
    (gradient,) = torch.autograd.grad((logits[:, label] - others).sum(), path)
    return ((text - start) * gradient.mean(0)).sum(1)
