"""Export command: `python -m projects.seq2seq.export --checkpoint PATH --to FOLDER`.

CTranslate2 takes a Transformer with sinusoidal positions, pre-norm or post-norm. Of any other network there are the weights.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cli.command import report_errors
from common.export.command import Engine, export, new_parser

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule

    from common.export.graph import Export, Int8, Written
    from common.project import Project
    from projects.seq2seq.inference import TranslationPipeline


CTRANSLATE2 = Engine("CTranslate2", ("ctranslate2",), "lightning-capstones[ctranslate2]")


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code (see `common.errors`)."""
    options = new_parser("seq2seq", CTRANSLATE2, int8=True).parse_args(args)
    return report_errors(lambda: export(options, new_export))


def new_export(options: argparse.Namespace) -> tuple[Project, Export]:
    """The translator of a checkpoint, as it is exported. Raises UserError if the engine does not know its network."""
    from common.export.graph import Export
    from common.io.checkpoints import load_module
    from projects.seq2seq.ctranslate2_model import check_network, write_ctranslate2
    from projects.seq2seq.inference import load
    from projects.seq2seq.module import Seq2SeqModule
    from projects.seq2seq.train import PROJECT

    module, checkpoint = load_module(options.checkpoint, Seq2SeqModule, "seq2seq")
    pipeline = load(options.checkpoint)
    if not options.weights_only:
        check_network(module.net)
    made = Export(
        title=f"Translator, {' to '.join(pipeline.languages)}",
        description=f"Translations of sentences, of at most {pipeline.max_length} tokens, by beam search. The tokenizers of "
        "both languages, byte-level BPE, are `source-tokenizer.json` and `target-tokenizer.json`.",
        tags=("translation",),
        metrics={"sacrebleu": "test/bleu"},
        checkpoint=checkpoint,
        write_weights=functools.partial(write_weights, module, pipeline, checkpoint),
        write_engine=functools.partial(write_ctranslate2, pipeline),
        write_int8=functools.partial(write_int8, pipeline),
    )
    return PROJECT, made


def write_weights(
    module: LightningModule, pipeline: TranslationPipeline, checkpoint: dict[str, Any], folder: Path
) -> Written:
    """Writes weights, configuration and tokenizers."""
    from common.export import weights

    for side, tokenizer in (("source", pipeline.source_tokenizer), ("target", pipeline.target_tokenizer)):
        tokenizer.save(str(folder / f"{side}-tokenizer.json"))
    keys = ("tokenizers", "languages", "length_limit", "max_length")
    return weights.write_weights(module, checkpoint, keys, "translations = model(sentences)", folder)


def write_int8(pipeline: TranslationPipeline, folder: Path, data: Any) -> tuple[Written, Int8]:
    """Writes the int8 version, and compares its translations of the validation split with those in float32."""
    import ctranslate2

    from common.export.graph import Int8, Written
    from projects.seq2seq.ctranslate2_model import FOLDER, largest_difference, usage, write_model
    from projects.seq2seq.metrics import paired_bleu
    from projects.seq2seq.tokenizer import decode

    target = write_model(pipeline, folder, "int8")
    sources, references = data.texts["val"]
    tokens = [pipeline.source_tokenizer.encode(sentence).tokens[: pipeline.max_length] for sentence in sources]
    generation, tokenizer = pipeline.generation, pipeline.target_tokenizer
    vocabulary = tokenizer.get_vocab()
    translations: list[list[str]] = []
    for path in (folder / FOLDER, target):
        translator = ctranslate2.Translator(str(path), device="cpu")
        results = translator.translate_batch(
            tokens,
            beam_size=generation.num_beams,
            length_penalty=generation.length_penalty,
            max_decoding_length=generation.max_length,
            max_batch_size=100,
        )
        found = [result.hypotheses[0] for result in results]
        translations.append([decode(tokenizer, map(vocabulary.__getitem__, hypothesis)) for hypothesis in found])
    float32, int8, p_value = paired_bleu(
        (translations[0], translations[1]), references, pipeline.languages[1], pipeline.bleu_tokenize
    )
    test = Int8("BLEU", float32, int8, p_value, len(references), "paired bootstrap of BLEU")
    return Written(target.name, usage(pipeline, target.name), str(test), largest_difference(pipeline, target)), test


if __name__ == "__main__":
    sys.exit(main())
