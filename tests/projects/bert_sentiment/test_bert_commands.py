"""Prediction command: predictions and pseudo-labels."""

from __future__ import annotations

import json

import pytest
import torch

from projects.bert_sentiment import predict
from projects.bert_sentiment.inference import load, predict_logits

TEXTS = ["the acting is wonderful", "the plot is anything but moving , although the music is charming", "dull"]


@pytest.fixture(scope="module")
def logits(plain_checkpoint) -> torch.Tensor:
    classifier = load(plain_checkpoint)
    return predict_logits(classifier.net, classifier.tokenize(TEXTS), 0, torch.device("cpu"))


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


def test_prediction_truncates_like_training_and_counts_it(plain_checkpoint, capsys):
    assert load(plain_checkpoint).max_length == 32
    assert predict.main(["good", "good " * 40, "--checkpoint", str(plain_checkpoint), "--accelerator", "cpu"]) == 0
    assert capsys.readouterr().err == "1 of 2 texts are truncated to 32 tokens, as in training\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("x --checkpoint nowhere.ckpt", "checkpoint nowhere.ckpt: no such file"),
        ("x --file y --checkpoint GOOD", "give texts or --file, not both"),
        ("--file nowhere.txt --checkpoint GOOD", "nowhere.txt: No such file"),
        ("--file FULL/t.csv --checkpoint GOOD", "--columns sentence: the columns of full/t.csv are id, review"),
        ("x --columns a a --checkpoint GOOD", "argument --columns: a cannot be both"),
        ("x --threshold 2 --checkpoint GOOD", "argument --threshold: 2: use a number from 0 to 1"),
        ("x --precision bf16-mixed --checkpoint GOOD", "--precision bf16-mixed: this processor has no bfloat16"),
    ],
)
def test_bad_input_is_one_line(plain_checkpoint, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("common.nn.device.has_bfloat16", lambda kind: False)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("data")
    (tmp_path / "full" / "t.csv").write_text("id,review\n1,good\n")
    words = arguments.replace("GOOD", str(plain_checkpoint)).replace("FULL", "full").split()
    try:
        code = predict.main(words)
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2 and message in error and len(error.splitlines()) == 1
    assert (tmp_path / "full" / "precious").read_text() == "data"
