"""Seeding: every random number follows from the run's seed, its purpose, and the epoch or rollout that it is for.

A resumed run therefore samples the same numbers as one that was never stopped.
"""

from __future__ import annotations

import numpy as np
import torch

ENVIRONMENTS, ACTIONS, MINIBATCHES, EVALUATION = range(4)  # purposes


def derive_seed(seed: int, *key: int) -> int:
    """31-bit seed derived from the run's `seed` and a key: a purpose, then an epoch, a rollout or an episode."""
    return int(np.random.SeedSequence([seed, *key]).generate_state(1)[0]) >> 1


def make_generator(seed: int, *key: int) -> torch.Generator:
    """Generator with the seed that `derive_seed` derives."""
    return torch.Generator().manual_seed(derive_seed(seed, *key))
