"""Faults: the twelve that the broken trainings of chapter 7 have, planted into our solutions. Needs no torch."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from foundations.catalog import solution_path

Changes = tuple[tuple[str, str], ...]  # text of a solution -> what takes its place

NAMES = {
    "no_shuffle": "The samples are not shuffled",
    "broadcast": "The loss broadcasts: (N, 1) against (N,)",
    "flow": "The gradients vanish or explode",
    "frozen": "A layer is frozen",
    "zero_grad": "zero_grad is missing",
    "softmax": "A softmax stands before the cross-entropy",
    "leak": "The validation's data leaks into the training",
    "lr": "The learning rate is too high",
    "axis": "A softmax runs along the wrong axis",
    "eval_mode": "The evaluation runs in training mode",
    "shift": "The labels are shifted by one",
    "metric": "The metric is averaged over unequal batches",
}


PLANTS: dict[str, dict[str, tuple[Changes, ...]]] = {
    "unstable_loss": {
        "zero_grad": ((("            optimizer.zero_grad()\n", ""),),),
        "lr": ((("LR = 0.2\n", "LR = 3.0\n"),), (("LR = 0.2\n", "LR = 2.0\n"),)),
        "no_shuffle": ((("torch.randperm(len(x))", "torch.arange(len(x))"),),),
    },
    "stuck_loss": {
        "softmax": (
            (("HIDDEN, num_classes))\n    return", "HIDDEN, num_classes))\n    layers.append(nn.Softmax(dim=1))\n    return"),),
            (("    return F.cross_entropy(model(x), y)", "    return F.cross_entropy(model(x).softmax(1), y)"),),
        ),
        "frozen": (
            (
                (
                    "    optimizer = torch.optim.SGD(model.parameters(),",
                    "    model[:-1].requires_grad_(False)\n    optimizer = torch.optim.SGD(model[-1].parameters(),",
                ),
            ),
        ),
        "flow": (
            (('kaiming_normal_(layer.weight, nonlinearity="relu")', "normal_(layer.weight, std=0.02)"),),
            (('kaiming_normal_(layer.weight, nonlinearity="relu")', "normal_(layer.weight, std=0.8)"),),
        ),
    },
    "too_good": {
        "leak": (
            (
                (
                    "    names = patients.unique()\n"
                    "    held_out = names[torch.randperm(len(names))[: len(names) // 4]]\n"
                    "    is_val = torch.isin(patients, held_out)\n"
                    "    return torch.nonzero(~is_val)[:, 0], torch.nonzero(is_val)[:, 0]\n",
                    "    order = torch.randperm(len(patients))\n"
                    "    val_rows, train_rows = order[: len(order) // 4], order[len(order) // 4 :]\n"
                    "    return train_rows.sort().values, val_rows.sort().values\n",
                ),
            ),
        ),
        "axis": ((("softmax(dim=1)", "softmax(dim=0)"),),),
        "metric": (
            (
                (
                    "    correct = 0\n"
                    "    for rows in torch.arange(len(x)).split(BATCH_SIZE):\n"
                    "        correct += (model(x[rows]).argmax(1) == y[rows]).sum().item()\n"
                    "    return correct / len(x)\n",
                    "    accuracies = []\n"
                    "    for rows in torch.arange(len(x)).split(BATCH_SIZE):\n"
                    "        accuracies.append((model(x[rows]).argmax(1) == y[rows]).float().mean().item())\n"
                    "    return sum(accuracies) / len(accuracies)\n",
                ),
            ),
        ),
    },
    "wont_generalize": {
        "eval_mode": ((("    model.eval()\n", ""),),),
        "shift": ((("return x[:-1], y[1:]", "return x[1:], y[1:]"),), (("return x[:-1], y[1:]", "return x[:-1], y[:-1]"),)),
        "broadcast": ((("F.mse_loss(predict(model, x), y)", "F.mse_loss(model(x), y)"),),),
    },
    "two_faults": {
        "zero_grad": ((("            optimizer.zero_grad()\n", ""),),),
        "softmax": (
            (("nn.Linear(HIDDEN, num_classes)]", "nn.Linear(HIDDEN, num_classes), nn.Softmax(dim=1)]"),),
            (("    return F.cross_entropy(model(x), y)", "    return F.cross_entropy(model(x).softmax(1), y)"),),
        ),
        "no_shuffle": ((("torch.randperm(len(x))", "torch.arange(len(x))"),),),
        "eval_mode": ((("        model.eval()\n", ""),),),
        "frozen": (
            (
                (
                    "    optimizer = torch.optim.SGD(model.parameters(),",
                    "    model[:-1].requires_grad_(False)\n    optimizer = torch.optim.SGD(model[-1].parameters(),",
                ),
            ),
        ),
    },
}


def plant(exercise: str, changes: Changes) -> str:
    """Text of a solution with parts replaced. Raises ValueError if a part does not stand there once."""
    text = solution_path(exercise).read_text(encoding="utf-8")
    for old, new in changes:
        if text.count(old) != 1:
            raise ValueError(f"{exercise}: {old!r} stands there {text.count(old)} times")
        text = text.replace(old, new)
    return text
