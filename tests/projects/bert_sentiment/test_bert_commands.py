"""Prediction and export commands: predictions, pseudo-labels, and folders that other programs load."""

from __future__ import annotations

import json
import resource
import sys

import pytest
import torch
import transformers

from common.errors import UserError
from projects.bert_sentiment import export, predict
from projects.bert_sentiment.inference import load, predict_logits
from projects.bert_sentiment.networks import MeanPooling

TEXTS = ["the acting is wonderful", "the plot is anything but moving , although the music is charming", "dull"]


@pytest.fixture(scope="module")
def logits(plain_checkpoint) -> torch.Tensor:
    classifier = load(plain_checkpoint)
    return predict_logits(classifier.net, classifier.tokenize(TEXTS), 0, torch.device("cpu"))


@pytest.fixture(scope="module")
def exported(plain_checkpoint, tmp_path_factory):
    pytest.importorskip("onnxscript")
    folder = tmp_path_factory.mktemp("exported") / "model"
    assert export.main([str(folder), "--checkpoint", str(plain_checkpoint), "--onnx"]) == 0
    return folder


@pytest.fixture(scope="module")
def scaled_logits(plain_checkpoint, logits) -> torch.Tensor:
    """Logits divided by the fitted temperature, which is not 1: what an export has to give."""
    temperature = torch.load(plain_checkpoint, weights_only=True)["state_dict"]["temperature"]
    assert abs(temperature - 1) > 0.01
    return logits / temperature


def test_predictions_are_the_checkpoints(plain_checkpoint, logits, capsys):
    assert predict.main([*TEXTS, "--checkpoint", str(plain_checkpoint), "--accelerator", "cpu"]) == 0
    printed = capsys.readouterr().out.splitlines()
    classifier = load(plain_checkpoint)
    probabilities = (logits / classifier.temperature).softmax(1)
    for line, text, row in zip(printed, TEXTS, probabilities, strict=True):
        label = int(row.argmax())
        assert line == f"{['negative', 'positive'][label]} {100 * row[label].item():.1f} %\t{text}"


def test_texts_come_from_a_file_and_go_to_pseudo_labels_and_plots(plain_checkpoint, tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("".join(f"{text}\n" for text in [*TEXTS, ""]))
    flags = ["--file", str(tmp_path / "texts.txt"), "--checkpoint", str(plain_checkpoint), "--all"]
    flags += ["--save_pseudo_labels", str(tmp_path / "new.jsonl"), "--threshold", "0"]
    assert predict.main([*flags, "--attributions", str(tmp_path / "words.png")]) == 0
    printed = capsys.readouterr()
    rows = [line.split("\t") for line in printed.out.splitlines()]
    assert [row[2] for row in rows] == [*TEXTS, ""], "an empty line has a line of its own"
    assert all("negative" in " ".join(row[:2]) and "positive" in " ".join(row[:2]) for row in rows)
    written = [json.loads(line) for line in (tmp_path / "new.jsonl").read_text().splitlines()]
    assert [row["sentence"] for row in written] == TEXTS
    assert [row["label"] for row in written] == [row[0].split()[0] for row in rows[:3]]
    assert (tmp_path / "words.png").stat().st_size > 5000
    assert "1 of 4 texts are blank\n" in printed.err and "3 of 4 texts reach 0" in printed.err
    with pytest.raises(SystemExit) as stop:
        predict.main(flags)
    assert stop.value.code == 2, "no file is written over"


@pytest.mark.parametrize("name", ["texts.csv", "texts.tsv", "texts.jsonl"])
def test_texts_come_from_a_column_of_a_table(plain_checkpoint, tmp_path, capsys, name):
    if name.endswith("jsonl"):
        lines = [json.dumps({"review": text, "id": i}) for i, text in enumerate(TEXTS)]
    else:
        separator = "," if name.endswith("csv") else "\t"
        lines = [f"id{separator}review", *(f'{i}{separator}"{text}"' for i, text in enumerate(TEXTS))]
    (tmp_path / name).write_text("\n".join(lines) + "\n")
    flags = ["--file", str(tmp_path / name), "--columns", "review", "label", "--accelerator", "cpu"]
    assert predict.main([*flags, "--checkpoint", str(plain_checkpoint)]) == 0
    assert [line.split("\t")[1] for line in capsys.readouterr().out.splitlines()] == TEXTS


def test_the_exported_folder_gives_the_same_probabilities_in_transformers(exported, scaled_logits):
    classify = transformers.pipeline("text-classification", str(exported), device="cpu")
    with torch.no_grad():
        found = classify.model(**classify.tokenizer(TEXTS, padding=True, return_tensors="pt")).logits
    torch.testing.assert_close(found, scaled_logits, rtol=0, atol=1e-5)
    scores, labels = scaled_logits.softmax(1).max(1)
    assert [row["label"] for row in classify(TEXTS)] == [["negative", "positive"][i] for i in labels.tolist()]
    assert [row["score"] for row in classify(TEXTS)] == pytest.approx(scores.tolist(), abs=1e-5)
    assert (exported / "model.safetensors").is_file()
    config = json.loads((exported / "config.json").read_text())
    assert config["model_type"] == "bert" and "auto_map" not in config, "it needs no code of this project"
    assert "local_files_only" not in (exported / "tokenizer_config.json").read_text()
    classify("good " * 200, truncation=True)
    assert classify.tokenizer.model_max_length == 32, "as many as in training, and fewer than the positions"


def test_onnx_gives_the_same_logits_for_any_number_of_texts(exported, plain_checkpoint, scaled_logits):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(exported / "model.onnx", providers=["CPUExecutionProvider"])
    padded = load(plain_checkpoint).tokenizer(TEXTS, padding=True, return_tensors="np")
    inputs = {name: padded[name] for name in ("input_ids", "attention_mask")}
    assert json.loads(session.get_modelmeta().custom_metadata_map["id2label"]) == {"0": "negative", "1": "positive"}
    (found,) = session.run(None, inputs)
    torch.testing.assert_close(torch.from_numpy(found), scaled_logits, rtol=0, atol=1e-5)
    length = int(inputs["attention_mask"][2].sum())
    (alone,) = session.run(None, {name: value[2:, :length] for name, value in inputs.items()})
    torch.testing.assert_close(torch.from_numpy(alone), scaled_logits[2:], rtol=0, atol=1e-5)


def test_mean_pooling_exports_class_names_beside_onnx(plain_checkpoint, tmp_path, monkeypatch):
    classifier = load(plain_checkpoint)
    classifier.net = MeanPooling(classifier.net.encoder, 32, 2, 0.0)
    monkeypatch.setattr(export, "save_onnx", lambda classifier, path: path.touch())
    export.write_folder(classifier, tmp_path, onnx=True)
    assert transformers.AutoConfig.from_pretrained(tmp_path).id2label == {0: "negative", 1: "positive"}


@pytest.mark.parametrize("exists", [False, True])
def test_an_export_that_fails_leaves_nothing(plain_checkpoint, tmp_path, monkeypatch, exists, capsys):
    def refuse(*args):
        raise UserError("--onnx: no")

    monkeypatch.setattr(export, "save_onnx", refuse)
    if exists:
        (tmp_path / "new").mkdir()
    assert export.main([str(tmp_path / "new"), "--checkpoint", str(plain_checkpoint), "--onnx"]) == 2
    assert (tmp_path / "new").exists() == exists and not list(tmp_path.rglob("*.*"))


def test_prediction_truncates_like_training_and_counts_it(plain_checkpoint, capsys):
    assert load(plain_checkpoint).max_length == 32
    assert predict.main(["good", "good " * 40, "--checkpoint", str(plain_checkpoint), "--accelerator", "cpu"]) == 0
    assert capsys.readouterr().err == "1 of 2 texts are truncated to 32 tokens, as in training\n"


def test_an_export_to_a_full_disk_is_one_line(plain_checkpoint, tmp_path, capsys):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))  # less than the weights, which a library in Rust writes
    try:
        code = export.main([str(tmp_path / "new"), "--checkpoint", str(plain_checkpoint)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2 and capsys.readouterr().err.endswith(f"error: {tmp_path / 'new'}: File too large\n")
    assert not (tmp_path / "new").exists()


def test_without_extras_it_predicts_and_exports_all_but_onnx(plain_checkpoint, tmp_path, monkeypatch, capsys):
    for package in ("peft", "onnxruntime", "onnxscript"):
        for name in [package, *(name for name in sys.modules if name.startswith(f"{package}."))]:
            monkeypatch.setitem(sys.modules, name, None)
    folder, checkpoint = tmp_path / "model", str(plain_checkpoint)
    assert predict.main(["good", "--checkpoint", checkpoint, "--accelerator", "cpu"]) == 0
    assert export.main([str(folder), "--checkpoint", checkpoint, "--onnx"]) == 2
    assert capsys.readouterr().err == 'error: --onnx: run `pip install "lightning-capstones[onnx]"`\n'
    assert not folder.exists(), "nothing is in the way of the next attempt"
    assert export.main([str(folder), "--checkpoint", checkpoint]) == 0


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("predict", "x --checkpoint nowhere.ckpt", "checkpoint nowhere.ckpt: no such file"),
        ("predict", "x --file y --checkpoint GOOD", "give texts or --file, not both"),
        ("predict", "--file nowhere.txt --checkpoint GOOD", "nowhere.txt: No such file"),
        ("predict", "--file FULL/t.csv --checkpoint GOOD", "--columns sentence: the columns of full/t.csv are id, review"),
        ("predict", "x --columns a a --checkpoint GOOD", "argument --columns: a cannot be both"),
        ("predict", "x --threshold 2 --checkpoint GOOD", "argument --threshold: 2: use a number from 0 to 1"),
        ("predict", "x --precision bf16-mixed --checkpoint GOOD", "--precision bf16-mixed: this processor has no bfloat16"),
        ("export", "FULL --checkpoint GOOD", "exists and is not an empty folder"),
        ("export", "new --checkpoint nowhere.ckpt", "checkpoint nowhere.ckpt: no such file"),
    ],
)
def test_bad_input_is_one_line(plain_checkpoint, tmp_path, monkeypatch, capsys, name, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("common.nn.device.has_bfloat16", lambda kind: False)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("data")
    (tmp_path / "full" / "t.csv").write_text("id,review\n1,good\n")
    words = arguments.replace("GOOD", str(plain_checkpoint)).replace("FULL", "full").split()
    try:
        code = {"predict": predict, "export": export}[name].main(words)
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2 and message in error and len(error.splitlines()) == 1
    assert (tmp_path / "full" / "precious").read_text() == "data"
