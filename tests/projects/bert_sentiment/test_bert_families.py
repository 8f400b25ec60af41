"""Families of encoders, as tiny checkpoints of each: the table in the README says what works, and this holds it to that."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from common.errors import UserError
from common.export.onnx_model import write_onnx
from common.io.checkpoints import AtomicCheckpointIO
from common.run.summary import print_summary
from projects.bert_sentiment import export
from projects.bert_sentiment.attribution import word_attributions
from projects.bert_sentiment.data import TextData
from projects.bert_sentiment.inference import load, predict_logits
from projects.bert_sentiment.module import BertSentimentModule
from projects.bert_sentiment.networks import MeanPooling
from projects.bert_sentiment.pretrained import load_tokenizer, new_model, train_tokenizer

SMALL = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 40,
}
OFFSET = {**SMALL, "max_position_embeddings": 42, "pad_token_id": 1}  # positions begin behind the padding's index
SEQ2SEQ = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}
GPT = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40, "pad_token_id": None}
LLAMA = {**SMALL, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": None}
DISENTANGLED = {**SMALL, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": SMALL,
    "distilbert": {"dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 40},
    "roberta": OFFSET,
    "xlm-roberta": OFFSET,
    "camembert": OFFSET,
    "mpnet": OFFSET,
    "albert": {**SMALL, "embedding_size": 8},
    "electra": {**SMALL, "embedding_size": 8},
    "deberta": DISENTANGLED,
    "deberta-v2": DISENTANGLED,
    "modernbert": {**SMALL, "cls_token_id": 2, "sep_token_id": 3, "global_attn_every_n_layers": 1},
    "longformer": {**OFFSET, "attention_window": 8},
    "xlnet": {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 24},
    "funnel": {"block_sizes": [1, 1], "d_model": 16, "n_head": 2, "d_head": 8, "d_inner": 24},
    "convbert": {**SMALL, "embedding_size": 16, "conv_kernel_size": 3, "head_ratio": 1},
    "big_bird": {**SMALL, "attention_type": "original_full"},
    "fnet": SMALL,
    "bart": {**SEQ2SEQ, "d_model": 16, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 40},
    "t5": T5,
    "gpt2": GPT,
    "llama": LLAMA,
}
FAST = ["roberta", "xlnet", "bart", "gpt2"]
COLUMNS = ["trains", "predicts", "attributions", "export", "ONNX"]
TEXTS = ["the plot is dull", "the cast , however , is not good at all", "good"]


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory) -> Path:
    """Tokenizer of 16 words, the end token at the end of each text, that knows no limit of length."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = train_tokenizer(["the plot is dull", "the cast is not good at all , however"] * 3, 80)
    tokenizer.model_max_length = 10**30
    tokenizer.save_pretrained(folder)
    return folder


def make_checkpoint(family: str, tokenizer_folder: Path, folder: Path, **settings: Any) -> Path:
    """A checkpoint of `family` with random weights, in the hub's layout."""
    torch.manual_seed(0)
    special = {"pad_token_id": 0, "eos_token_id": 3, "bos_token_id": 2}
    config = {"model_type": family, "vocab_size": 80, **special, **FAMILIES[family], **settings}
    model: PreTrainedModel = new_model(config, ["a", "b"])
    if config["pad_token_id"] is None:
        model.config.pad_token_id = None
    model.save_pretrained(folder)
    for file in tokenizer_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


class Sign(Callback):
    """Writes the project's name into checkpoints, as the command line does."""

    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        checkpoint["project"] = "bert_sentiment"


def train_step(checkpoint: Path, texts_folder: Path, path: Path | None = None, **options: Any) -> TextData:
    """Trains one step on a checkpoint, with a `max_length` above its positions, and saves the run's checkpoint."""
    data = TextData(str(texts_folder), str(checkpoint), batch_size=4, max_length=options.pop("max_length", 600))
    module = BertSentimentModule(data.class_names, data.vocab_size, str(checkpoint), **options)
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    limits = {"max_steps": 1, "limit_val_batches": 0, "accelerator": "cpu"}
    trainer = Trainer(**limits, **off, callbacks=[Sign()], plugins=[AtomicCheckpointIO()])
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    trainer.fit(module, datamodule=data)
    assert any(not torch.equal(before[name], p) for name, p in module.named_parameters())
    if path is not None:
        module.temperature.fill_(2.0)
        trainer.save_checkpoint(path)
    return data


def check_family(family: str, tokenizer_folder: Path, texts_folder: Path, tmp_path: Path, onnx: bool) -> dict[str, str]:
    """What works for a family, by column; ONNX that does not is refused in one line."""
    found = dict.fromkeys(COLUMNS, "no")
    checkpoint = make_checkpoint(family, tokenizer_folder, tmp_path / "checkpoint")
    train_step(checkpoint, texts_folder, tmp_path / "run.ckpt")
    found["trains"] = "yes"
    classifier = load(tmp_path / "run.ckpt")
    if family not in ("xlnet", "t5", "funnel"):
        assert classifier.max_length == 40
    rows = classifier.tokenize(TEXTS)
    logits = predict_logits(classifier.net, rows, classifier.tokenizer.pad_token_id, torch.device("cpu"))
    alone = [classifier.net(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long))[0] for ids in rows]
    same = torch.allclose(logits, torch.stack(alone), rtol=1e-3, atol=1e-4)
    found["predicts"] = "yes" if same else "no"
    try:
        words, values = word_attributions(classifier, TEXTS[1], n_steps=4)
        assert words == TEXTS[1].split() and values.isfinite().all() and values.any(), values
        found["attributions"] = "yes"
    except NotImplementedError:
        pass
    folder = tmp_path / "exported"
    assert export.main(["--to", str(folder), "--checkpoint", str(tmp_path / "run.ckpt"), "--weights_only"]) == 0
    batch = classifier.tokenizer(TEXTS, padding=True, return_tensors="pt")
    exported = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        scaled = exported(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        expected = classifier.net(batch["input_ids"], batch["attention_mask"]) / 2
    torch.testing.assert_close(scaled, expected, rtol=1e-4, atol=1e-5)
    again = load(folder)
    assert again.max_length == classifier.max_length and again.tokenize(TEXTS) == rows
    found["export"] = "yes"
    if onnx:
        try:
            write_onnx(export.new_graph(classifier), tmp_path)
            found["ONNX"] = "yes"
        except UserError as error:
            assert "\n" not in str(error)
    return found


def readme_table() -> dict[str, dict[str, str]]:
    """Cells of the README's table of families, by family and column."""
    readme = Path(export.__file__).with_name("README.md").read_text()
    rows = re.findall(r"^\| `([a-z0-9_-]+)` \| (.*) \|$", readme.split("## Encoders")[1].split("\n## ")[0], re.MULTILINE)
    return {family: dict(zip(COLUMNS, cells.split(" | "), strict=True)) for family, cells in rows}


def test_the_readmes_table_has_every_family():
    assert list(readme_table()) == list(FAMILIES)


@pytest.mark.parametrize("family", FAST)
def test_a_family_does_what_the_readme_says(family, tokenizer_folder, texts_folder, tmp_path, recwarn):
    found = check_family(family, tokenizer_folder, texts_folder, tmp_path, onnx=False)
    assert {**found, "ONNX": readme_table()[family]["ONNX"]} == readme_table()[family]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_does_what_the_readme_says(family, tokenizer_folder, texts_folder, tmp_path):
    pytest.importorskip("onnxscript")
    found = check_family(family, tokenizer_folder, texts_folder, tmp_path, onnx=True)
    assert found == readme_table()[family]


@pytest.mark.parametrize(
    ("family", "settings", "options", "message"),
    [
        ("xlnet", {}, {"gradient_checkpointing": True}, "--model.gradient_checkpointing: xlnet does not support it"),
        ("bert", {"vocab_size": 20}, {}, r"the tokenizer has \d+ tokens, the encoder 20 embeddings"),
        ("bert", {}, {"encoder": {"model_type": "bert", **SMALL}}, "--data.max_length 600: the encoder reads 40 tokens"),
        (
            "bert",
            {},
            {"encoder": {"model_type": "bert", **SMALL, "vocab_size": 9}, "max_length": 9},
            "--model.encoder: .* 9 embed",
        ),
        ("t5", {}, {"pooling": "mean"}, "the encoder cannot classify a batch of texts: "),
        ("bert", {}, {"frozen_layers": 3}, "--model.frozen_layers 3: the encoder has no 3 layers of their own weights"),
        ("albert", {}, {"frozen_layers": 1}, "--model.frozen_layers 1: the encoder has no 1 layers of their own weights"),
        (
            "bert",
            {},
            {"encoder": {"model_type": "bert", "hidden_size": 129}},
            "--model.encoder: .*129",
        ),
        ("bert", {}, {"encoder": {"model_type": "bert", "num_attention_heads": 0}}, "--model.encoder: "),
    ],
)
def test_what_an_encoder_cannot_do_is_one_line_before_training(
    tokenizer_folder, texts_folder, tmp_path, family, settings, options, message
):
    checkpoint = make_checkpoint(family, tokenizer_folder, tmp_path, **settings)
    if "encoder" in options and "max_length" not in options:  # the tokenizer is another's, and has no limit
        (checkpoint / "config.json").write_text('{"model_type": "xlnet", "d_model": 16, "n_layer": 1, "n_head": 2}')
    with pytest.raises(UserError, match=message) as error:
        train_step(checkpoint, texts_folder, **options)
    assert "\n" not in str(error.value)


def test_lora_adapts_the_layers_of_gpt2(tokenizer_folder, texts_folder, tmp_path):
    pytest.importorskip("peft")
    checkpoint = make_checkpoint("gpt2", tokenizer_folder, tmp_path / "gpt2")
    train_step(checkpoint, texts_folder, tmp_path / "run.ckpt", lora_rank=2)
    names = torch.load(tmp_path / "run.ckpt", weights_only=True)["state_dict"]
    assert sum("lora_A" in name for name in names) == 2 * 4
    merged = load(tmp_path / "run.ckpt").net
    assert not any("lora" in name for name in merged.state_dict())


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_a_tokenizer_without_padding_or_end(family, tokenizer_folder, texts_folder, tmp_path):
    checkpoint = make_checkpoint(family, tokenizer_folder, tmp_path / "checkpoint", eos_token_id=None)
    config = json.loads((checkpoint / "tokenizer_config.json").read_text())
    config.pop("pad_token")
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(config))
    train_step(checkpoint, texts_folder, tmp_path / "run.ckpt")
    found = load(tmp_path / "run.ckpt")
    torch.testing.assert_close(found(TEXTS)[2:], found(TEXTS[2:]), rtol=1e-3, atol=1e-4)


def test_a_tokenizer_in_python(texts_folder, tokenizer_folder, tmp_path):
    checkpoint = make_checkpoint("roberta", tokenizer_folder, tmp_path / "phobert")
    for file in checkpoint.glob("*token*"):
        file.unlink()
    (checkpoint / "vocab.txt").write_text("good 5\nplot 4\ndull</w> 3\nt@@ 2\n")
    (checkpoint / "bpe.codes").write_text("#version: 0.2\ng o 5\ngo o 5\ngoo d</w> 5\n")
    (checkpoint / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PhobertTokenizer"}))
    train_step(checkpoint, texts_folder, tmp_path / "run.ckpt")
    classifier = load(tmp_path / "run.ckpt")
    words, values = word_attributions(classifier, "good plot", n_steps=4)
    assert not classifier.tokenizer.is_fast and classifier.max_length == 40
    assert len(words) == len(values) == len(classifier.tokenize(["good plot"])[0]) - 2


def test_sentencepiece_without_its_package_is_named(tokenizer_folder, tmp_path, monkeypatch):
    checkpoint = make_checkpoint("t5", tokenizer_folder, tmp_path)
    for file in checkpoint.glob("*token*"):
        file.unlink()
    (checkpoint / "spiece.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    monkeypatch.setattr("transformers.utils.import_utils._is_package_available", lambda *_: (False, "N/A"))
    monkeypatch.setattr("projects.bert_sentiment.pretrained.importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="it is a SentencePiece model; run `pip install sentencepiece`"):
        load_tokenizer(str(checkpoint), [])


@pytest.mark.parametrize("mean", [True, False])
def test_sentence_transformers_are_pooled_as_they_were_trained(tokenizer_folder, texts_folder, tmp_path, mean, capsys):
    checkpoint = make_checkpoint("bert", tokenizer_folder, tmp_path)
    (checkpoint / "1_Pooling").mkdir()
    (checkpoint / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": mean}))
    module = BertSentimentModule(["no", "yes"], 0, str(checkpoint))
    assert isinstance(module.net, MeanPooling) == mean
    assert module.hparams["pooling"] == ("mean" if mean else "cls")


def test_random_weights_are_said(texts_folder, capsys):
    data = TextData(str(texts_folder), "tiny")
    module = BertSentimentModule(data.class_names, data.vocab_size, "tiny")
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    Trainer(max_steps=1, limit_val_batches=0, accelerator="cpu", **off).fit(module, datamodule=data)
    assert "encoder tiny, pooling cls, random weights: NOT a pretrained checkpoint" in capsys.readouterr().out
    summary = {"project": "bert_sentiment", "data_source": "texts", "test": {}, "metadata": module.metadata}
    summary |= {"train_seconds": 1.0, "samples_per_second": 1.0, "checkpoint": None}
    print_summary(summary, SimpleNamespace(path=texts_folder), "predict", is_sample=False)
    assert re.search(r"weights\W+random", capsys.readouterr().out), "in the closing table too"
