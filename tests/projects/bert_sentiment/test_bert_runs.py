"""Runs of the command line: two processes equal one, a killed run resumes bitwise equal, plots and checkpoints."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, log_loss

from commands import Life, last_checkpoint, same
from common.cli.evaluate import main as evaluate
from common.io.metrics import read_metrics
from projects.bert_sentiment.data import TextData
from projects.bert_sentiment.inference import load
from projects.bert_sentiment.module import BertSentimentModule
from projects.bert_sentiment.pretrained import new_model
from projects.bert_sentiment.train import PROJECT
from trained import check_batches, check_evaluation, check_load, checkpoint_of, results


@pytest.mark.slow
def test_two_processes_train_and_evaluate_like_one_with_twice_the_batch(command, train, flags):
    exact = [*flags, "--precision", "64-true", "--model.dropout", "0", "--data.balanced", "true", "--max_epochs", "1"]
    pair = command("train", "--name", "two", *exact, "--data.batch_size", "8", processes=2)
    one = train("one", *exact, "--data.batch_size", "16")
    pair.wait()
    two = pair.runs / "two"
    a, b = last_checkpoint(one), last_checkpoint(two)
    assert a["global_step"] == b["global_step"] == 17
    for key, value in a["state_dict"].items():
        limit = 1e-7 * float(value.abs().max()) + 1e-12  # keys have biases without an effect: rounding is all they learn
        torch.testing.assert_close(
            b["state_dict"][key], value, rtol=0, atol=limit, msg=lambda text, key=key: f"{key}: {text}"
        )
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (one, two)]
    assert summaries[1]["devices"] == 2
    assert summaries[0]["metadata"]["texts"] == summaries[1]["metadata"]["texts"] == 31, "every text counts once"
    assert summaries[1]["test"] == pytest.approx(summaries[0]["test"], rel=1e-4, abs=1e-6)
    curves = [[row["val/loss"] for row in read_metrics(f / "metrics.csv") if "val/loss" in row] for f in (one, two)]
    assert len(curves[0]) == 1 and curves[1] == pytest.approx(curves[0], rel=1e-5)


def test_metrics_of_a_trained_run_are_those_of_sklearn(train, flags, texts_folder, checkpoint_folder, tmp_path):
    shutil.copytree(checkpoint_folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    new_model(config | {"initializer_range": 0.2}, ["bad", "good"]).save_pretrained(tmp_path)  # it learns at once
    run = train("learned", *flags, "--model.checkpoint", str(tmp_path))
    summary, classifier = json.loads((run / "summary.json").read_text()), load(next(run.glob("checkpoints/best-*.ckpt")))
    for split, metrics in (("validation", summary["best_validation"]), ("test", summary["test"])):
        rows = [json.loads(line) for line in (texts_folder / f"{split}.jsonl").read_text().splitlines()]
        labels = [classifier.class_names.index(row["label"]) for row in rows]
        scaled = classifier([row["sentence"] for row in rows])
        plain = (scaled.double().log() * classifier.temperature).softmax(1)
        predicted, name = plain.argmax(1), split[: len("val")] if split == "validation" else split
        assert 0.5 < accuracy_score(labels, predicted) < 1 and classifier.temperature != 1
        expected = {
            "accuracy": accuracy_score(labels, predicted),
            "f1": f1_score(labels, predicted),
            "loss": log_loss(labels, plain),
            "calibration_error": calibration_error(plain, labels),
            "calibration_error_scaled": calibration_error(scaled, labels),
        }
        found = {key: metrics[f"{name}/{key}"] for key in expected if f"{name}/{key}" in metrics}
        assert found == pytest.approx({key: expected[key] for key in found}, abs=2e-4) and "loss" in found
    assert len(found) == 5


def calibration_error(probabilities: torch.Tensor, labels: list[int]) -> float:
    """Expected calibration error with 15 bins."""
    confidence, predicted = probabilities.max(1)
    gaps = ((predicted == torch.tensor(labels)).double() - confidence).numpy()
    bins = (confidence * 15).ceil().numpy()
    return sum(abs(gaps[bins == b].sum()) for b in range(16)) / len(labels)


@pytest.mark.slow
def test_a_killed_run_resumes_bitwise_equal(command, train, flags):
    flags = [*flags, "--checkpoint_every", "3", "--data.batch_size", "5", "--trainer.limit_test_batches", "0"]
    life = Life(command, "killed", flags, [signal.SIGKILL])
    killed = life.live()
    a, b = last_checkpoint(train("whole", *flags)), last_checkpoint(killed)
    steps_per_epoch = a["global_step"] // 2
    assert all(step % steps_per_epoch for step in life.resumed_from), "killed at an epoch's end: nothing was shown"
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "random_states", "global_step", "epoch"):
        assert same(a[part], b[part]), part


def test_a_run_leaves_plots_and_mistakes(plain_run):
    for name in ("attributions.png", "length.png", "confusion.png", "calibration.png", "curves.png"):
        assert (plain_run / "plots" / name).stat().st_size > 5000, name
    summary = json.loads((plain_run / "summary.json").read_text())
    table = (plain_run / "plots" / "mistakes.md").read_text().splitlines()
    mistakes = round((1 - summary["test"]["test/accuracy"]) * 31)
    assert table[0] == f"The most confident of {mistakes} mistakes in 31 texts:" and len(table) == 4 + min(24, mistakes)
    assert table[2] == "| text | label | predicted | confidence |"
    assert summary["metadata"]["encoder"].startswith("checkpoint")


def builtins_only(value) -> bool:
    if isinstance(value, (dict, list, tuple)):
        items = [*value.keys(), *value.values()] if isinstance(value, dict) else value
        return type(value) in (dict, list, tuple) and all(map(builtins_only, items))
    return value is None or type(value) in (bool, int, float, str)


def test_a_checkpoint_holds_builtins_and_needs_no_other_file(plain_checkpoint, checkpoint_folder):
    saved = torch.load(plain_checkpoint, weights_only=True)
    options = saved["hyper_parameters"]
    assert builtins_only(options), options
    assert (options["label_smoothing"], options["layer_decay"], options["dropout"]) == (0.05, 0.9, 0.05)
    hidden = checkpoint_folder.rename(checkpoint_folder.with_name("hidden"))
    try:
        classifier = load(plain_checkpoint)
    finally:
        hidden.rename(checkpoint_folder)
    assert classifier.class_names == ["negative", "positive"] and not classifier.net.training
    for name, weight in classifier.net.state_dict().items():
        assert torch.equal(weight, saved["state_dict"][f"net.{name}"]), name


@pytest.mark.parametrize("switch", ["overfit", "gradients"])
def test_debug_switches(train, flags, switch, capsys):
    train(f"debug-{switch}", *flags, "--debug", switch, "--model.dropout", "0")
    assert {"overfit": "can overfit one batch", "gradients": "Autograd agrees"}[switch] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--data.text_column", "review"], "--data.text_column review"),
        (["--data.source", "nowhere/at/all"], "nowhere/at/all"),
        (["--model.checkpoint", "someone/model"], "offline use a local folder"),
        (["--model.class_names", "[a,b]"], "model.class_names"),
        (["--model.pooling", "max"], "model.pooling"),
        (["--model.dropout", "1"], "model.dropout"),
        (["--model.lr", "0"], "model.lr"),
        (["--model.frozen_layers", "-1"], "model.frozen_layers"),
        (["--data.bucket_batches", "0"], "data.bucket_batches"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_bad_input_is_one_line(train, texts_folder, flags, line, capsys):
    train("bad", "--data.source", str(texts_folder), *flags, expect=2)
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and errors[0].startswith("error:") and line in errors[0]


def test_an_evaluation_repeats_the_test_of_the_run(plain_run, tmp_path):
    check_evaluation(PROJECT, plain_run, tmp_path)
    assert (tmp_path / "test" / "plots" / "confusion.png").stat().st_size > 5000


def test_a_checkpoint_classifies_texts_from_python(plain_run, tmp_path):
    texts = ["a fine film", "dull", "what a waste of a good evening , really"]
    classifier = check_load(load, BertSentimentModule, checkpoint_of(plain_run), tmp_path, texts=texts)
    check_batches(classifier, texts, 300)
    assert classifier([]).shape == (0, 2)


def test_other_texts_have_the_classes_and_the_tokenizer_of_the_checkpoint(plain_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    texts = ["a fine film", "dull", "what a waste of a good evening", "i liked it"]
    labels = ["positive", "negative", "negative", "positive"]
    rows = "".join(f"{text},{label}\n" for text, label in zip(texts, labels, strict=True))
    Path("other.csv").write_text(f"sentence,label\n{rows}")
    args = ["--checkpoint", str(checkpoint_of(plain_run)), "--accelerator", "cpu", "--to", "x", "--data.source"]
    assert evaluate(PROJECT, [*args, "other.csv"]) == 0
    classifier = load(checkpoint_of(plain_run))
    logits = classifier(texts).log() * classifier.temperature  # up to a constant of each text
    expected = log_loss(labels, logits.softmax(1).double(), labels=["negative", "positive"])
    assert results(Path("x"))["metrics"]["test/loss"] == pytest.approx(expected, rel=1e-4)
    assert results(Path("x"))["metadata"]["texts"] == 4, "all of them, as there are no splits"

    saved = last_checkpoint(plain_run)
    saved["hyper_parameters"]["class_names"] = ["positive", "negative"]
    data = TextData("other.csv")
    data.adapt_to(saved)
    data.setup("test")
    assert data.splits["train"].labels != TextData("other.csv").splits["train"].labels
    assert data.input_ids["train"] == classifier.tokenize(data.splits["train"].texts)

    for label, message in (
        ("neutral", "label 'neutral' of train is none of the checkpoint's (negative, positive)"),
        ("", "no"),
    ):
        Path("bad.csv").write_text(f"sentence,label\na,{label}\nb,{label and 'positive'}\n")
        capsys.readouterr()
        assert evaluate(PROJECT, [*args, "bad.csv"]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: data source bad.csv: ") and message in error and error.count("\n") == 1, error
