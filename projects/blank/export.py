"""Export command: `python -m projects.blank.export --checkpoint PATH --to FOLDER`.

ONNX takes rows of raw features and gives predictions in the target's unit: standardization is inside.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from common.cli.command import report_errors
from common.export.command import ONNX, export, new_parser

if TYPE_CHECKING:
    from common.export.graph import Export
    from common.project import Project


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code (see `common.errors`)."""
    options = new_parser("blank", ONNX).parse_args(args)
    return report_errors(lambda: export(options, new_export))


def new_export(options: argparse.Namespace) -> tuple[Project, Export]:
    """The regressor of a checkpoint, as it is exported."""
    import torch

    from common.export.graph import Export, Graph
    from common.export.weights import write_weights
    from common.io.checkpoints import load_module
    from projects.blank.module import BlankModule
    from projects.blank.train import PROJECT

    module, checkpoint = load_module(options.checkpoint, BlankModule, "blank")
    net, rng = module.net, torch.Generator().manual_seed(0)
    # rows like those of the training
    rows = [torch.randn(n, len(net.input_mean), generator=rng) * net.input_std + net.input_mean for n in (2, 1, 7)]
    graph = Graph(net, [{"rows": batch} for batch in rows], ("predictions",))
    names = ", ".join(checkpoint.get("feature_names", [])) or "not named"
    made = Export(
        title="Regression of one number",
        description=f"Predictions, in the target's unit, for rows of raw features. Input: {graph.describe_inputs()[0]}; "
        f"standardization is inside the network. Features, in this order: {names}.",
        tags=("tabular-regression",),
        metrics={"mse": "test/loss", "r_squared": "test/r2"},
        checkpoint=checkpoint,
        write_weights=functools.partial(write_weights, module, checkpoint, ("feature_names",), "predictions = model(rows)"),
        graph=graph,
    )
    return PROJECT, made


if __name__ == "__main__":
    sys.exit(main())
