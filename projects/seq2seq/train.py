"""Trains a translator: `python -m projects.seq2seq.train [--config recipes/x.yaml] [flags]`; `--help` lists them."""

import sys

from common.cli.main import main
from common.project import Project
from projects.seq2seq.data import TranslationData
from projects.seq2seq.module import Seq2SeqModule
from projects.seq2seq.pictures import TranslationPictures

PROJECT = Project(
    "seq2seq",
    Seq2SeqModule,
    TranslationData,
    monitor="val/bleu",
    mode="max",
    plot_callbacks=(TranslationPictures,),
    usage="translate FILE",
    links=(("data.vocabularies", "model.vocabularies"),),
)

if __name__ == "__main__":
    sys.exit(main(PROJECT))
