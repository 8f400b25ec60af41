"""Fine-tunes a classifier: `python -m projects.bert_sentiment.train [--config recipes/x.yaml] [flags]`; see `--help`."""

import sys

from common.callbacks.classification import ClassificationPlots
from common.cli.main import main
from common.project import Project
from projects.bert_sentiment.data import TextData
from projects.bert_sentiment.module import BertSentimentModule
from projects.bert_sentiment.pictures import TextPictures

PROJECT = Project(
    "bert_sentiment",
    BertSentimentModule,
    TextData,
    monitor="val/accuracy",
    mode="max",
    plot_callbacks=(ClassificationPlots, TextPictures),
    usage='predict "A TEXT"',
    links=(
        ("model.checkpoint", "data.checkpoint"),
        ("data.class_names", "model.class_names"),
        ("data.vocabulary_size", "model.vocabulary_size"),
    ),
)

if __name__ == "__main__":
    sys.exit(main(PROJECT))
