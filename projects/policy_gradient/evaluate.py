"""Evaluation command: `python -m projects.policy_gradient.evaluate --checkpoint PATH [flags]`."""

import sys

from common.cli.evaluate import main
from projects.policy_gradient.train import PROJECT

if __name__ == "__main__":
    sys.exit(main(PROJECT))
