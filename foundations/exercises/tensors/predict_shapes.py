"""Predictions of shapes: broadcasting, reductions, indexing, matrix products, squeeze."""

import random

from foundations.predictions import Family, Question

ASK = "Its shape, or error?"


def broadcast_outer(rng: random.Random) -> Question:
    n, m = rng.sample(range(2, 9), 2)
    return Question(
        f"(torch.zeros({n}, 1) + torch.zeros(1, {m})).shape",
        ASK,
        "Dimensions are compared from the right, and a size of 1 stretches: every row meets every column.",
        {"error": "Sizes that differ are an error only where neither is 1.", (n, 1): "Both operands are stretched."},
    )


families: dict[str, Family] = {"broadcast_outer": broadcast_outer}
