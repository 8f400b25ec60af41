"""Trains a policy: `python -m projects.policy_gradient.train [--config recipes/x.yaml] [flags]`; `--help` lists all."""

import sys

from common.cli.main import main
from common.project import Project
from projects.policy_gradient.data import PolicyGradientData
from projects.policy_gradient.module import PolicyGradientModule
from projects.policy_gradient.pictures import AgentPictures

PROJECT = Project(
    "policy_gradient",
    PolicyGradientModule,
    PolicyGradientData,
    monitor="val/return",
    mode="max",
    plot_callbacks=(AgentPictures,),
    usage="play",
    links=(
        ("data.observation_size", "model.observation_size"),
        ("data.action_size", "model.action_size"),
        ("data.discrete", "model.discrete"),
        ("data.threshold", "model.threshold"),
    ),
)

if __name__ == "__main__":
    sys.exit(main(PROJECT))
