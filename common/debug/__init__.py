"""`--debug overfit|shapes|gradients`: three questions to ask of a network before paying for a long training.

Can it learn one batch by heart? What does each layer do to its input? Is the gradient the loss's slope?
A module must only have `compute_loss(batch) -> Tensor`, the scalar training loss behind its `training_step`. It may have
`min_loss`, the least that this loss can be, `overfit_steps`, how many steps a batch may take to be learnt by heart, and
`prepare_overfit()`, which makes of a loss that has no end, such as a game's, one that can come down.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from common.debug.batches import first_batch
from common.debug.gradients import check_gradients, print_gradients
from common.debug.overfit import overfit_one_batch
from common.debug.shapes import layer_shapes, print_shapes
from common.errors import UserError

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule, LightningModule


def debug_run(
    switch: str, module: LightningModule, datamodule: LightningDataModule, trainer_options: dict[str, Any]
) -> None:
    """Answers one of the questions (`overfit`, `shapes`, `gradients`) on the terminal.

    Args:
        trainer_options: arguments of Lightning's `Trainer`, such as accelerator, devices and precision. Only
            `overfit` trains; shapes are taken on the device that `module` is on, gradients on the CPU.

    Raises:
        UserError: there is no such switch, or the answer is that something is wrong.
    """
    if switch == "overfit":
        overfit_one_batch(module, datamodule, trainer_options, steps=getattr(module, "overfit_steps", 200))
    elif switch == "shapes":
        print_shapes(layer_shapes(module, first_batch(datamodule)), module)
    elif switch == "gradients":
        print_gradients(check_gradients(module, first_batch(datamodule)))
    else:
        raise UserError(f"--debug {switch}: choose overfit, shapes or gradients")
