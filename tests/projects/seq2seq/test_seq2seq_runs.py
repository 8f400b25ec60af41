"""Runs of the command line: two processes equal one, a killed run resumes bitwise equal, and plots are drawn."""

from __future__ import annotations

import json
import signal
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from commands import Life, last_checkpoint, same
from common.cli.evaluate import main as evaluate
from common.io.metrics import read_metrics
from projects.seq2seq.config import DecodingConfig, RecurrentConfig, TransformerConfig
from projects.seq2seq.inference import load
from projects.seq2seq.module import Seq2SeqModule
from projects.seq2seq.synthetic import make_pairs
from projects.seq2seq.train import PROJECT
from trained import check_batches, check_evaluation, check_load, checkpoint_of, results


def test_two_processes_train_and_score_like_one_with_twice_the_tokens(command, plain_run, pairs_folder, exact):
    flags = ["--data.source", str(pairs_folder), *exact, "--model.decoding.num_beams", "3", "--data.max_tokens", "200"]
    run = command("train", "--name", "two", *flags, processes=2)
    run.wait()
    folders = plain_run, run.runs / "two"
    one, two = map(last_checkpoint, folders)
    assert one["global_step"] == two["global_step"] > 10
    for key, value in one["state_dict"].items():
        limit = 1e-7 * float(value.abs().max())
        torch.testing.assert_close(
            two["state_dict"][key], value, rtol=0, atol=limit, msg=lambda text, key=key: f"{key}: {text}"
        )
    one, two = (json.loads((folder / "summary.json").read_text()) for folder in folders)
    assert two["devices"] == 2
    assert two["test"] == pytest.approx(one["test"], rel=1e-4), "every sentence is scored once"
    assert one["metadata"] == two["metadata"]
    name = "val/bleu_greedy_lc"
    curves = [[row[name] for row in read_metrics(f / "metrics.csv") if name in row] for f in folders]
    assert len(curves[0]) == 1 and curves[1] == pytest.approx(curves[0], abs=1e-4)


@pytest.mark.slow
def test_a_killed_run_resumes_bitwise_equal(command, train, pairs_folder):
    epochs = 2
    flags = ["--data.source", str(pairs_folder), "--data.max_tokens", "200", "--checkpoint_every", "4"]
    flags += ["--max_epochs", str(epochs)]
    flags += ["--trainer.limit_test_batches", "0", "--trainer.limit_val_batches", "0"]
    killed = Life(command, "killed", flags, [signal.SIGKILL])
    folder = killed.live()
    assert train("--name", "whole", *flags) == 0
    a, b = last_checkpoint(train.runs / "whole"), last_checkpoint(folder)
    steps = a["global_step"] // epochs
    assert all(step % steps for step in killed.resumed_from), "killed at an epoch's end: nothing was shown"
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "random_states", "global_step", "epoch"):
        assert same(a[part], b[part]), part


def test_a_run_leaves_its_plots_and_translations(plain_run):
    for name in ("attention.png", "length.png", "curves.png"):
        assert (plain_run / "plots" / name).stat().st_size > 5000, name
    table = (plain_run / "plots" / "translations.md").read_text().splitlines()
    assert table[2] == "| de | en | translation | score |" and len(table) == 2 + 2 + 12
    summary = json.loads((plain_run / "summary.json").read_text())
    assert summary["metadata"]["signatures"]["bleu"].startswith("nrefs:1|case:mixed")


def test_hyperparameters_of_a_checkpoint_are_plain_builtins(plain_run):
    saved = last_checkpoint(plain_run)["hyper_parameters"]  # read with weights_only=True
    assert saved == {
        "vocab_sizes": (300, 300),
        "network": "recurrent",
        "recurrent": asdict(RecurrentConfig(embed_dim=16, hidden_dim=16, dropout=0.0)),
        "transformer": asdict(TransformerConfig()),
        "tie_word_embeddings": "all",
        "label_smoothing": 0.1,
        "r_drop": 0.0,
        "lr": 0.002,
        "muon_lr": None,
        "weight_decay": 0.0,
        "schedule": "linear",
        "warmup": 0.05,
        "decoding": asdict(DecodingConfig(num_beams=3, max_length=24)),
        "bleu_tokenize": "auto",
    }
    types = {type(value) for value in [*saved.values(), *saved["recurrent"].values(), *saved["decoding"].values()]}
    assert types == {int, float, str, bool, tuple, dict, type(None)}


@pytest.mark.parametrize("network", ["recurrent", "transformer"])
def test_one_batch_can_be_overfit_and_gradients_are_right(train, pairs_folder, capsys, network):
    flags = ["--data.source", str(pairs_folder), "--data.max_tokens", "60", "--model.network", network]
    flags += ["--model.transformer.d_model", "32", "--model.transformer.num_layers", "1"]
    assert train(*flags, "--debug", "gradients") == 0
    assert "Autograd agrees" in capsys.readouterr().out
    flags += ["--model.recurrent.embed_dim", "32", "--model.recurrent.hidden_dim", "32", "--model.lr", "0.02"]
    assert train(*flags, "--model.label_smoothing", "0", "--debug", "overfit") == 0


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--data.direction", "de-fr"], "--data.direction de-fr"),
        (["--data.source", "nowhere/at/all"], "nowhere/at/all"),
        (["--model.vocab_sizes", "[3, 3]"], "model.vocab_sizes"),
        (["--model.network", "bigram"], "model.network"),
        (["--model.recurrent.cell", "rnn"], "model.recurrent.cell"),
        (["--model.recurrent.dropout", "1"], "model.recurrent.dropout"),
        (["--model.recurrent.teacher_forcing", "[1, 2]"], "model.recurrent.teacher_forcing"),
        (["--model.transformer.position_embedding", "learned"], "model.transformer.position_embedding"),
        (["--model.transformer.num_heads", "0"], "model.transformer.num_heads"),
        (["--model.r_drop", "-1"], "model.r_drop"),
        (["--model.label_smoothing", "-0.1"], "model.label_smoothing"),
        (["--model.lr", "0"], "model.lr"),
        (["--model.decoding.num_beams", "0"], "model.decoding.num_beams"),
        (["--model.decoding.length_penalty", ".nan"], "model.decoding.length_penalty"),
        (["--model.decoding.length_penalty", ".inf"], "model.decoding.length_penalty"),
        (["--data.lowercase", "target"], "data.lowercase"),
        (["--data.bpe_dropout", "1.5"], "data.bpe_dropout"),
        (["--data.max_tokens", "0"], "data.max_tokens"),
        (["--data.val_size", "-1"], "data.val_size"),
    ],
)
def test_bad_input_is_one_line(train, pairs_folder, capsys, flags, line):
    assert train("--name", "bad", "--data.source", str(pairs_folder), *flags) == 2
    errors = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error:")]
    assert len(errors) == 1 and line in errors[0]


def test_an_evaluation_repeats_the_test_of_the_run(plain_run, tmp_path):
    check_evaluation(PROJECT, plain_run, tmp_path)
    assert (tmp_path / "test" / "plots" / "length.png").stat().st_size > 5000


def test_a_checkpoint_translates_from_python(plain_run, tmp_path):
    sentences = ["ein Mann liest .", "drei Hunde", " "]
    translator = check_load(load, Seq2SeqModule, checkpoint_of(plain_run), tmp_path, sentences=sentences)
    check_batches(translator, sentences, 101)


def test_other_sentences_are_translated_with_the_vocabulary_of_the_checkpoint(plain_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    german, english = zip(*make_pairs(12, seed=5), strict=True)
    Path("other.jsonl").write_text(
        "".join(json.dumps({"de": a, "en": b}) + "\n" for a, b in zip(german, english, strict=True))
    )
    args = ["--checkpoint", str(checkpoint_of(plain_run)), "--accelerator", "cpu", "--precision", "32-true", "--to", "x"]
    assert evaluate(PROJECT, [*args, "--data.source", "other.jsonl"]) == 0
    translator = load(checkpoint_of(plain_run))
    expected = translator.scores(translator(german), english)
    found = results(Path("x"))
    assert {f"test/{name}": score for name, score in expected.items()}.items() <= approx(found["metrics"]).items()
    assert found["metadata"]["direction"] == "de-en"

    for flags, message in [
        (
            ["--data.source", "other.jsonl", "--data.direction", "en-de"],
            "--data.direction en-de: the checkpoint transl",
        ),
        (["--data.source", "other.jsonl", "--data.direction", "de-fr"], "--data.direction de-fr: not two columns"),
    ]:
        capsys.readouterr()
        assert evaluate(PROJECT, [*args, *flags]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {message}") and error.count("\n") == 1, error


def approx(metrics: dict[str, float]) -> dict[str, float]:
    return {name: pytest.approx(value, rel=1e-5) for name, value in metrics.items()}
