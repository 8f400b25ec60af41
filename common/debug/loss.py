"""Loss of a batch, computed repeatably: the first batch, fixed random numbers, buffers restored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn

from common.callbacks.throughput import tensors_in
from common.errors import UserError


def first_batch(datamodule: LightningDataModule) -> Any:
    """First training batch, on the loader's device. Raises UserError if there is none."""
    datamodule.prepare_data()
    datamodule.setup("fit")
    for batch in datamodule.train_dataloader():
        return batch
    raise UserError("the training loader gave no batch; is batch_size larger than the data set?")


def loss_of(module: LightningModule, batch: Any) -> Tensor:
    """Scalar training loss of `batch`, by the module's `compute_loss`."""
    return cast(Any, module).compute_loss(batch)  # mypy would take an unknown attribute for a tensor


def shapes_in(nest: Any) -> list[tuple[int, ...]]:
    """Shape of every tensor in a nest of tuples, lists, mappings and dataclasses, in order."""
    return [tuple(tensor.shape) for tensor in tensors_in(nest)]


@contextmanager
def repeatable(module: nn.Module) -> Iterator[None]:
    """Context with fixed random numbers, which restores generators and buffers.

    Otherwise every evaluation of the loss would have its own dropout mask, and running statistics would drift.
    """
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    gpus = {parameter.device for parameter in module.parameters() if parameter.is_cuda}
    with torch.random.fork_rng(devices=gpus):
        torch.manual_seed(0)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, buffer in module.named_buffers():
                    if name in before and before[name].shape == buffer.shape:  # else a cache that has grown
                        buffer.copy_(before[name])
