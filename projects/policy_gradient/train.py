"""Training command: `python -m projects.policy_gradient.train [--config recipes/x.yaml] [flags]`."""

import sys

from common.cli.main import main
from common.project import Project
from projects.policy_gradient.data import PolicyGradientData
from projects.policy_gradient.module import PolicyGradientModule
from projects.policy_gradient.plots import AgentPlots

PROJECT = Project(
    "policy_gradient",
    PolicyGradientModule,
    PolicyGradientData,
    monitor="val/return_mean",
    mode="max",
    plot_callbacks=(AgentPlots,),
    usage="play",
    links=(
        ("data.obs_dim", "model.obs_dim"),
        ("data.action_dim", "model.action_dim"),
        ("data.discrete", "model.discrete"),
        ("data.reward_threshold", "model.reward_threshold"),
    ),
)

if __name__ == "__main__":
    sys.exit(main(PROJECT))
