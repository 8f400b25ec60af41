"""Training command of the toy project: `python -m toy.train`."""

import sys

from common.cli.main import main
from common.project import Project
from toy.data import ToyData
from toy.module import SavePlot, ToyModule

PROJECT = Project(
    "toy",
    ToyModule,
    ToyData,
    monitor="val/accuracy",
    mode="max",
    plot_callbacks=(SavePlot,),
    links=(("data.num_classes", "model.num_classes"),),
)

if __name__ == "__main__":
    sys.exit(main(PROJECT))
