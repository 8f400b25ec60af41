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
from common.plots.captions import run_caption
from common.plots.figures import GRAY, TITLE_SIZE, new_figure, report_plot_errors, save_figure
from common.plots.text import fit_text, text_width
from projects.seq2seq.batch_decoding import translate_ids
from projects.seq2seq.config import EOS
from projects.seq2seq.hypotheses import Hypothesis
from projects.seq2seq.metrics import bleu_by_length, length_unit, sentence_chrf
from projects.seq2seq.module import Seq2SeqModule
from projects.seq2seq.tokenizer import decode, token_names

NUM_TRANSLATIONS, NUM_MAPS = 12, 4  # sentences of the table, and the first of them whose attention is plotted
NUM_WORST = 24  # translations in the table of the test
MAX_PLOTTED_TOKENS = 40  # of a sentence, in an attention map
CELL, MAX_NAME = 0.23, 1.2  # inches: of a cell of an attention map, of a token's name

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
            caption = run_caption(self.folder, data, f"first validation sentences, step {trainer.global_step:,}")
            log_plot(trainer, "attention", draw_attention(maps, self.folder / "attention.png", caption=caption))

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
        path, unit = self.folder / "length.png", length_unit(tokenize)
        caption = run_caption(self.folder, trainer.datamodule, f"{len(references):,} test sentences")  # type: ignore[attr-defined]
        title = "BLEU by length of the reference"
        draw_bars(bars, notes, title, f"length of the reference in {unit}", "BLEU, lower case", path, caption)
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


def first_tokens(attention_map: AttentionMap) -> AttentionMap:
    """Attention map of the first `MAX_PLOTTED_TOKENS` tokens, with names that fit."""
    weights, *names = attention_map
    targets, sources = ([fit_text(name, MAX_NAME, 8) for name in side[:MAX_PLOTTED_TOKENS]] for side in names)
    return weights[: len(targets), : len(sources)], targets, sources


def draw_attention(maps: Sequence[AttentionMap], path: Path, columns: int = 2, caption: str = "") -> Path:
    """Plots attention maps: rows are target tokens, columns source tokens, dark cells large weights; returns the PNG.

    All maps have cells of one size. Of long sentences the first `MAX_PLOTTED_TOKENS` are plotted, as the title says.
    """
    columns = min(columns, len(maps))
    shown = [first_tokens(each) for each in maps]
    tallest, widest = (max(len(each[side]) for each in shown) for side in (1, 2))
    beside, above = (max(text_width(name, 8) for each in shown for name in each[side]) for side in (1, 2))
    rows = -(-len(maps) // columns)
    figure, all_axes = new_figure(rows, columns, 0.6 + beside + CELL * widest, 0.8 + above + CELL * tallest)
    for number, (axes, (weights, targets, sources)) in enumerate(zip(all_axes, shown, strict=False), 1):
        height, width = maps[number - 1][0].shape
        cut = f", first tokens of {width} (source) and {height} (target)" if max(height, width) > MAX_PLOTTED_TOKENS else ""
        axes.set_title(f"sentence {number}{cut}", loc="left", fontsize=8)
        image = axes.imshow(weights.float().cpu(), cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(len(sources)), sources, rotation=90, fontsize=8)
        axes.set_yticks(range(len(targets)), targets, fontsize=8)
        axes.set_xlim(-0.5, widest - 0.5)  # all axes span as many cells, and so these have one size
        axes.set_ylim(tallest - 0.5, -0.5)
        axes.xaxis.tick_top()
        axes.xaxis.set_label_position("top")
        axes.set_xlabel("source tokens", loc="left", fontsize=8, color=GRAY)
        axes.set_ylabel("target tokens", loc="top", fontsize=8, color=GRAY)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        right, bottom = len(sources) - 0.5, len(targets) - 0.5
        axes.plot([-0.5, right, right, -0.5, -0.5], [-0.5, -0.5, bottom, bottom, -0.5], color=GRAY, lw=0.6, clip_on=False)
    for axes in all_axes[len(maps) :]:
        axes.set_visible(False)
    bar = figure.colorbar(image, ax=all_axes, location="bottom", shrink=0.4, aspect=40, pad=0.02)
    bar.set_label("attention weight", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    figure.suptitle("Attention: where each target token looks in the source", fontsize=TITLE_SIZE)
    return save_figure(figure, path, caption)
