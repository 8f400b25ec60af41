"""Evaluation command: `python -m projects.cifar10.evaluate --checkpoint PATH [flags]`."""

import sys

from common.cli.evaluate import main
from projects.cifar10.train import PROJECT

if __name__ == "__main__":
    sys.exit(main(PROJECT))
