"""Faults: the twelve that the broken trainings of chapter 7 have, planted into our solutions. Needs no torch."""

from __future__ import annotations

import random
import re
from collections.abc import Collection
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
            (
                (
                    "HIDDEN, num_classes))\n    return",
                    "HIDDEN, num_classes))\n    layers.append(nn.Softmax(dim=1))\n    return",
                ),
            ),
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

PAIRS = (
    ("zero_grad", "softmax"),
    ("no_shuffle", "eval_mode"),
    ("softmax", "eval_mode"),
    ("zero_grad", "frozen"),
    ("no_shuffle", "softmax"),
    ("frozen", "eval_mode"),
)
SIZES = {  # the network varies from case to case
    "unstable_loss": ("HIDDEN = 16\n", "HIDDEN = 20\n", "HIDDEN = 24\n"),
    "stuck_loss": ("HIDDEN = 24\n", "HIDDEN = 28\n", "HIDDEN = 32\n"),
    "too_good": ("HIDDEN = 32\n", "HIDDEN = 40\n", "HIDDEN = 48\n"),
    "wont_generalize": ("HIDDEN = 48\n", "HIDDEN = 56\n", "HIDDEN = 64\n"),
    "two_faults": ("BATCH_SIZE = 32\n", "BATCH_SIZE = 30\n"),
}


@dataclass(frozen=True)
class Case:
    """Broken training.

    Args:
        number: Its number, which says nothing of the fault; it stands in the learner's file.
        faults: Names of the faults.
        changes: Parts of the solution's text that are replaced.
    """

    number: int
    faults: tuple[str, ...]
    changes: Changes


def plant(exercise: str, changes: Changes) -> str:
    """Text of a solution with parts replaced. Raises ValueError if a part does not stand there once."""
    text = solution_path(exercise).read_text(encoding="utf-8")
    for old, new in changes:
        if text.count(old) != 1:
            raise ValueError(f"{exercise}: {old!r} stands there {text.count(old)} times")
        text = text.replace(old, new)
    return text


def all_cases(exercise: str) -> list[Case]:
    """All broken trainings of an exercise, in the order of their numbers."""
    plants, (old, *sizes) = PLANTS[exercise], SIZES[exercise]
    chosen = PAIRS if exercise == "two_faults" else [(fault,) for fault in plants]
    contents = []
    for faults in chosen:
        for i, size in enumerate([old, *sizes]):
            changes = [change for fault in faults for change in plants[fault][i % len(plants[fault])]]
            contents.append((faults, (*changes, (old, size))))
    random.Random(exercise).shuffle(contents)
    return [Case(number, faults, changes) for number, (faults, changes) in enumerate(contents, 1)]


def find_case(exercise: str, text: str, drawn: int = 0) -> Case:
    """Case of a learner's file: the one that was drawn, else by the number in its heading; the first if there is none."""
    cases = all_cases(exercise)
    number = drawn or number_in(text)
    return cases[min(number, len(cases)) - 1] if number else cases[0]


def number_in(text: str) -> int:
    """Number of the case in the heading of a learner's file; 0 if there is none."""
    number = re.search(r"^# Case (\d+)", text, re.MULTILINE)
    return int(number[1]) if number else 0


def draw_case(exercise: str, seed: int, found: Collection[str]) -> int:
    """Number of a case whose faults were not found yet; of any where all were."""
    cases = all_cases(exercise)
    left = [case.number for case in cases if not set(case.faults) & set(found)]
    return random.Random(f"{seed}-{exercise}-{len(found)}").choice(left or [case.number for case in cases])


def faults_to_find(exercise: str) -> int:
    """Number of faults that have to be found in an exercise."""
    return 2 if exercise == "two_faults" else len(PLANTS[exercise])
