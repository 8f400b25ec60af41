"""Sequence loop: a label for each token, padding that counts nowhere

Sequences of unequal length meet in one batch. The padding is there for the tensor's sake alone.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence


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
    """Trains on the mean cross-entropy of the real tokens of a batch, and ends with the weights of the best epoch.

    A batch is padded at the end, with token 0, to its own longest sequence. Every batch begins without a state. Epochs,
    orders, modes and the end are those of `train_images`.

    Args:
        model: Tokens (B, T), and a recurrent state if there is one, to (logits (B, T, K), state).
        optimizer: Optimizer of the model's parameters, which has made no step.
        sequences: N tensors (T_i,) int64, at least one token each, none of which is 0.
        labels: N tensors (T_i,) int64, the class of each token, from 0.
        val_sequences: M tensors (T_i,) int64.
        val_labels: M tensors (T_i,) int64.
        epochs: Number of epochs, at least 1.
        batch_size: Sequences of a step; the last batch may be short.
        seed: The orders depend on it alone, not on torch's global generator: the same seed, the same orders.

    Returns:
        The validation accuracy after each epoch: the fraction of all real tokens whose class is found.

    Example:
        Two sequences of 1 and 3 tokens: the loss is the mean over 4 tokens, not over 6, and not the mean of two means.
    """
    rng = torch.Generator().manual_seed(seed)
    history: list[float] = []
    for _ in range(epochs):
        model.train()
        for index in torch.randperm(len(sequences), generator=rng).split(batch_size):
            tokens, targets = _pad([sequences[i] for i in index], [labels[i] for i in index])
            loss = F.cross_entropy(model(tokens)[0].flatten(0, 1), targets.flatten())  # -100 is ignored
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        right = total = 0
        with torch.no_grad():
            for start in range(0, len(val_sequences), batch_size):
                batch = slice(start, start + batch_size)
                tokens, targets = _pad(val_sequences[batch], val_labels[batch])
                right += (model(tokens)[0].argmax(2) == targets).sum().item()
                total += (tokens != 0).sum().item()
        history.append(right / total)
        if history[-1] == max(history):
            best = copy.deepcopy(model.state_dict())
    model.load_state_dict(best)
    return history


def _pad(sequences: list[Tensor], labels: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Tokens and labels (B, T); the padding is token 0, and label -100."""
    return pad_sequence(sequences, batch_first=True), pad_sequence(labels, batch_first=True, padding_value=-100)
