"""Exercise sequence_loop: padding that counts nowhere."""

import copy
import random
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from foundations.comparing import check_that
from foundations.exercise import Exercise
from foundations.instrumented import PlainSGD
from foundations.loop_checks import Data, Loop, add_loop_properties

exercise = Exercise(
    title="Sequence loop: a label for each token, padding that counts nowhere",
    level="core",
    minutes=30,
    link="projects.seq2seq.module:Seq2SeqModule.compute_loss",
    why="a batch of translations is padded too, and its loss is a mean over real tokens",
    hints=(
        "Pad tokens and labels of a batch to the same length. A label that the loss ignores marks the padding.",
        "Loss: sum over real tokens / their number. Accuracy: count right and real tokens over all batches, then divide.",
        "F.cross_entropy(logits.flatten(0, 1), targets.flatten()), labels padded by pad_sequence(..., padding_value=-100).",
    ),
    source="torch.nn.utils.rnn:pad_sequence",
    look_at="batch_first is False unless you say so, and padding_value is 0, which is a class like any other for labels.",
)

VOCABULARY, CLASSES = 20, 3


class Tagger(nn.Module):
    """Embedding, GRU, linear layer: tokens (B, T) and a state -> logits (B, T, CLASSES) and the new state."""

    def __init__(self, dim: int = 4) -> None:
        super().__init__()
        self.embedding, self.gru = nn.Embedding(VOCABULARY, dim), nn.GRU(dim, dim, batch_first=True)
        self.head = nn.Linear(dim, CLASSES)

    def forward(self, tokens: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        hidden, state = self.gru(self.embedding(tokens), state)
        return self.head(hidden), state


def samples(count: int, longest: int = 4) -> tuple[list[Tensor], list[Tensor]]:
    """Sequences of one to `longest` tokens; the class of a token depends on the one before it."""
    sequences = [torch.randint(1, VOCABULARY, (1 + i % longest,)) for i in range(count)]
    return sequences, [torch.cat([torch.zeros(1, dtype=torch.int64), tokens[:-1] % CLASSES]) for tokens in sequences]


def case(n: int, n_val: int) -> tuple[nn.Module, Data]:
    """Small tagger and sequences, no two alike."""
    net, known = Tagger(), set()
    while len(known) < n + n_val:
        sequences, labels = samples(n + n_val)
        known = {tuple(tokens.tolist()) for tokens in sequences}
    return net, (sequences[:n], labels[:n], sequences[n:], labels[n:])


def accuracy(outputs: list[Tensor], targets: list[Tensor], train_targets: Any) -> float:
    """Fraction of the tokens whose class is found."""
    return (torch.cat(outputs).argmax(1) == torch.cat(targets)).double().mean().item()


def cross_entropy(outputs: list[Tensor], targets: list[Tensor], train_targets: Any) -> Tensor:
    """Mean over all tokens."""
    return F.cross_entropy(torch.cat(outputs), torch.cat(targets))


add_loop_properties(exercise, Loop("train_tagger", case, accuracy, cross_entropy, lr=0.5))


@exercise.property("sequences that it has not seen")
def unseen(answer: ModuleType, rng: random.Random) -> None:
    torch.manual_seed(0)
    model = Tagger(16)
    optimizer = PlainSGD(model.parameters(), lr=2.0)
    test, test_labels = samples(200, 9)
    history = answer.train_tagger(model, optimizer, *samples(150, 7), *samples(30, 7), 4, 10, 0)
    model.eval()
    right = [(model(tokens[None])[0][0].argmax(1) == label).float() for tokens, label in zip(test, test_labels, strict=True)]
    score = torch.cat(right).mean().item()
    check_that(score > 0.9, "accuracy of the tokens of other, longer sequences", "over 0.9", score, validation=history)


def train_with(fault: str) -> Any:
    """The loop with one of the known faults."""

    def loss_of(logits: Tensor, targets: Tensor) -> Tensor:
        losses = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")  # 0 at padding
        real = targets != -100
        if fault == "padding_in_loss":
            return F.cross_entropy(logits.transpose(1, 2), targets.clamp(min=0))
        if fault == "divided_by_all":
            return losses.mean()
        return (losses.sum(1) / real.sum(1)).mean() if fault == "mean_of_sequences" else losses.sum() / real.sum()

    def train_tagger(
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        sequences: list[Tensor],
        labels: list[Tensor],
        val_sequences: list[Tensor],
        val_labels: list[Tensor],
        epochs: int,
        batch_size: int,
        seed: int,
    ) -> list[float]:
        rng, history, best = torch.Generator().manual_seed(seed), [], {}
        for _ in range(epochs):
            model.train()
            state = None
            for index in torch.randperm(len(sequences), generator=rng).split(batch_size):
                tokens = pad_sequence([sequences[i] for i in index], batch_first=True)
                if fault == "padded_in_front":
                    tokens = pad_sequence([sequences[i].flip(0) for i in index], batch_first=True).flip(1)
                targets = pad_sequence([labels[i] for i in index], batch_first=True, padding_value=-100)
                usable = fault == "carried" and state is not None and state.shape[1] == len(index)
                logits, state = model(tokens, state.detach()) if usable else model(tokens)
                optimizer.zero_grad()
                loss_of(logits, targets).backward()
                optimizer.step()
            model.eval()
            parts = []
            with torch.no_grad():
                for start in range(0, len(val_sequences), batch_size):
                    batch = slice(start, start + batch_size)
                    tokens = pad_sequence(val_sequences[batch], batch_first=True)
                    targets = pad_sequence(val_labels[batch], batch_first=True, padding_value=-100)
                    right = model(tokens)[0].argmax(2) == targets
                    parts.append((right if fault == "padding_in_accuracy" else right[targets != -100]).float().flatten())
            means = torch.stack([part.mean() for part in parts])
            history.append((means.mean() if fault == "mean_of_batches" else torch.cat(parts).mean()).item())
            if history[-1] == max(history):
                best = model.state_dict() if fault == "moving" else copy.deepcopy(model.state_dict())
        model.load_state_dict(best)
        return history

    return train_tagger


exercise.wrong("train_tagger", "The padding has a class in the loss, and is learned like any token: mark it with -100.")(
    train_with("padding_in_loss")
)
exercise.wrong(
    "train_tagger", "The sum of the real tokens' losses is divided by all positions, padding too: the steps shrink."
)(train_with("divided_by_all"))
exercise.wrong("train_tagger", "A mean of each sequence's mean weighs a token of a short sequence more than one of a long.")(
    train_with("mean_of_sequences")
)
exercise.wrong("train_tagger", "The state of one batch is handed to the next, whose sequences have nothing to do with it.")(
    train_with("carried")
)
exercise.wrong("train_tagger", "The padding stands in front of the tokens: the network reads it before them.")(
    train_with("padded_in_front")
)
exercise.wrong("train_tagger", "The padding counts in the accuracy: divide by the number of real tokens.")(
    train_with("padding_in_accuracy")
)
exercise.wrong(
    "train_tagger", "A mean of the batches' accuracies: batches have unequal numbers of tokens. Count, then divide."
)(train_with("mean_of_batches"))
exercise.wrong(
    "train_tagger", "The weights at the end are the last epoch's: keep a copy of the best state dict, and load it."
)(train_with("moving"))


@exercise.also_right("train_tagger")
def sequence_by_sequence(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    sequences: list[Tensor],
    labels: list[Tensor],
    val_sequences: list[Tensor],
    val_labels: list[Tensor],
    epochs: int,
    batch_size: int,
    seed: int,
) -> list[float]:
    shuffled, rows, best, history = random.Random(seed), list(range(len(labels))), None, []
    for _ in range(epochs):
        model.train()
        shuffled.shuffle(rows)
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            count = sum(len(labels[i]) for i in batch)
            for i in batch:
                logits, _ = model(sequences[i].unsqueeze(0))
                (F.cross_entropy(logits[0], labels[i], reduction="sum") / count).backward()
            optimizer.step()
            optimizer.zero_grad()
        model.eval()
        with torch.inference_mode():
            found = [model(tokens[None])[0][0].argmax(-1) for tokens in val_sequences]
        history.append((torch.cat(found) == torch.cat(val_labels)).float().mean().item())
        if best is None or history[-1] > max(history[:-1]):
            best = copy.deepcopy(model.state_dict())
    model.load_state_dict(best)
    return history


@exercise.also_right("train_tagger")
def with_a_mask(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    sequences: list[Tensor],
    labels: list[Tensor],
    val_sequences: list[Tensor],
    val_labels: list[Tensor],
    epochs: int,
    batch_size: int,
    seed: int,
) -> list[float]:
    def padded(rows: list[Tensor]) -> Tensor:
        table = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
        for line, row in zip(table, rows, strict=True):
            line[: len(row)] = row
        return table

    rng, states, history = torch.Generator().manual_seed(seed), [], []
    for _ in range(epochs):
        model.train()
        order = torch.randperm(len(labels), generator=rng).tolist()
        while order:
            rows, order = order[:batch_size], order[batch_size:]
            tokens, y = padded([sequences[i] for i in rows]), padded([labels[i] for i in rows])
            mask = tokens > 0
            log_probs = model(tokens, None)[0].log_softmax(-1)[mask]
            loss = -log_probs.gather(1, y[mask][:, None]).mean()
            model.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            tokens, y = padded(val_sequences), padded(val_labels)
            history.append(float((model(tokens)[0].argmax(-1) == y)[tokens > 0].double().mean()))
        states.append({key: value.clone() for key, value in model.state_dict().items()})
    model.load_state_dict(states[history.index(max(history))])
    return history
