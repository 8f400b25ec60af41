"""Export: folders that transformers, onnxruntime and `load` take, with the temperature in their weights."""

from __future__ import annotations

import json
import resource
import sys

import numpy as np
import pytest
import torch
import transformers

from common.errors import UserError
from projects.bert_sentiment import export, predict
from projects.bert_sentiment.data import TextData
from projects.bert_sentiment.inference import load, predict_logits
from projects.bert_sentiment.networks import MeanPooling, fold_temperature
from trained import run_onnx

TEXTS = ["the acting is wonderful", "the plot is anything but moving , although the music is charming", "dull"]


@pytest.fixture(scope="module")
def exported(plain_checkpoint, tmp_path_factory):
    pytest.importorskip("onnxscript")
    folder = tmp_path_factory.mktemp("exported") / "model"
    assert export.main(["--to", str(folder), "--checkpoint", str(plain_checkpoint), "--int8"]) == 0
    return folder


@pytest.fixture(scope="module")
def scaled_logits(plain_checkpoint) -> torch.Tensor:
    """Logits divided by the fitted temperature, which is not 1: what an export has to give."""
    classifier = load(plain_checkpoint)
    logits = predict_logits(classifier.net, classifier.tokenize(TEXTS), 0, torch.device("cpu"))
    temperature = torch.load(plain_checkpoint, weights_only=True)["state_dict"]["temperature"]
    assert abs(temperature - 1) > 0.01
    return logits / temperature


def test_the_exported_folder_gives_the_same_probabilities_in_transformers(exported, scaled_logits):
    classify = transformers.pipeline("text-classification", str(exported), device="cpu")
    with torch.no_grad():
        found = classify.model(**classify.tokenizer(TEXTS, padding=True, return_tensors="pt")).logits
    torch.testing.assert_close(found, scaled_logits, rtol=0, atol=1e-5)
    scores, labels = scaled_logits.softmax(1).max(1)
    assert [row["label"] for row in classify(TEXTS)] == [["negative", "positive"][i] for i in labels.tolist()]
    assert [row["score"] for row in classify(TEXTS)] == pytest.approx(scores.tolist(), abs=1e-5)
    config = json.loads((exported / "config.json").read_text())
    assert config["model_type"] == "bert" and "auto_map" not in config, "it needs no code of this project"
    assert "local_files_only" not in (exported / "tokenizer_config.json").read_text()
    classify("good " * 200, truncation=True)
    assert classify.tokenizer.model_max_length == 32, "as many as in training, and fewer than the positions"


def test_load_takes_the_exported_folder(exported, plain_checkpoint):
    ours, again = load(plain_checkpoint), load(exported)
    assert (again.class_names, again.max_length, again.temperature) == (ours.class_names, ours.max_length, 1.0)
    torch.testing.assert_close(again(TEXTS), ours(TEXTS), rtol=0, atol=1e-6)
    assert again.tokenize(["good " * 40]) == ours.tokenize(["good " * 40])


def test_onnx_gives_the_same_logits_for_any_number_of_texts(exported, plain_checkpoint, scaled_logits):
    padded = load(plain_checkpoint).tokenizer(TEXTS, padding=True, return_tensors="np")
    inputs = {name: padded[name] for name in ("input_ids", "attention_mask")}
    (found,) = run_onnx(exported / "model.onnx", **inputs)
    torch.testing.assert_close(torch.from_numpy(found), scaled_logits, rtol=0, atol=1e-5)
    length = int(inputs["attention_mask"][2].sum())
    (alone,) = run_onnx(exported / "model.onnx", **{name: value[2:, :length] for name, value in inputs.items()})
    torch.testing.assert_close(torch.from_numpy(alone), scaled_logits[2:], rtol=0, atol=1e-5)
    onnxruntime = pytest.importorskip("onnxruntime")
    metadata = onnxruntime.InferenceSession(exported / "model.onnx").get_modelmeta().custom_metadata_map
    assert json.loads(metadata["id2label"]) == {"0": "negative", "1": "positive"}


def test_int8_is_tested_on_the_validation_split(exported, plain_checkpoint, texts_folder):
    data = TextData(str(texts_folder), val_size=0)
    data.adapt_to(torch.load(plain_checkpoint, weights_only=True))
    data.setup("validate")
    accuracies = []
    for name in ("model.onnx", "model-int8.onnx"):
        correct = []
        for batch in data.val_dataloader():
            (logits,) = run_onnx(exported / name, input_ids=batch.input_ids, attention_mask=batch.attention_mask)
            correct.append(logits.argmax(1) == batch.labels.numpy())
        accuracies.append(100 * np.concatenate(correct).mean())
    card = (exported / "README.md").read_text()
    assert f"accuracy {accuracies[1]:.2f} in int8, {accuracies[0]:.2f} in float32, on 40 validation examples" in card
    assert (exported / "model-int8.onnx").stat().st_size < (exported / "model.onnx").stat().st_size


def test_mean_pooling_is_loaded_again_and_has_class_names(plain_checkpoint, tmp_path):
    saved, classifier = torch.load(plain_checkpoint, weights_only=True), load(plain_checkpoint)
    classifier.net = MeanPooling(classifier.net.encoder, 32, 2, 0.0).eval()
    classifier.net.encoder.pooler = None
    fold_temperature(classifier.net, 2.0, 2)
    classifier.temperature = 1.0
    expected = classifier(TEXTS)
    saved["hyper_parameters"]["pooling"] = "mean"
    export.write_weights(classifier, saved, tmp_path)
    assert transformers.AutoConfig.from_pretrained(tmp_path).id2label == {0: "negative", 1: "positive"}
    assert torch.equal(load(tmp_path)(TEXTS), expected)


@pytest.mark.parametrize("exists", [False, True])
def test_an_export_that_fails_leaves_nothing(plain_checkpoint, tmp_path, monkeypatch, exists, capsys):
    def refuse(*args):
        raise UserError("ONNX: no")

    pytest.importorskip("onnxscript")
    monkeypatch.setattr("common.export.onnx_model.export_onnx", refuse)
    if exists:
        (tmp_path / "new").mkdir()
    assert export.main(["--to", str(tmp_path / "new"), "--checkpoint", str(plain_checkpoint)]) == 2
    assert capsys.readouterr().err == "error: ONNX: no\n"
    assert (tmp_path / "new").exists() == exists and not list(tmp_path.rglob("*.*"))


def test_an_export_to_a_full_disk_is_one_line(plain_checkpoint, tmp_path, capsys):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))  # less than the weights, which a library in Rust writes
    try:
        code = export.main(["--to", str(tmp_path / "new"), "--checkpoint", str(plain_checkpoint), "--weights_only"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2 and f"error: --to {tmp_path / 'new'}: File too large" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_without_extras_it_predicts_and_exports_all_but_onnx(plain_checkpoint, tmp_path, monkeypatch, capsys):
    for package in ("peft", "onnxruntime", "onnxscript"):
        for name in [package, *(name for name in sys.modules if name.startswith(f"{package}."))]:
            monkeypatch.setitem(sys.modules, name, None)
    folder, checkpoint = tmp_path / "model", str(plain_checkpoint)
    assert predict.main(["good", "--checkpoint", checkpoint, "--accelerator", "cpu"]) == 0
    assert export.main(["--to", str(folder), "--checkpoint", checkpoint]) == 2
    assert capsys.readouterr().err == 'error: ONNX: run `pip install "lightning-capstones[onnx]"`, or add --weights_only\n'
    assert not folder.exists(), "nothing is in the way of the next attempt"
    assert export.main(["--to", str(folder), "--checkpoint", checkpoint, "--weights_only"]) == 0
