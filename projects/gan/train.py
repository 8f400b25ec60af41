"""Trains a GAN: `python -m projects.gan.train [--config recipes/x.yaml] [flags]`; `--help` lists the flags."""

import sys

from common.cli.main import main
from common.project import Project
from projects.gan.data import GANData
from projects.gan.module import GANModule
from projects.gan.pictures import SamplePictures

PROJECT = Project(
    "gan",
    GANModule,
    GANData,
    monitor="val/distance",
    mode="min",
    plot_callbacks=(SamplePictures,),
    usage="sample",
    links=(
        ("model.d_steps", "data.d_steps"),
        ("model.rounds", "data.rounds"),
        ("data.sample_kind", "model.sample_kind"),
        ("data.class_count", "model.class_count"),
        ("data.scale", "model.scale"),
    ),
)

if __name__ == "__main__":
    sys.exit(main(PROJECT))
