"""Evaluation command: `python -m projects.gan.evaluate --checkpoint PATH [flags]`."""

import sys

from common.cli.evaluate import main
from projects.gan.train import PROJECT

if __name__ == "__main__":
    sys.exit(main(PROJECT))
