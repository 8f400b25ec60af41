"""Inference: predictions of a trained regressor for rows of raw features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from common.data.inputs import check_rows
from common.io.checkpoints import PathLike, content_errors, load_module
from projects.blank.module import BlankModule

BATCH_SIZE = 10_000  # rows


class RegressionPipeline:
    """Predictions of a trained regressor.

    Args:
        module: The trained module, in eval mode.
        feature_names: Names of the features in their order; empty if unknown.
    """

    def __init__(self, module: BlankModule, feature_names: Sequence[str] = ()) -> None:
        self.module = module
        self.feature_names = list(feature_names)
        self.num_features: int = module.hparams["num_features"]

    @torch.inference_mode()
    def __call__(self, rows: Sequence[Sequence[float]]) -> list[float]:
        """Predictions for rows of features. Raises UserError for a row of another length, or with NaN or infinity."""
        inputs = check_rows(rows, self.num_features)
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
    module, saved = load_module(checkpoint, BlankModule, "blank")
    with content_errors(Path(checkpoint), saved):
        feature_names = [str(name) for name in saved.get("feature_names", ())]
    return RegressionPipeline(module.to(device), feature_names)
