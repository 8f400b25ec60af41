"""Training command: `python -m projects.bert_sentiment.train [--config recipes/x.yaml] [flags]`."""

import sys

from common.callbacks.classification import ClassificationPlots
from common.cli.main import main
from common.project import Project
from projects.bert_sentiment.data import TextData
from projects.bert_sentiment.module import BertSentimentModule
from projects.bert_sentiment.plots import TextPlots

PROJECT = Project(
    "bert_sentiment",
    BertSentimentModule,
    TextData,
    monitor="val/accuracy",
    mode="max",
    plot_callbacks=(ClassificationPlots, TextPlots),
    usage='predict "A TEXT"',
    links=(
        ("model.checkpoint", "data.checkpoint"),
        ("data.class_names", "model.class_names"),
        ("data.vocab_size", "model.vocab_size"),
    ),
)

if __name__ == "__main__":
    sys.exit(main(PROJECT))
