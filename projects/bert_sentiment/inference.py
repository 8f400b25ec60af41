"""Inference: `load(checkpoint)` -> a classifier of raw texts, which batches them by length."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_model
from torch import Tensor

from common.data.inputs import check_texts
from common.io.checkpoints import PathLike, check_project, content_errors, load_module
from common.io.exported import ENTRY, WEIGHTS, is_exported, read_config
from common.nn.device import autocast_context
from common.nn.parallel import parallel_map
from projects.bert_sentiment.data import pad, tokenize
from projects.bert_sentiment.lora import merge_lora
from projects.bert_sentiment.module import BertSentimentModule
from projects.bert_sentiment.networks import Classifier, SequenceClassifier, build_classifier
from projects.bert_sentiment.prepacked_linear import prepack_linear
from projects.bert_sentiment.pretrained import (
    TOKENIZER_FILES,
    check_stored,
    max_tokens,
    new_model,
    tokenizer_from_files,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_TOKENS = {"cpu": 1024, "cuda": 16_384, "mps": 16_384}  # of a batch, padding included: on a CPU more is no faster


@dataclass
class TextClassifier:
    """Classifier of raw texts: network, in eval mode, tokenizer, class names, and the temperature of its probabilities."""

    net: Classifier
    tokenizer: PreTrainedTokenizerBase
    class_names: list[str]
    temperature: float
    max_length: int

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, truncated to `max_length` tokens: at most what was read in training."""
        check_texts(texts, 'classifier(["a text", "another"])')
        return tokenize(self.tokenizer, texts, self.max_length)[0]

    def count_truncated(self, texts: Sequence[str]) -> int:
        """Number of texts that `tokenize` truncates."""
        return tokenize(self.tokenizer, texts, self.max_length)[1]

    def __call__(self, texts: Sequence[str], precision: str = "32-true") -> Tensor:
        """Calibrated probabilities (texts, classes), computed on the network's device in `precision`."""
        device = next(self.net.parameters()).device
        net = prepack_linear(self.net) if device.type == "cpu" and precision == "32-true" else self.net
        logits = predict_logits(net, self.tokenize(texts), self.tokenizer.pad_token_id, device, precision)
        return (logits.view(len(texts), len(self.class_names)) / self.temperature).softmax(1)


def load(checkpoint: PathLike, device: str | torch.device = "cpu") -> TextClassifier:
    """Classifier of texts from a run's checkpoint.

    Args:
        checkpoint: Checkpoint of a run, or a folder of `export`.
        device: Where to compute.

    Raises:
        UserError: The file is not a valid checkpoint of this project.

    Example:
        >>> classifier = load("best.ckpt", device="cpu")
        >>> probabilities = classifier(texts)  # (n, classes), calibrated by the run's temperature
        >>> names = [classifier.class_names[label] for label in probabilities.argmax(1)]
        >>> len(names) == len(texts)
        True
    """
    if is_exported(Path(checkpoint)):
        return load_exported(Path(checkpoint), device)
    module, saved = load_module(checkpoint, BertSentimentModule, "bert_sentiment")
    if module.hparams["lora_rank"]:
        merge_lora(module.net)
    with content_errors(Path(checkpoint), saved):
        tokenizer = tokenizer_from_files(saved["tokenizer_files"])
        max_length = min(max_tokens(module.net.encoder) or 512, tokenizer.model_max_length)  # type: ignore[arg-type]
        class_names = [str(name) for name in module.hparams["class_names"]]
    return TextClassifier(module.net.to(device), tokenizer, class_names, module.temperature.item(), max_length)


def load_exported(folder: Path, device: str | torch.device) -> TextClassifier:
    """Classifier of a folder that `export` has written; its temperature is in the weights."""
    saved = read_config(folder)[ENTRY]
    check_project(saved, "bert_sentiment", folder)
    options = saved["hyper_parameters"]
    with content_errors(folder, saved), torch.random.fork_rng(devices=[]):
        check_stored(options)
        class_names = [str(name) for name in options["class_names"]]
        net = build_classifier(new_model(options["encoder"], class_names), options["pooling"], len(class_names))
        load_model(net.model if isinstance(net, SequenceClassifier) else net, folder / WEIGHTS)
        files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name in TOKENIZER_FILES}
        tokenizer = tokenizer_from_files(files)
    return TextClassifier(net.eval().to(device), tokenizer, class_names, 1.0, tokenizer.model_max_length)


def predict_logits(
    net: Classifier,
    rows: Sequence[list[int]],
    pad_token_id: int,
    device: torch.device,
    precision: str = "32-true",
    max_tokens: int | None = None,
) -> Tensor:
    """Logits (texts, classes) in float32, in the order of `rows`, which are the token ids of each text.

    They are computed in batches of similar length, of at most `max_tokens` tokens with padding, or a single longer text.
    """
    max_tokens = max_tokens or MAX_TOKENS[device.type]
    batches: list[list[int]] = [[]]
    for i in sorted(range(len(rows)), key=lambda i: len(rows[i])):
        if batches[-1] and (len(batches[-1]) + 1) * len(rows[i]) > max_tokens:
            batches.append([])
        batches[-1].append(i)
    logits: dict[int, Tensor] = {}  # (classes,) of each text

    @torch.inference_mode()
    def work(batches: Iterable[list[int]]) -> None:
        with autocast_context(precision, device):
            for batch in batches:
                input_ids, mask = pad([rows[i] for i in batch], pad_token_id)
                logits.update(zip(batch, net(input_ids.to(device), mask.to(device)).float().cpu(), strict=True))

    if rows:
        parallel_map(work, batches, device)
    return torch.stack([logits[i] for i in range(len(rows))]) if rows else torch.empty(0, 0)
