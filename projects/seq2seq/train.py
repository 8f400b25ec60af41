"""Training command: `python -m projects.seq2seq.train [--config recipes/x.yaml] [flags]`."""

import sys

from common.cli.main import main
from common.project import Project
from projects.seq2seq.data import TranslationData
from projects.seq2seq.module import Seq2SeqModule
from projects.seq2seq.plots import TranslationPlots

PROJECT = Project(
    "seq2seq",
    Seq2SeqModule,
    TranslationData,
    monitor="val/bleu_greedy_lc",
    mode="max",
    plot_callbacks=(TranslationPlots,),
    usage="translate FILE",
    links=(("data.vocab_sizes", "model.vocab_sizes"),),
)

if __name__ == "__main__":
    sys.exit(main(PROJECT))
