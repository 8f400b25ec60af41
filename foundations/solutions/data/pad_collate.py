"""Padding: sequences of unequal length in one tensor

A batch is a rectangle. Padding is known by its position, never by its value, and must not be learned.
"""

import torch
from torch import Tensor


def pad_collate(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Collate function for sequences with a label for each token.

    Args:
        samples: B pairs of tokens (T_i,) int64 and labels (T_i,) int64. Any number may be a token, 0 too; a sequence may be
            empty. B is at least 1.

    Returns:
        tokens (B, T) int64, T the longest of the batch, padded with 0 at the end;
        lengths (B,) int64;
        mask (B, T) bool, True at tokens;
        labels (B, T) int64, padded with -100, which cross-entropy ignores.

    Example:
        [([5, 6, 7], [1, 1, 2]), ([8], [0])] becomes [[5, 6, 7], [8, 0, 0]], [3, 1],
        [[True, True, True], [True, False, False]], [[1, 1, 2], [0, -100, -100]]
    """
    lengths = torch.tensor([len(tokens) for tokens, _ in samples])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]  # (B, T)
    tokens = torch.zeros(mask.shape, dtype=torch.int64)
    labels = torch.full(mask.shape, -100)
    tokens[mask] = torch.cat([tokens for tokens, _ in samples])  # a mask is filled row by row
    labels[mask] = torch.cat([labels for _, labels in samples])
    return tokens, lengths, mask, labels
