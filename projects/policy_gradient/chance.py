"""Where random numbers come from: each from the run's seed, what it is for, and when; so a resumed run draws the same."""

from __future__ import annotations

import numpy as np
import torch

ENVIRONMENTS, ACTIONS, MINIBATCHES, EVALUATION = range(4)  # what for


def seed_of(seed: int, *place: int) -> int:
    """A seed of 31 bits that follows from the run's `seed` and `place`, unlike that of any other place."""
    return int(np.random.SeedSequence([seed, *place]).generate_state(1)[0]) >> 1


def generator_of(seed: int, *place: int) -> torch.Generator:
    """A generator with the seed of a place."""
    return torch.Generator().manual_seed(seed_of(seed, *place))
