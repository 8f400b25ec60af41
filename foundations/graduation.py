"""Graduation: two trainings made of the course's parts, a translator of seq2seq's sample and a classifier of digits."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from foundations.imports import import_answer

TRANSLATION = (
    "vocabulary",
    "pad_collate",
    "bucket_batches",
    "embedding",
    "positional_encoding",
    "linear",
    "dropout",
    "batch_layer_norm",
    "attention",
    "multihead_attention",
    "encoder_layer",
    "decoder_layer",
    "tiny_translator",
    "cross_entropy",
    "adam",
    "lr_schedule",
    "clip_grad_norm",
    "early_stopping",
    "beam_search",
)
DIGITS = ("dataloader", "conv2d_pooling", "residual_block", "linear", "adam", "image_loop", "evaluate")
PAD, BOS, EOS = 0, 2, 3
BEAM_WIDTH = 3
MAX_LENGTH = 30
Pairs = list[tuple[str, str]]  # source, target
Parts = dict[str, ModuleType]  # modules of the exercises, by id


@dataclass
class Result:
    """Result of a training.

    Args:
        scores: Score on the validation data after each epoch.
        test_score: Score on the test data.
        seconds: Time of training and test.
        examples: Of the test data: (source, hypothesis, reference), or (image, prediction, label).
    """

    scores: list[float] = field(default_factory=list)
    test_score: float = 0.0
    seconds: float = 0.0
    examples: list[tuple[Any, Any, Any]] = field(default_factory=list)


def import_parts(names: Sequence[str]) -> Parts:
    """Modules of the exercises `names`; `foundations.imports.exercise_imports` says whose files they are."""
    return {name: import_answer(name) for name in names}


@dataclass
class TranslationSettings:
    """Settings of the translator's training.

    Args:
        train: Sentence pairs for training.
        val: Those for validation.
        test: Those for the test.
        dim: Width of the network.
        heads: Attention heads.
        layers: Layers of the encoder, and of the decoder.
        lr: Peak learning rate.
        max_tokens: Tokens of a batch on its longer side, padding included.
        epochs: Epochs at most.
        patience: Epochs without a lower validation loss after which it stops.
    """

    train: int = 4000
    val: int = 200
    test: int = 200
    dim: int = 64
    heads: int = 4
    layers: int = 1
    lr: float = 4e-3
    max_tokens: int = 1000
    epochs: int = 10
    patience: int = 3


def train_translator(pairs: Pairs, settings: TranslationSettings, seed: int, say: Callable[[str], None]) -> Result:
    """Training of the course's `Translator` on sentence pairs; the test's score is the corpus BLEU of its beam search."""
    begin = time.perf_counter()
    parts = import_parts(TRANSLATION)
    torch.manual_seed(seed)
    pairs = [(split_numbers(source), target) for source, target in pairs]
    train, rest = pairs[: settings.train], pairs[settings.train :]
    val, test = rest[: settings.val], rest[settings.val :][: settings.test]
    make_vocabulary = parts["vocabulary"].Vocabulary
    vocabularies = (
        make_vocabulary([source for source, _ in train], 1000),
        make_vocabulary([target for _, target in train], 1000),
    )
    samples, val_batch = encode_pairs(train, vocabularies), collate(parts, encode_pairs(val, vocabularies))
    lengths = [max(len(source), len(target)) + 1 for source, target in samples]
    orders = [
        parts["bucket_batches"].bucket_batches(lengths, settings.max_tokens, seed * settings.epochs + epoch)
        for epoch in range(settings.epochs)
    ]
    network = parts["tiny_translator"].Translator(
        len(vocabularies[0]), len(vocabularies[1]), settings.dim, settings.heads, 4 * settings.dim, settings.layers, 0.1
    )
    optimizer = parts["adam"].Adam(network.parameters(), settings.lr, betas=(0.9, 0.98))
    stopping = parts["early_stopping"].EarlyStopping(settings.patience)
    total, result = sum(map(len, orders)), Result()
    step = 0
    for epoch, order in enumerate(orders, 1):
        network.train()
        for index in order:
            optimizer.lr = settings.lr * parts["lr_schedule"].lr_factor(step, total // 10, total)
            loss = translation_loss(parts, network, collate(parts, [samples[i] for i in index]))
            optimizer.zero_grad()
            loss.backward()
            parts["clip_grad_norm"].clip_grad_norm(network.parameters(), 1.0)
            optimizer.step()
            step += 1
        network.eval()
        with torch.no_grad():
            val_loss = translation_loss(parts, network, val_batch).item()
        result.scores.append(val_loss)
        say(f"  epoch {epoch} of {settings.epochs}  step {step}  validation loss {val_loss:.3f}")
        if stopping.update(network, val_loss):
            break
    stopping.restore(network)
    network.eval()
    sources = [source for source, _ in encode_pairs(test, vocabularies)]
    hypotheses = [vocabularies[1].decode(search(parts, network, source)) for source in sources]
    result.examples = [(source, guess, target) for (source, target), guess in zip(test, hypotheses, strict=True)]
    result.test_score = corpus_bleu(hypotheses, [target for _, target in test])
    result.seconds = time.perf_counter() - begin
    return result


def split_numbers(text: str) -> str:
    """German text whose long numbers stand in parts, each of which is a word of the vocabulary.

    >>> split_numbers("siebenhundertsechsundvierzig")
    'sieben hundert sechs und vierzig'
    """
    return re.sub(r"(?<=\w)(hundert|und(?=(?:zwan|drei|vier|fünf|sech|sieb|acht|neun)\w*ß?zig))", r" \1 ", text)


def encode_pairs(pairs: Pairs, vocabularies: Sequence[Any]) -> list[tuple[Tensor, Tensor]]:
    """Token ids of each pair, without bos and eos."""
    sources, targets = vocabularies
    return [(torch.tensor(sources.encode(source)), torch.tensor(targets.encode(target))) for source, target in pairs]


def collate(parts: Parts, samples: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Source (B, S), the target's input (B, T) that begins with bos, labels (B, T) that end with eos, -100 in padding."""
    begin, end = torch.tensor([BOS]), torch.tensor([EOS])
    pad_collate = parts["pad_collate"].pad_collate
    source, *_ = pad_collate([(torch.cat([tokens, end]),) * 2 for tokens, _ in samples])
    target, _, _, labels = pad_collate([(torch.cat([begin, tokens]), torch.cat([tokens, end])) for _, tokens in samples])
    return source, target, labels


def translation_loss(parts: Parts, network: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Mean cross-entropy over the tokens of a batch."""
    source, target, labels = batch
    loss: Tensor = parts["cross_entropy"].cross_entropy(network(source, target).flatten(0, 1), labels.flatten())
    return loss


def search(parts: Parts, network: Any, source: Tensor) -> list[int]:
    """The best translation's tokens that beam search finds for the tokens (S,) of a source."""
    with torch.no_grad():
        memory = network.encode(torch.cat([source, torch.tensor([EOS])])[None])

    def step(tokens: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        prefixes = torch.cat([state[0], tokens[:, None]], 1)
        return network.step(prefixes, state[1:]).log_softmax(1), (prefixes, *state[1:])

    state = (torch.empty(1, 0, dtype=torch.int64), *memory)
    found = parts["beam_search"].beam_search(step, state, BOS, EOS, BEAM_WIDTH, MAX_LENGTH)
    tokens: list[int] = found[0][0]
    return tokens


def corpus_bleu(hypotheses: list[str], references: list[str]) -> float:
    """Corpus BLEU in percent by sacrebleu, on the words as they stand."""
    from sacrebleu.metrics import BLEU

    return float(BLEU(tokenize="none", force=True).corpus_score(hypotheses, [references]).score)


class DigitClassifier(nn.Module):
    """Residual network of the course's layers: (N, 1, 8, 8) -> logits (N, 10)."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.conv = parts["conv2d_pooling"].Conv2d(1, 16, 3, stride=1, padding=1)
        self.block = parts["residual_block"].ResidualBlock(16, 32, stride=2)
        self.head = parts["linear"].Linear(32 * 2 * 2, 10)
        self.max_pool2d = parts["conv2d_pooling"].max_pool2d

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.max_pool2d(self.block(self.conv(images)), 2, 2)  # (N, 32, 2, 2)
        logits: Tensor = self.head(features.flatten(1))
        return logits


def train_digits(seed: int, epochs: int, say: Callable[[str], None]) -> Result:
    """Training of `DigitClassifier` on scikit-learn's digits; the score of the test is the accuracy in percent."""
    from sklearn.datasets import load_digits

    begin = time.perf_counter()
    parts = import_parts(DIGITS)
    torch.manual_seed(seed)
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1
    y = torch.tensor(labels)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    train, val, test = order[:1200], order[1200:1400], order[1400:]
    network = DigitClassifier(parts)
    optimizer = parts["adam"].Adam(network.parameters(), 3e-3)
    result = Result()
    result.scores = parts["image_loop"].train_images(
        network, optimizer, x[train], y[train], x[val], y[val], epochs, 64, seed
    )
    for epoch, accuracy in enumerate(result.scores, 1):
        say(f"  epoch {epoch} of {epochs}  validation accuracy {100 * accuracy:.1f} %")
    dataset = [(x[i], int(y[i])) for i in test.tolist()]
    _, accuracy = parts["evaluate"].evaluate(network, parts["dataloader"].dataloader(dataset, 64, shuffle=False))
    result.test_score = 100 * accuracy
    network.eval()
    with torch.no_grad():
        guesses = network(x[test]).argmax(1)
    result.examples = [(x[i, 0], int(guess), int(y[i])) for i, guess in zip(test.tolist(), guesses, strict=True)]
    result.seconds = time.perf_counter() - begin
    return result
