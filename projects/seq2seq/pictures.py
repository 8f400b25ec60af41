"""What a translator does, to look at: translations and attention of fixed sentences, and BLEU against length."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from common.io.loggers import log_plot, log_table
from common.plots.attention import draw_attention
from common.plots.bars import draw_bars
from projects.seq2seq.evaluation import bleu_by_length
from projects.seq2seq.inference import translate_ids
from projects.seq2seq.module import Seq2SeqModule
from projects.seq2seq.vocabulary import EOS, decode, token_names


class TranslationPictures(Callback):
    """After every validation `translations.md` and `attention.png`, of the same sentences; after the test `length.png`.

    Args:
        folder: where the pictures go.
        translations: how many sentences the table has.
        maps: how many attention maps are drawn, of the table's first sentences.
    """

    def __init__(self, folder: Path, translations: int = 12, maps: int = 4) -> None:
        self.folder = folder
        self.translations = translations
        self.maps = maps

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Translates the first validation sentences as the test would, and draws what was attended to."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        module = cast(Seq2SeqModule, pl_module)
        data = trainer.datamodule  # type: ignore[attr-defined]
        pairs = data.splits["val"]
        sources = pairs.source_ids[: self.translations]
        options, limit = module.search, data.length_limit
        found = translate_ids(module.net, sources, options, module.device, attention=True, limit=limit)
        best = [hypotheses[0] for hypotheses in found]
        rows = [
            [source, target, decode(data.target_tokenizer, hypothesis.tokens), round(hypothesis.score, 3)]
            for source, target, hypothesis in zip(pairs.source, pairs.target, best, strict=False)
        ]
        header = [data.languages[0], data.languages[1], "translation", "score"]
        lines = [header, ["---"] * len(header), *rows]
        self.folder.mkdir(parents=True, exist_ok=True)
        table = "\n".join(f"| {' | '.join(str(cell).replace('|', '/') for cell in line)} |" for line in lines)
        (self.folder / "translations.md").write_text(f"After {trainer.global_step} steps:\n\n{table}\n")
        log_table(trainer, "val/translations", header, rows)
        maps: list[tuple[Tensor, list[str], list[str]]] = []
        for ids, hypothesis in zip(sources[: self.maps], best, strict=False):
            if ids and hypothesis.attention is not None:
                written = token_names(data.target_tokenizer, hypothesis.tokens)
                maps.append((hypothesis.attention, written, token_names(data.source_tokenizer, [*ids, EOS])))
        if maps:
            log_plot(trainer, "attention", draw_attention(maps, self.folder / "attention.png"))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws BLEU of short and of long sentences."""
        translations = cast(Seq2SeqModule, pl_module).translations
        if not trainer.is_global_zero or not translations:
            return
        references = trainer.datamodule.splits["test"].target  # type: ignore[attr-defined]
        order = sorted(translations)
        by_length = bleu_by_length([translations[i] for i in order], [references[i] for i in order])
        bars = {name: score for name, (score, _) in by_length.items()}
        notes = [f"{count} sentences" for _, count in by_length.values()]
        path = self.folder / "length.png"
        draw_bars(bars, notes, "BLEU by length", "words of the reference", "BLEU in lower case", path)
        log_plot(trainer, "length", path)
