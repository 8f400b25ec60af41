"""Training command: `python -m projects.cifar10.train [--config recipes/x.yaml] [flags]`."""

import sys

from common.callbacks.classification import ClassificationPlots
from common.callbacks.filters import FirstFilters
from common.callbacks.gallery import PredictionGallery
from common.cli.main import main
from common.project import Project
from projects.cifar10.data import CIFAR10Data
from projects.cifar10.module import CIFAR10Module

PROJECT = Project(
    "cifar10",
    CIFAR10Module,
    CIFAR10Data,
    monitor="val/accuracy",
    mode="max",
    plot_callbacks=(FirstFilters, PredictionGallery, ClassificationPlots),
    derived=("data.val_size", "data.batch_size", "model.num_classes"),
    usage="predict IMAGE",
)

if __name__ == "__main__":
    sys.exit(main(PROJECT))
