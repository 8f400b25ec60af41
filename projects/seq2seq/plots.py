"""Plots of a run: attention maps and translations of fixed sentences after validation; after the test the worst ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from lightning.pytorch import Callback, LightningModule, Trainer
from tokenizers import Tokenizer
from torch import Tensor

from common.io.files import write_text_atomically
from common.io.loggers import log_plot, log_table
from common.plots.bars import draw_bars
from common.plots.figures import GRAY, new_figure, report_plot_errors, save_figure
from projects.seq2seq.batch_decoding import translate_ids
from projects.seq2seq.config import EOS
from projects.seq2seq.hypotheses import Hypothesis
from projects.seq2seq.metrics import bleu_by_length, length_unit, sentence_chrf
from projects.seq2seq.module import Seq2SeqModule
from projects.seq2seq.tokenizer import decode, token_names

NUM_TRANSLATIONS, NUM_MAPS = 12, 4  # sentences of the table, and the first of them whose attention is plotted
NUM_WORST = 24  # translations in the table of the test
MAX_PLOTTED_TOKENS = 40  # of a sentence, in an attention map

AttentionMap = tuple[Tensor, list[str], list[str]]  # weights (rows, columns) from 0 to 1, names of rows and columns


class TranslationPlots(Callback):
    """After every validation `translations.md` and `attention.png` of the same sentences; after the test `length.png`, and
    `worst.md` with the translations that are least like their references.

    Args:
        folder: Where the plots go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @report_plot_errors("translations.md, attention.png")
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Translates the first validation sentences as the test would, and plots the attention."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        module = cast(Seq2SeqModule, pl_module)
        data = trainer.datamodule  # type: ignore[attr-defined]
        pairs = data.splits["val"]
        sources = pairs.source_ids[:NUM_TRANSLATIONS]
        options, limit = module.test_generation, data.length_limit
        found = translate_ids(module.net, sources, options, module.device, attention=True, length_limit=limit)
        best = [hypotheses[0] for hypotheses in found]
        rows = [
            [source, target, decode(data.tokenizers[1], hypothesis.tokens), round(hypothesis.score, 3)]
            for source, target, hypothesis in zip(pairs.source, pairs.target, best, strict=False)
        ]
        header = [data.languages[0], data.languages[1], "translation", "score"]
        write_table(self.folder / "translations.md", f"After {trainer.global_step} steps:", header, rows)
        log_table(trainer, "val/translations", header, rows)
        if maps := attention_maps(sources[:NUM_MAPS], best, data.tokenizers):
            log_plot(trainer, "attention", draw_attention(maps, self.folder / "attention.png"))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module = cast(Seq2SeqModule, pl_module)
        if not trainer.is_global_zero or not module.translations:
            return
        order = sorted(module.translations)
        pairs = trainer.datamodule.splits["test"]  # type: ignore[attr-defined]
        translations, references = [module.translations[i] for i in order], [pairs.target[i] for i in order]
        self.plot_lengths(trainer, translations, references, module.tokenize)
        self.log_worst(trainer, translations, references, [pairs.source[i] for i in order])

    @report_plot_errors("worst.md")
    def log_worst(self, trainer: Trainer, translations: list[str], references: list[str], sources: list[str]) -> None:
        """Writes the translations with the lowest chrF as a table, and sends it to the loggers."""
        scores = sentence_chrf(translations, references)
        worst = sorted(range(len(scores)), key=scores.__getitem__)[:NUM_WORST]
        rows = [[sources[i], references[i], translations[i], round(scores[i], 1)] for i in worst]
        header = [*trainer.datamodule.languages, "translation", "chrF"]  # type: ignore[attr-defined]
        write_table(self.folder / "worst.md", f"The lowest chrF of {len(scores)} test sentences:", header, rows)
        log_table(trainer, "test/worst", header, rows)

    @report_plot_errors("length.png")
    def plot_lengths(self, trainer: Trainer, translations: list[str], references: list[str], tokenize: str) -> None:
        """Plots BLEU by the length of the reference."""
        by_length = bleu_by_length(translations, references, tokenize)
        bars = {name: score for name, (score, _) in by_length.items()}
        notes = [f"{count} sentences" for _, count in by_length.values()]
        path = self.folder / "length.png"
        draw_bars(bars, notes, "BLEU by length", f"{length_unit(tokenize)} of the reference", "BLEU in lower case", path)
        log_plot(trainer, "length", path)


def write_table(path: Path, title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Writes a table as Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    table = "\n".join(f"| {' | '.join(' '.join(str(cell).split()).replace('|', '/') for cell in line)} |" for line in lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, f"{title}\n\n{table}\n")


def attention_maps(
    sources: Sequence[list[int]], best: Sequence[Hypothesis], tokenizers: tuple[Tokenizer, Tokenizer]
) -> list[AttentionMap]:
    """Attention maps of translations with their tokens' names; of empty sources none."""
    maps: list[AttentionMap] = []
    for ids, hypothesis in zip(sources, best, strict=False):
        if ids and hypothesis.attention is not None:
            names = token_names(tokenizers[1], hypothesis.tokens), token_names(tokenizers[0], [*ids, EOS])
            maps.append((hypothesis.attention, *names))
    return maps


def draw_attention(maps: Sequence[AttentionMap], path: Path, columns: int = 2) -> Path:
    """Plots attention maps: rows are target tokens, columns source tokens, dark cells large weights; returns the PNG.

    Of long sentences the first `MAX_PLOTTED_TOKENS` are plotted, as the title says.
    """
    columns = min(columns, len(maps))
    widest, tallest = (min(MAX_PLOTTED_TOKENS, max(len(each[side]) for each in maps)) for side in (2, 1))
    figure, all_axes = new_figure(-(-len(maps) // columns), columns, 1.6 + 0.23 * widest, 1.3 + 0.23 * tallest)
    for axes, (weights, rows, names) in zip(all_axes, maps, strict=False):
        if max(weights.shape) > MAX_PLOTTED_TOKENS:
            axes.set_title(f"first tokens of {len(names)} (source) and {len(rows)} (target)", fontsize=8)
        rows, names = rows[:MAX_PLOTTED_TOKENS], names[:MAX_PLOTTED_TOKENS]
        axes.imshow(weights[: len(rows), : len(names)].float().cpu(), cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
        axes.set_yticks(range(len(rows)), rows, fontsize=8)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        for side in axes.spines.values():
            side.set_color(GRAY)
    for axes in all_axes[len(maps) :]:
        axes.set_visible(False)
    return save_figure(figure, path)
