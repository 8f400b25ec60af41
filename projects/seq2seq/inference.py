"""Inference: translations of raw sentences by a trained network or an ensemble, optionally with a kNN-MT datastore."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from common.data.inputs import check_texts
from common.errors import UserError
from common.io.checkpoints import PathLike, checkpoint_paths, content_errors, load_module
from common.io.text import is_blank
from projects.seq2seq.batch_decoding import translate_ids
from projects.seq2seq.config import GenerationConfig
from projects.seq2seq.data import Texts, TranslationData
from projects.seq2seq.decoding import SupportsTranslation
from projects.seq2seq.ensemble import Ensemble
from projects.seq2seq.hypotheses import Hypothesis
from projects.seq2seq.knn import KNNConfig, KNNModel, build_datastore
from projects.seq2seq.metrics import score_translations
from projects.seq2seq.module import Seq2SeqModule
from projects.seq2seq.tokenizer import decode, encode_batch

DEFAULT_MAX_LENGTH = 256  # of checkpoints that do not say at which length they were trained


@dataclass
class TranslationPipeline:
    """Translations by a trained network, or an ensemble.

    Args:
        model: Network in eval mode, on `device`.
        source_tokenizer: Tokenizer of the source language.
        target_tokenizer: Tokenizer of the target language.
        languages: Names of source and target language.
        length_limit: Ratio and extra tokens of the maximum length, see `max_lengths`.
        max_length: Maximum length of a source in tokens, that of the training.
        generation: Default of `hypotheses`: the options of the test after training.
        device: Where to compute.
        bleu_tokenize: Option of the run: SacreBLEU's tokenizer, see `choose_tokenizer`.
    """

    model: SupportsTranslation
    source_tokenizer: Tokenizer
    target_tokenizer: Tokenizer
    languages: tuple[str, str]
    length_limit: tuple[float, float]
    max_length: int
    generation: GenerationConfig
    device: torch.device
    bleu_tokenize: str = "auto"

    def __call__(self, sentences: Sequence[str], generation: GenerationConfig | None = None, **options: Any) -> list[str]:
        """Best translation of each sentence; options as of `translate_ids`."""
        return [self.text(found[0]) for found in self.hypotheses(self.encode(sentences), generation, **options)]

    def encode(self, sentences: Sequence[str]) -> list[list[int]]:
        """Source ids of each sentence, none of a blank one. Those cut to `max_length` are named on standard error."""
        check_texts(sentences, 'translator(["a sentence", "another"])')
        sources = encode_batch(self.source_tokenizer, ["" if is_blank(line) else line for line in sentences])
        for number, ids in enumerate(sources, 1):
            if len(ids) > self.max_length:
                print(f"line {number}: cut from {len(ids)} to {self.max_length} tokens", file=sys.stderr)
        return [ids[: self.max_length] for ids in sources]

    def hypotheses(
        self, sources: Sequence[Sequence[int]], generation: GenerationConfig | None = None, **options: Any
    ) -> list[list[Hypothesis]]:
        """Hypotheses of each source, best first; options as of `translate_ids`."""
        limit = self.length_limit
        return translate_ids(self.model, sources, generation or self.generation, self.device, length_limit=limit, **options)

    def scores(self, translations: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        """BLEU and chrF as in the run's test, see `score_translations`."""
        return score_translations(translations, references, self.languages[1], self.bleu_tokenize)[0]

    def text(self, hypothesis: Hypothesis) -> str:
        """Text of a hypothesis, in one line."""
        return " ".join(decode(self.target_tokenizer, hypothesis.tokens).split())


def load(
    checkpoint: PathLike | Sequence[PathLike],
    device: str | torch.device = "cpu",
    average_weights: bool = False,
    datastore: str | None = None,
    knn: KNNConfig = KNNConfig(),
) -> TranslationPipeline:
    """Translator of sentences from a run's checkpoint, or from several.

    Args:
        checkpoint: Checkpoint of a run; several of one vocabulary are an ensemble, with the mean of their probabilities.
        device: Where to compute.
        average_weights: Checkpoint averaging: one network with the mean of their weights (Vaswani et al., section 6.1).
        datastore: Data source, as of `TranslationData`, whose training pairs are the kNN-MT datastore; None for none.
        knn: Options of kNN-MT.

    Raises:
        UserError: A file is not a valid checkpoint of this project, they do not fit together, or there are no such pairs.

    Example:
        >>> translator = load("best.ckpt", device="cpu")
        >>> translations = translator(sentences)  # by the beam search of the run's test
        >>> greedy = translator(sentences, GenerationConfig(num_beams=1, max_length=20))
        >>> len(translations) == len(greedy) == len(sentences)
        True
    """
    paths, device = checkpoint_paths(checkpoint), torch.device(device)
    loaded = [load_module(path, Seq2SeqModule, "seq2seq") for path in paths]
    modules, checkpoints = [module for module, _ in loaded], [other for _, other in loaded]
    first = checkpoints[0]
    for path, other in zip(paths, checkpoints, strict=True):
        with content_errors(path, other):
            source, target = (Tokenizer.from_str(text) for text in other["tokenizers"])
            languages = str(other["languages"][0]), str(other["languages"][1])
        if other["tokenizers"] != first["tokenizers"]:
            raise UserError(f"checkpoint {path}: its vocabulary is not that of {paths[0]}")
    if average_weights:
        check_same_network(modules, paths)
        modules[0].load_state_dict(mean_state([other["state_dict"] for other in checkpoints]))
        del modules[1:]
    nets = [module.net.to(device) for module in modules]
    members: Sequence[SupportsTranslation] = nets
    max_length = min(int(other.get("max_length", DEFAULT_MAX_LENGTH)) for other in checkpoints)
    if datastore is not None:
        texts = datastore_texts(datastore, languages)
        sides = [encode_batch(*side) for side in zip((source, target), texts, strict=True)]
        if cut := sum(len(ids) > max_length for side in sides for ids in side):
            print(f"datastore: {cut} sentences are cut to {max_length} tokens", file=sys.stderr)
        source_ids, target_ids = ([ids[:max_length] for ids in side] for side in sides)
        members = [KNNModel(net, build_datastore(net, (source_ids, target_ids), device), knn) for net in nets]
    model = members[0] if len(members) == 1 else Ensemble(members)
    with content_errors(paths[0], first):
        limit = float(first["length_limit"][0]), float(first["length_limit"][1])
    generation, bleu_tokenize = modules[0].test_generation, modules[0].hparams["bleu_tokenize"]
    return TranslationPipeline(model, source, target, languages, limit, max_length, generation, device, bleu_tokenize)


def datastore_texts(source: str, languages: tuple[str, str]) -> Texts:
    """Training pairs of a data source. Raises UserError, which names `--datastore`, if it has none of these languages."""
    try:
        with redirect_stdout(sys.stderr):  # which is for translations
            return TranslationData(source, "-".join(languages)).texts["train"]
    except UserError as error:
        raise UserError(f"--datastore {source}: {str(error).replace('--data.', '')}") from error


def check_same_network(modules: Sequence[Seq2SeqModule], paths: Sequence[Path]) -> None:
    """Raises UserError if the networks compute different functions of weights that may have the same shapes."""

    def architecture(module: Seq2SeqModule) -> dict[str, Any]:
        options = asdict(module.hparams[module.hparams["network"]]) | {"tie": module.hparams["tie_word_embeddings"]}
        return {name: value for name, value in options.items() if name not in ("dropout", "teacher_forcing")}

    for path, module in zip(paths, modules, strict=True):
        if architecture(module) != architecture(modules[0]):
            raise UserError(f"--average_weights: {path} is of another network than {paths[0]}; leave it out for an ensemble")


def mean_state(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Mean of the checkpoints' weights."""
    mean = {name: torch.stack([state[name].double() for state in states]).mean(0) for name in states[0]}
    return {name: value.to(states[0][name].dtype) for name, value in mean.items()}
