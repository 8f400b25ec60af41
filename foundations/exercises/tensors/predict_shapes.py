"""Predictions of shapes: broadcasting, reductions, indexing, matrix products, squeeze."""

import random

from foundations.predictions import Answer, Family, Question

ASK = "Its shape, or error?"


def outer_sum(rng: random.Random) -> Question:
    n, m = rng.sample(range(2, 9), 2)
    return Question(
        f"(torch.zeros({n}, 1) + torch.zeros(1, {m})).shape",
        ASK,
        "Sizes are compared from the right, and a size of 1 stretches: every row meets every column.",
        {"error": "Unequal sizes are an error only where neither is 1.", (n, 1): "Both terms stretch, not one alone."},
    )


def column_and_vector(rng: random.Random) -> Question:
    n = rng.randrange(2, 9)
    return Question(
        f"(torch.zeros({n}) + torch.zeros({n}, 1)).shape",
        ASK,
        f"({n},) counts as (1, {n}) and stretches over the rows of ({n}, 1). A loss would average {n * n} numbers.",
        {(n,): "Equal sizes do not meet: they stand in different columns.", (n, 1): "The vector is a row, not a column."},
    )


def aligned_right(rng: random.Random) -> Question:
    n, m = rng.sample(range(2, 9), 2)
    return Question(
        f"(torch.zeros({n}, {m}) + torch.zeros({n})).shape",
        ASK,
        f"From the right, {m} meets {n}: neither is 1. A column is needed: [:, None].",
        {(n, m): "Shapes are aligned at the right, not at the left."},
    )


def mean_over_images(rng: random.Random) -> Question:
    batch = rng.choice([16, 32, 64, 128])
    size = rng.choice([28, 32, 224])
    return Question(
        f"torch.zeros({batch}, 3, {size}, {size})[0].mean((1, 2)).shape",
        ASK,
        f"[0] drops the batch; of (3, {size}, {size}) the dimensions 1 and 2 are averaged away: one mean for each channel.",
        {
            (batch,): "[0] has taken one image.",
            (size,): "After [0] the dimensions count from the channels on.",
            (3, 1, 1): "keepdim is off unless asked.",
        },
    )


def column_or_slice(rng: random.Random) -> Question:
    n, m = rng.sample(range(3, 9), 2)
    index, shape = rng.choice([("0", (n,)), ("[0]", (n, 1)), ("0:1", (n, 1)), ("None, 0", (n, 1))])
    other = (n, 1) if shape == (n,) else (n,)
    reason = "A number drops its dimension, a list or a slice keeps it; None puts in a dimension of size 1."
    return Question(
        f"torch.zeros({n}, {m})[:, {index}].shape", ASK, reason, {other: "Look at what stands in the second place."}
    )


def batched_product(rng: random.Random) -> Question:
    b, n, k, m = rng.sample(range(2, 9), 4)
    return Question(
        f"(torch.zeros({b}, {n}, {k}) @ torch.zeros({k}, {m})).shape",
        ASK,
        "@ multiplies the last two dimensions as matrices and broadcasts those before: one matrix for all of the stack.",
        {"error": "The dimensions before the last two broadcast.", (b, n, k, m): "The inner size is summed away."},
    )


def unequal_product(rng: random.Random) -> Question:
    n, k, m = rng.sample(range(2, 9), 3)
    return Question(
        f"(torch.zeros({n}, {k}) @ torch.zeros({m}, {k})).shape",
        ASK,
        f"The last size of the first, {k}, must equal the last but one of the second, {m}: nn.Linear computes x @ w.T.",
        {(n, m): "That would be x @ w.T."},
    )


def squeezed(rng: random.Random) -> Question:
    batch = rng.choice([1, 1, rng.randrange(2, 9)])
    features = rng.randrange(2, 9)
    other: dict[Answer, str] = {(features,): "Only sizes of 1 go."}
    if batch == 1:
        other = {(1, features): "Every size of 1 goes, the batch of one too."}
    return Question(
        f"torch.zeros({batch}, 1, {features}).squeeze().shape",
        ASK,
        "squeeze() without a dimension drops every size of 1. squeeze(1) leaves a batch of one alone.",
        other,
    )


def stacked(rng: random.Random) -> Question:
    count, n = rng.sample(range(2, 7), 2)
    kind, other = rng.choice([("stack", (count * n,)), ("cat", (count, n))])
    return Question(
        f"torch.{kind}([torch.zeros({n})] * {count}).shape",
        ASK,
        "stack puts in a new dimension, cat lengthens one that is there.",
        {other: f"That is what {'cat' if kind == 'stack' else 'stack'} gives."},
    )


def boolean_index(rng: random.Random) -> Question:
    n, m = rng.sample(range(2, 6), 2)
    return Question(
        f"x = torch.arange({n * m}).view({n}, {m})\nx[x > {n * m - 3}].shape",
        ASK,
        "A mask of the whole shape gives one dimension: the entries where it is true, here two.",
        {(n, m): "An index by a mask keeps the true entries alone; torch.where keeps the shape."},
    )


families: dict[str, Family] = {
    "outer_sum": outer_sum,
    "column_and_vector": column_and_vector,
    "aligned_right": aligned_right,
    "mean_over_images": mean_over_images,
    "column_or_slice": column_or_slice,
    "batched_product": batched_product,
    "unequal_product": unequal_product,
    "squeezed": squeezed,
    "stacked": stacked,
    "boolean_index": boolean_index,
}
