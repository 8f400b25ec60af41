"""Training command: `python -m projects.blank.train [--config recipes/x.yaml] [flags]`."""

import sys

from common.cli.main import main
from common.project import Project
from projects.blank.data import BlankData
from projects.blank.module import BlankModule

PROJECT = Project(
    "blank",
    BlankModule,
    BlankData,
    monitor="val/loss",
    mode="min",
    usage="predict FILE",
    links=(("data.num_features", "model.num_features"),),
)

if __name__ == "__main__":
    sys.exit(main(PROJECT))
