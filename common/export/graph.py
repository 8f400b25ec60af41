"""What a capstone exports of a checkpoint, and what became of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Graph:
    """Network for ONNX, from raw inputs to final outputs.

    Args:
        network: In eval mode; takes the inputs in their order.
        batches: Inputs by name, of several batch sizes. The first, of at least two rows, is traced.
        outputs: Name of each output.
        dynamic_dims: Dimensions of the inputs that may have any size; the first of all is the batch.
        metadata: Text that the file holds beside the network, as class names.
    """

    network: nn.Module
    batches: Sequence[dict[str, Tensor]]
    outputs: tuple[str, ...]
    dynamic_dims: tuple[int, ...] = (0,)
    metadata: dict[str, str] = field(default_factory=dict)

    @torch.no_grad()
    def reference(self, batch: dict[str, Tensor]) -> list[Tensor]:
        """The network's outputs for a batch."""
        outputs = self.network(*batch.values())
        return [outputs] if isinstance(outputs, Tensor) else list(outputs)

    def describe_inputs(self) -> list[str]:
        """Each input's name, type and shape, with `n` and `time` for the dimensions of any size."""
        sizes = dict(zip(self.dynamic_dims, ("n", "time"), strict=False))
        return [
            f"`{name}`: {str(tensor.dtype).removeprefix('torch.')} "
            f"({', '.join(str(sizes.get(dim, size)) for dim, size in enumerate(tensor.shape))})"
            for name, tensor in self.batches[0].items()
        ]


@dataclass(frozen=True)
class Written:
    """File or folder of an export.

    Args:
        name: Name in the exported folder.
        usage: Lines of Python that load it and call it.
        check: What it was compared with, and the result, in one sentence.
        difference: Largest absolute difference to torch.
    """

    name: str
    usage: str
    check: str
    difference: float = 0.0


@dataclass(frozen=True)
class Int8:
    """Test of an int8 version on the validation split: it is kept if it is not significantly worse.

    Args:
        metric: Name of the metric; higher is better.
        float32: Metric of the float32 version.
        int8: Metric of the int8 version.
        p_value: Probability of so great a loss if both were equally good.
        count: Number of validation examples.
        test: Name of the paired test.
    """

    metric: str
    float32: float
    int8: float
    p_value: float
    count: int
    test: str

    @property
    def kept(self) -> bool:
        """Whether no loss is significant at 5 %."""
        return not (self.int8 < self.float32 and self.p_value < 0.05)

    def __str__(self) -> str:
        scores = f"{self.metric} {self.int8:.2f} in int8, {self.float32:.2f} in float32"
        return f"{scores}, on {self.count:,} validation examples ({self.test}: p = {self.p_value:.3f})"


@dataclass(frozen=True)
class Export:
    """What a capstone exports of a checkpoint.

    Args:
        title: What the model is, in a few words, for the card's heading.
        description: Paragraph for the card: inputs, outputs, what is inside the network and what is left out.
        tags: Tags on the hub; the first is the task.
        metrics: Names of test metrics for the card's header, by the hub's names of them.
        checkpoint: The checkpoint.
        write_weights: Writes weights and configuration to a folder, and loads them again to compare.
        graph: The network for ONNX; None where another engine takes it.
        write_engine: Writes the format of that other engine, and compares it with torch.
        write_int8: Writes the int8 version for a validation split of the run's data, and tests it; None if there is none.
        data: Sentence on the training data where these are made by code, and so have no license of their own.
    """

    title: str
    description: str
    tags: tuple[str, ...]
    metrics: dict[str, str]
    checkpoint: dict[str, Any]
    write_weights: Callable[[Path], Written]
    graph: Graph | None = None
    write_engine: Callable[[Path], Written] | None = None
    write_int8: Callable[[Path, Any], tuple[Written, Int8]] | None = None
    data: str | None = None
