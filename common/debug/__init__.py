"""Checks of a network before a long training, by `--debug overfit|shapes|gradients`.

Can it overfit one batch? What does each layer do to its input? Is the gradient that of the loss?
A module must only have `compute_loss(batch) -> Tensor`, the scalar training loss behind its `training_step`. It may have
`min_loss`, the minimum of this loss, `overfit_steps`, how many steps overfitting a batch may take, and
`prepare_overfit()`, which turns a loss without a minimum, such as an adversarial one, into one that can come down.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule

from common.debug.gradients import check_gradients, print_gradients
from common.debug.loss import first_batch
from common.debug.overfit import overfit_one_batch
from common.debug.shapes import layer_shapes, print_shapes
from common.errors import UserError


def debug_run(check: str, module: LightningModule, datamodule: LightningDataModule, trainer_options: dict[str, Any]) -> None:
    """Runs one of the checks (`overfit`, `shapes`, `gradients`) and prints its result.

    Args:
        trainer_options: Arguments of the Trainer, such as accelerator, devices and precision. Only `overfit` trains;
            `shapes` runs on the module's device, `gradients` on the CPU.

    Raises:
        UserError: There is no such check, or it failed.
    """
    if check == "overfit":
        overfit_one_batch(module, datamodule, trainer_options, steps=getattr(module, "overfit_steps", 200))
    elif check == "shapes":
        print_shapes(layer_shapes(module, first_batch(datamodule)), module)
    elif check == "gradients":
        print_gradients(check_gradients(module, first_batch(datamodule)))
    else:
        raise UserError(f"--debug {check}: choose overfit, shapes or gradients")
