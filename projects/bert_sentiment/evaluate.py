"""Evaluation command: `python -m projects.bert_sentiment.evaluate --checkpoint PATH [flags]`."""

import sys

from common.cli.evaluate import main
from projects.bert_sentiment.train import PROJECT

if __name__ == "__main__":
    sys.exit(main(PROJECT))
