"""What is trained in the exercise resume: a task, and a model that counts its steps and can be killed."""

import math
import random
import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from foundations.killing import Kill

DIM, CLASSES = 2, 3


class Classifier(nn.Module):
    """Classifier that counts its training steps in a buffer, and records which samples it has seen."""

    def __init__(self, dropout: float, count: int, kill: Kill) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Dropout(dropout), nn.Linear(DIM, CLASSES))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.seen: list[list[int]] = []
        self.num_samples, self.kill = count, kill

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        if self.training:
            if self.kill.is_due("step"):
                self.kill.now()
            self.steps += 1
            self.seen.append((x[:, 0] * self.num_samples).round().int().tolist())
        return self.body(x)


@dataclass(frozen=True)
class Task:
    """Task: the size of the data, and what each epoch's validation gives."""

    count: int
    batch_size: int
    losses: tuple[float, ...]
    dropout: float = 0.5

    @property
    def data(self) -> tuple[Tensor, Tensor]:
        """Inputs, the first of which tells which sample it is, and labels."""
        rng = torch.Generator().manual_seed(5)
        inputs = torch.randn(self.count, DIM, generator=rng)
        inputs[:, 0] = torch.arange(self.count) / self.count
        return inputs, torch.randint(CLASSES, (self.count,), generator=rng)

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches."""
        return math.ceil(self.count / self.batch_size)

    def validate(self, model: Any) -> float:
        """The validation loss of the epoch that the model has done."""
        if model.kill.is_due("validation"):
            model.kill.now()
        return self.losses[int(model.steps) // self.steps_per_epoch - 1]


Objects = tuple[Any, torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]


def make(task: Task, seed: int, kill: Kill) -> Objects:
    """New objects, and random states of a new process."""
    random.seed(seed)
    torch.manual_seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)
    model = Classifier(task.dropout, task.count, kill)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    return model, optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
