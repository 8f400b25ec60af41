"""Training command: `python -m projects.gan.train [--config recipes/x.yaml] [flags]`."""

import sys

from common.cli.main import main
from common.project import Project
from projects.gan.data import GANData
from projects.gan.module import GANModule
from projects.gan.plots import SamplePlots

# the true mixture of points is known: total variation to it counts quality, balance and spread; of images there are features
MONITOR = {"points": "val/total_variation", "images": "val/frechet_distance"}

PROJECT = Project(
    "gan",
    GANModule,
    GANData,
    monitor=lambda data: MONITOR[data.data_kind],
    mode="min",
    plot_callbacks=(SamplePlots,),
    usage="generate",
    links=(
        ("model.n_critic", "data.n_critic"),
        ("model.iterations_per_step", "data.iterations_per_step"),
        ("data.data_kind", "model.data_kind"),
        ("data.num_classes", "model.num_classes"),
        ("data.data_std", "model.data_std"),
    ),
)

if __name__ == "__main__":
    sys.exit(main(PROJECT))
