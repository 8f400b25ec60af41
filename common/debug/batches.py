"""Looking at a batch and a loss without changing the module that they belong to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from common.callbacks.throughput import tensors_in
from common.errors import UserError

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule, LightningModule


def first_batch(datamodule: LightningDataModule) -> Any:
    """The first training batch, as the loader gives it. Raises UserError if it gives none."""
    datamodule.prepare_data()
    datamodule.setup("fit")
    for batch in datamodule.train_dataloader():
        return batch
    raise UserError("the training loader gave no batch; is batch_size larger than the data set?")


def loss_of(module: LightningModule, batch: Any) -> Tensor:
    """The module's scalar training loss of `batch`."""
    return cast(Any, module).compute_loss(batch)  # mypy would take an unknown attribute for a tensor


def map_tensors(function: Callable[[Tensor], Any], nest: Any) -> Any:
    """A nest of tuples, lists, dicts and dataclasses with `function` applied to each tensor in it."""
    from lightning_utilities.core.apply_func import apply_to_collection

    return apply_to_collection(nest, Tensor, function)


def shapes_in(nest: Any) -> list[tuple[int, ...]]:
    """The shape of every tensor in a nest of tuples, lists and mappings, in order."""
    return [tuple(tensor.shape) for tensor in tensors_in(nest)]


@contextmanager
def repeatable(module: nn.Module) -> Iterator[None]:
    """Every block under it draws the same random numbers, and leaves generators and buffers as they were.

    Else dropout would draw a new mask for each evaluation, and running statistics would drift.
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
