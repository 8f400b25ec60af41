"""Evaluation command: `python -m projects.seq2seq.evaluate --checkpoint PATH [flags]`."""

import sys

from common.cli.evaluate import main
from projects.seq2seq.train import PROJECT

if __name__ == "__main__":
    sys.exit(main(PROJECT))
