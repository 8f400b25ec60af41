"""Inference: predictions of a trained regressor for rows of raw features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from common.errors import UserError
from common.io.checkpoints import load_module
from projects.blank.module import BlankModule


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
        return self.module(torch.tensor(rows)).tolist() if rows else []


def load(checkpoint: Path) -> RegressionPipeline:
    """Pipeline of a run's checkpoint. Raises UserError if the file is missing, damaged or another project's."""
    module, _ = load_module(checkpoint, BlankModule, "blank")
    return RegressionPipeline(module)
