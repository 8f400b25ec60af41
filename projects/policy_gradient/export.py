"""Export command: `python -m projects.policy_gradient.export --checkpoint PATH --to FOLDER`.

ONNX takes flat observations, and masks where the environment has them, and gives action probabilities, or the mean action
as a continuous environment takes it: normalization of observations is inside.
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
    parser = new_parser("policy_gradient", ONNX)
    help_text = "Its environment, where that is your own, MODULE:ENV: code that a checkpoint alone does not run."
    parser.add_argument("--source", metavar="ID", help=help_text)
    options = parser.parse_args(args)
    return report_errors(lambda: export(options, new_export))


def new_export(options: argparse.Namespace) -> tuple[Project, Export]:
    """The policy of a checkpoint, as it is exported."""
    import torch

    from common.export.graph import Export, Graph
    from common.export.weights import write_weights
    from common.io.checkpoints import read_checkpoint
    from projects.policy_gradient.inference import load
    from projects.policy_gradient.networks import ActionNetwork
    from projects.policy_gradient.train import PROJECT

    checkpoint, agent = read_checkpoint(options.checkpoint), load(options.checkpoint, source=options.source)
    info, module, rng = agent.env_info, agent.module, torch.Generator().manual_seed(0)
    bounds = None if info.discrete else tuple(map(torch.from_numpy, (*info.rescaling, info.low, info.high)))
    network = ActionNetwork(module.policy, module.obs_rms, bounds).eval()
    batches = [{"observations": torch.randn(n, info.obs_dim, generator=rng)} for n in (2, 1, 7)]
    if info.has_action_masks:
        masks = [torch.rand(len(batch["observations"]), info.action_dim, generator=rng) < 0.5 for batch in batches]
        for batch, mask in zip(batches, masks, strict=True):
            mask[:, 0] = True  # one action is always valid
            batch["action_masks"] = mask
    graph = Graph(network, batches, ("probabilities",) if info.discrete else ("actions",))
    first = f"; action 0 is the environment's {info.low}" if info.discrete and info.low else ""
    outputs = (
        f"probabilities of the actions{first}" if info.discrete else "the mean action, in the environment's unit and bounds"
    )
    made = Export(
        title=f"Policy for {info.id}",
        description=f"Output: {outputs}. Inputs: {'; '.join(graph.describe_inputs())}; observations are flat, as those of "
        "`model.make_env()`, and their normalization is inside the network. The greedy action, which `model` takes, is the "
        "most probable one.",
        tags=("reinforcement-learning",),
        metrics={"mean_reward": "test/return_mean"},
        checkpoint=checkpoint,
        write_weights=functools.partial(
            write_weights, module, checkpoint, ("environment",), "actions = model(observations)"
        ),
        graph=graph,
        data=f"Trained in the environment `{info.id}`; there is no data set.",
    )
    return PROJECT, made


if __name__ == "__main__":
    sys.exit(main())
