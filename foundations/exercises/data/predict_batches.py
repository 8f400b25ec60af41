"""Predictions of batches: how many, of what size, and what the default collate function makes of samples."""

import random

from foundations.predictions import Answer, Family, Question

SHAPE = "Its shape, or error?"
NUMBER = "What is it?"
YES = "yes or no?"
LOADER = "from torch.utils.data import DataLoader, TensorDataset\n"


def count(rng: random.Random) -> Question:
    n, size = rng.choice([(10, 4), (23, 5), (100, 32), (65, 64)])
    return Question(
        f"{LOADER}len(DataLoader(range({n}), batch_size={size}))",
        NUMBER,
        f"Batches are counted: {n} / {size}, rounded up, since the last short batch is kept.",
        {n: "len(dataset) counts samples, len(loader) batches.", n // size: "The last batch may be short."},
    )


def dropped(rng: random.Random) -> Question:
    n, size = rng.choice([(10, 4), (23, 5), (100, 32), (63, 64)])
    return Question(
        f"{LOADER}len(DataLoader(range({n}), batch_size={size}, drop_last=True))",
        NUMBER,
        f"With drop_last the {n % size} samples of the short batch are left out of this epoch.",
        {n // size + 1: "The short batch is dropped here.", n: "Batches are counted, not samples."},
    )


def last_shape(rng: random.Random) -> Question:
    n, size = rng.choice([(10, 4), (23, 5), (100, 32), (17, 16)])
    return Question(
        f"{LOADER}data = TensorDataset(torch.zeros({n}, 3, 8, 8))\nlist(DataLoader(data, batch_size={size}))[-1][0].shape",
        SHAPE,
        f"{n} samples in batches of {size} leave {n % size} for the last. Do not write the batch size into a reshape.",
        {(size, 3, 8, 8): "The last batch is not filled up."},
    )


def float_labels(rng: random.Random) -> Question:
    values = rng.choice([[0.5, 1.5], [1.0, 0.0], [3.25, 2.5]])
    return Question(
        f"{LOADER}next(iter(DataLoader({values}, batch_size=2))).dtype",
        "Which dtype?",
        "A Python float has 64 bits, and the default collate function keeps them. A layer in float32 refuses such inputs.",
        {"float32": "torch.tensor(0.5) is float32, the collate function is not torch.tensor."},
    )


def double_inputs(rng: random.Random) -> Question:
    n, layer = rng.choice([(3, "nn.Linear(2, 1)"), (4, "nn.Linear(2, 5)")])
    return Question(
        f"{LOADER}data = [torch.rand(2, dtype=torch.float64) for _ in range({n})]\n"
        f"{layer}(next(iter(DataLoader(data, batch_size={n})))).shape",
        SHAPE,
        "NumPy arrays and Python floats arrive as float64, the weights are float32: convert with float() in the dataset.",
        {(n, int(layer[-2])): "A matrix product does not convert."},
    )


def unequal(rng: random.Random) -> Question:
    n, m = sorted(rng.sample(range(2, 9), 2))
    return Question(
        f"{LOADER}data = [torch.zeros({n}), torch.zeros({m})]\nnext(iter(DataLoader(data, batch_size=2))).shape",
        SHAPE,
        "The default collate function stacks, and only equal shapes can be stacked: write a collate_fn that pads.",
        {(2, m): "Nothing is padded by itself.", (2, n): "Nothing is cut by itself."},
    )


def texts(rng: random.Random) -> Question:
    first, second = rng.sample(["good", "bad", "a cat", "two dogs"], 2)
    return Question(
        f"{LOADER}type(next(iter(DataLoader([{first!r}, {second!r}], batch_size=2)))).__name__",
        "list, tensor, or error?",
        "Strings are left as they are: a list of them.",
        {"tensor": "There are no tensors of strings.", "error": "Strings are among what the collate function knows."},
    )


def pairs(rng: random.Random) -> Question:
    size, d = rng.choice([(4, 3), (5, 2), (8, 6)])
    return Question(
        f"{LOADER}data = TensorDataset(torch.zeros(20, {d}), torch.zeros(20))\n"
        f"len(next(iter(DataLoader(data, batch_size={size}))))",
        NUMBER,
        "A batch of pairs is a pair of batches: [inputs, targets].",
        {size: "This is a list of two tensors, and each of them has that many rows."},
    )


def boxes(rng: random.Random) -> Question:
    size = rng.choice([2, 3, 5])
    answers: dict[Answer, str] = {(size, 4): "Only tensors are stacked. A list of numbers is collated position by position."}
    return Question(
        f"{LOADER}box = [10, 20, 30, 40]\nbatch = next(iter(DataLoader([box] * {size}, batch_size={size})))\n"
        "(len(batch), len(batch[0]))",
        "Each sample is a box, a list of four numbers. What is it?",
        f"A list of four tensors, each with one number of all {size} boxes. Make a sample's box a tensor.",
        answers,
    )


def shuffled(rng: random.Random) -> Question:
    n = rng.choice([20, 30, 50])
    return Question(
        f"{LOADER}loader = DataLoader(range({n}), batch_size={n}, shuffle=True)\n"
        "torch.equal(next(iter(loader)), next(iter(loader)))",
        f"Is the order of two epochs the same: {YES}",
        "Each iter() begins an epoch, and draws a new order from torch's global generator.",
        {"yes": "The order is drawn by iter(), not by DataLoader()."},
    )


def missing(rng: random.Random) -> Question:
    samples = rng.choice(["[1, None]", "[None, None]", "[torch.zeros(2), None]"])
    return Question(
        f"{LOADER}len(next(iter(DataLoader({samples}, batch_size=2))))",
        "A number, or error?",
        "None cannot be collated: leave a broken sample out when the dataset is made, not in __getitem__.",
        {1: "A missing sample is not passed over.", 2: "None is no number."},
    )


def restarted(rng: random.Random) -> Question:
    n, size = rng.choice([(6, 2), (8, 4)])
    return Question(
        f"{LOADER}loader = DataLoader(range({n}), batch_size={size})\nnext(iter(loader))\nnext(iter(loader))[0]",
        NUMBER,
        "iter() begins from the front. To walk on, keep the iterator: batches = iter(loader); next(batches).",
        {size: "The second iter() is a new epoch."},
    )


families: dict[str, Family] = {
    "count": count,
    "dropped": dropped,
    "last_shape": last_shape,
    "float_labels": float_labels,
    "double_inputs": double_inputs,
    "unequal": unequal,
    "texts": texts,
    "pairs": pairs,
    "boxes": boxes,
    "shuffled": shuffled,
    "missing": missing,
    "restarted": restarted,
}
