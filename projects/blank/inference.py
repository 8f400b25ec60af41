"""Inference: predictions of a trained regressor for rows of raw features."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from common.errors import UserError
from common.io.checkpoints import PathLike, load_module
from projects.blank.module import BlankModule

BATCH_SIZE = 10_000  # rows


class RegressionPipeline:
    """Predictions of a trained regressor.

    Args:
        module: The trained module, in eval mode.
    """

    def __init__(self, module: BlankModule) -> None:
        self.module = module
        self.num_features: int = module.hparams["num_features"]

    @torch.inference_mode()
    def __call__(self, rows: Sequence[Sequence[float]]) -> list[float]:
        """Predictions for rows of features. Raises UserError for a row of another length."""
        for number, row in enumerate(rows, 1):
            if len(row) != self.num_features:
                raise UserError(f"row {number} has {len(row)} features, not {self.num_features}")
        inputs = torch.tensor(rows, dtype=torch.float32).view(len(rows), self.num_features)
        return torch.cat([self.module(batch.to(self.module.device)).cpu() for batch in inputs.split(BATCH_SIZE)]).tolist()


def load(checkpoint: PathLike, device: str | torch.device = "cpu") -> RegressionPipeline:
    """Regressor of rows of features from a run's checkpoint.

    Args:
        checkpoint: Checkpoint of a run.
        device: Where to compute.

    Raises:
        UserError: The file is not a valid checkpoint of this project.

    Example:
        >>> regressor = load("best.ckpt", device="cpu")
        >>> predictions = regressor(rows)
        >>> len(predictions) == len(rows)
        True
    """
    module, _ = load_module(checkpoint, BlankModule, "blank")
    return RegressionPipeline(module.to(device))
