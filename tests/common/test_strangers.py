"""Files of strangers: nothing in a checkpoint, a run's configuration or data is executed, imported, or a path to write to.

Each payload would write a file, the canary.
"""

from __future__ import annotations

import os
import pickle
import re
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint

from common.cli.recipes import with_saved_config
from common.data import images
from common.data.cifar_pickles import ArrayUnpickler
from common.errors import UserError
from common.io.checkpoints import AtomicCheckpointIO, content_errors, load_module, read_checkpoint
from common.io.yaml_files import code_flags
from projects.bert_sentiment import pretrained
from projects.cifar10.pseudo_labels import save_pseudo_labels
from projects.policy_gradient.inference import load as load_agent
from projects.policy_gradient.module import PolicyGradientModule
from projects.policy_gradient.play import main as play
from projects.seq2seq.module import Seq2SeqModule
from tests.commands import ROOT


@pytest.fixture
def canary(tmp_path, monkeypatch) -> Path:
    """File that is written by whoever imports the module `stranger`, which the working folder has."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "canary"
    lines = ["from pathlib import Path", f"Path({str(path)!r}).touch()", "from lightning.pytorch import Callback as C"]
    (tmp_path / "stranger.py").write_text("\n".join(lines))
    yield path
    sys.modules.pop("stranger", None)
    assert not path.exists()


class Touch:
    """Object whose pickle writes the canary."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


# pickles


@pytest.mark.parametrize("read", [read_checkpoint, AtomicCheckpointIO().load_checkpoint, images._read_cache])
def test_pickled_calls_are_not_executed(canary, read):
    torch.save({"state_dict": Touch(canary), "splits": Touch(canary)}, "x.ckpt")
    try:
        assert read(Path("x.ckpt")) is None, "the cache is written anew"
    except UserError as error:
        assert str(error).startswith(
            "checkpoint x.ckpt: holds Python objects beside tensors and plain values; they may be code"
        )


@pytest.mark.parametrize("payload", [Touch, lambda path: np.array([Touch(path)], object)], ids=["alone", "in an array"])
def test_a_data_files_pickle_calls_nothing(canary, payload):
    Path("x").write_bytes(pickle.dumps(payload(canary)))
    with Path("x").open("rb") as file, pytest.raises(pickle.UnpicklingError, match="mkdir is not allowed in a data file"):
        ArrayUnpickler(file, encoding="latin1").load()


def test_no_code_reads_objects_or_calls_a_shell():
    forbidden = r"pickle\.loads?\(|yaml\.(unsafe_|full_)?load\(|allow_pickle|shell=True|os\.system|\beval\(['\"\w]|\bexec\("
    for path in [*ROOT.glob("common/**/*.py"), *ROOT.glob("projects/**/*.py")]:
        text = path.read_text()
        assert not re.search(forbidden, text), path
        assert all("weights_only=True" in call for call in re.findall(r"torch\.load\(.*", text)), path


# a run's own configuration

LAMBDA = "class_path: lightning.pytorch.callbacks.LambdaCallback, init_args"
FOREIGN = {
    "trainer: {callbacks: [{class_path: stranger.C}]}": "trainer.callbacks.class_path",
    "trainer: {callbacks: {class_path: runs.toy.x.stranger.C}}": "trainer.callbacks.class_path",
    "trainer: {callbacks: stranger.C}": "trainer.callbacks",
    "trainer: {profiler: stranger.C}": "trainer.profiler",
    "trainer.callbacks+: [{class_path: stranger.C}]": "trainer.callbacks+.class_path",
    "trainer: {callbacks: '[{class_path: stranger.C}]'}": "trainer.callbacks.class_path",
    "anything: {class_path: stranger.C}": "anything.class_path",
    f"trainer: {{callbacks: [{{{LAMBDA}: {{on_fit_start: stranger.C}}}}]}}": "trainer.callbacks.init_args.on_fit_start",
    f'trainer: {{callbacks: [{{{LAMBDA}: \'{{"on_fit_start": "stranger\\u002eC"}}\'}}]}}': (
        "trainer.callbacks.init_args.on_fit_start"
    ),
    "trainer: {callbacks: inside}": "trainer.callbacks",
    "trainer: inside": "trainer",
    "config: inside": "config",
    "config: [/tmp/x.yaml]": "config",
    "trainer: {logger: {class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: /tmp}}}": (
        "trainer.logger.init_args.save_dir"
    ),
    "trainer: {logger: {class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: a/../..}}}": (
        "trainer.logger.init_args.save_dir"
    ),
}
RESUME = ["--name", "x", "--resume", "auto"]


@pytest.fixture
def saved(canary, tmp_path) -> Path:
    """The run's configuration, beside files that it could name."""
    folder = tmp_path / "runs" / "toy" / "x"
    folder.mkdir(parents=True)
    (folder / "stranger.py").write_text((tmp_path / "stranger.py").read_text())
    (folder / "inside").write_text("[{class_path: stranger.C}]")
    return folder / "config.yaml"


@pytest.mark.parametrize("text", FOREIGN)
def test_a_runs_configuration_imports_and_reads_nothing(saved, train, text):
    saved.write_text(text)
    assert re.match(rf"runs/toy/x/config\.yaml: {re.escape(FOREIGN[text])} names ", train(*RESUME, alone=True).error)
    assert with_saved_config([*RESUME, "--config", str(saved)], "toy")[:4] == RESUME, "the user trusts it"


@pytest.mark.parametrize(
    "text",
    [
        "trainer: {callbacks: !!python/object/apply:os.mkdir [canary]}",
        "trainer: !!python/name:stranger.C ",
        "a: " + "[" * 2000,
        "a: &a [*a]",
        "a: &a [1,2,3,4,5,6,7,8,9]\n"
        + "".join(f"{b}: &{b} [{f'*{a},' * 9}]\n" for a, b in zip("abcde", "bcdef", strict=True)),
    ],
    ids=["apply", "name", "nested", "of itself", "aliases"],
)
def test_yaml_that_is_no_configuration_is_one_line(saved, train, text):
    saved.write_text(text)
    assert re.search("not YAML|it is no configuration of a run", train(*RESUME, alone=True).error)


@pytest.mark.parametrize("key, value", [("model.features", "stranger:load"), ("data.source", "stranger:Env-v0")])
def test_code_is_taken_from_the_command_line_alone(saved, key, value):
    group, name = key.split(".")
    saved.write_text(yaml.safe_dump({group: {name: value}}))
    with pytest.raises(UserError, match=f"{key} names code, {value}; if you trust it, add --{key} {shlex.quote(value)}$"):
        with_saved_config(RESUME, "toy")
    for flag in ([f"--{key}", value], [f"--{key}={value}"]):
        assert with_saved_config([*RESUME, *flag], "toy")[0] == "--config"
    assert code_flags(saved) == [f"--{key}", value], "which the closing lines of a run print"


def test_a_usual_configuration_is_read(saved):
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "mine", "version": ""}}
    best = {
        "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
        "init_args": {"filename": "v1.{epoch}-{val/loss:.2f}"},
    }
    options = {"precision": "32-true", "max_time": "00:01:00:00", "devices": "0,1", "callbacks": [best], "logger": logger}
    settings = {"seed": 3, "trainer": options, "data": {"source": "/data/rows.csv"}, "model": {"lr": 0.1, "x": None}}
    saved.write_text(yaml.safe_dump(settings))
    assert with_saved_config(RESUME, "toy")[0] == "--config"


# checkpoints


@pytest.mark.parametrize("path", ["{0}", "{0}/../{1}", "{0}/../../../../../{2}"])
def test_no_file_is_removed_that_a_checkpoint_names(tmp_path, path):
    (own := tmp_path / "runs").mkdir()
    precious = tmp_path / "notes.ckpt"
    precious.touch()
    callback = ModelCheckpoint(own, monitor="loss", save_top_k=1)
    state = {"best_model_path": "", "best_model_score": None, "dirpath": str(own), "kth_value": torch.tensor(0.5)}
    named = path.format(own, precious.name, str(precious).lstrip("/"))
    callback.load_state_dict({**state, "best_k_models": {named: torch.tensor(0.5)}, "kth_best_model_path": named})
    writer = AtomicCheckpointIO()
    trainer = SimpleNamespace(ckpt_path=None, strategy=SimpleNamespace(remove_checkpoint=writer.remove_checkpoint))
    for removed in callback.best_k_models:
        if callback._should_remove_checkpoint(trainer, removed, "x"):
            callback._remove_checkpoint(trainer, removed)
    assert precious.exists() and own.is_dir()
    (own / "old.ckpt").touch()
    writer.remove_checkpoint(own / "old.ckpt")
    assert not (own / "old.ckpt").exists()


OUTSIDE = [
    "/{0}",
    "../../../../../../../../{0}",
    "./vocab.txt",
    "vocab.txt/../../x",
    "VOCAB.TXT",
    "a.py",
    "",
    ".",
    3,
    "x\0y",
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_tokenizer_files_stay_in_their_folder(canary, monkeypatch, name):
    name = name.format(str(canary)[1:]) if isinstance(name, str) else name
    monkeypatch.setattr(pretrained, "read_tokenizer", None)
    line = r"checkpoint x\.ckpt: .*tokenizer file .*: none that a tokenizer has"
    with pytest.raises(UserError, match=line), content_errors(Path("x.ckpt"), {}):
        pretrained.tokenizer_from_files({"vocab.txt": b"a", name: b"x"})


@pytest.mark.parametrize(
    "files, message",
    [
        ({"vocab.txt": 3}, "none that a tokenizer has"),
        ({"vocab.txt": b"x" * 30}, "tokenizer files of 30 bytes, more than 20"),
        ({"tokenizer_config.json": '{"auto_map": {"AutoTokenizer": ["a--b.C", null]}}'}, "sets auto_map, which names code"),
        ({"tokenizer_config.json": b'{"vocab_file": "/etc/passwd"}'}, "sets vocab_file, which names"),
        ({"tokenizer_config.json": b"[" * 20}, "Expecting value"),
    ],
)
def test_tokenizer_files_name_neither_code_nor_other_files(monkeypatch, files, message):
    monkeypatch.setattr(pretrained, "read_tokenizer", None)
    monkeypatch.setattr(pretrained, "MAX_TOKENIZER_BYTES", 20 if b"x" * 30 in files.values() else 99)
    with pytest.raises(UserError, match=message), content_errors(Path("x.ckpt"), {}):
        pretrained.tokenizer_from_files(files)


def test_the_files_of_every_tokenizer_are_allowed():
    import transformers

    found = set()
    for path in Path(transformers.__file__).parent.glob("models/*/tokenization_*.py"):
        for names in re.findall(r"^VOCAB_FILES_NAMES = \{(.*?)\}", path.read_text(), re.MULTILINE | re.DOTALL):
            found |= set(re.findall(r': "([^"]+\.\w+)"', names))
    assert "vocab.txt" in found and found <= pretrained.TOKENIZER_FILES


@pytest.mark.parametrize(
    "encoder, message",
    [
        (None, "no configuration of its encoder"),
        ({"model_type": "bert", "auto_map": {}}, "sets auto_map, which names code"),
        ({"text_config": [{"attn_implementation": "a/b"}]}, "sets attn_implementation, which names code"),
    ],
)
def test_an_encoder_is_built_from_its_configuration_alone(encoder, message):
    with pytest.raises(ValueError, match=message):
        pretrained.check_stored({"encoder": encoder, "checkpoint": "/somewhere"})


def agent_file(id: str, kwargs: dict) -> Path:
    """Checkpoint of an agent whose environment has this id."""
    module = PolicyGradientModule(hidden_dims=[2])
    content = {"project": "policy_gradient", "state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    torch.save({**content, "environment": {"id": id, "kwargs": kwargs}}, "x.ckpt")
    return Path("x.ckpt")


@pytest.mark.parametrize("id, kwargs", [("stranger:Env-v0", {}), ("CartPole-v1", {"env_id": "stranger:Env-v0"})])
def test_an_agents_environment_imports_no_module(canary, id, kwargs):
    with pytest.raises(UserError, match="stranger:Env-v0 is code of the module stranger; if you trust it, add --source"):
        load_agent(agent_file(id, kwargs))


def test_an_environment_is_imported_if_its_flag_says_so(canary, capsys):
    agent_file("stranger:Env-v0", {})
    assert play(["--checkpoint", "x.ckpt", "--source", "stranger:Env-v0"]) == 2
    assert "Environment `Env` doesn't exist" in capsys.readouterr().err
    canary.unlink()


@pytest.mark.parametrize("environment", [None, {}, {"id": 3, "kwargs": {}}, {"id": "CartPole-v1", "kwargs": {"no": 1}}])
def test_an_agent_without_an_environment_is_one_line(canary, environment):
    path = agent_file("", {})
    torch.save({**torch.load(path, weights_only=True), "environment": environment}, path)
    with pytest.raises(UserError, match=r"^checkpoint x\.ckpt: "):
        load_agent(path)


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/b", "..", ".", "", "a\\b", "a\0"])
def test_class_names_lead_into_no_other_folder(tmp_path, name):
    image, folder = torch.zeros(1, 3, 4, 4, dtype=torch.uint8), tmp_path / "new"
    with pytest.raises(UserError, match=r"--save_pseudo_labels: the checkpoint's class .* is no name of a folder"):
        save_pseudo_labels([Path("a.png")], image, torch.tensor([[0.0, 1.0]]), ["cat", name], folder, 0.5)
    assert not list(tmp_path.iterdir())


def test_an_option_of_a_checkpoint_is_one_of_its_choices(tmp_path):
    content = {"project": "seq2seq", "state_dict": {}, "hyper_parameters": {"bleu_tokenize": "flores200"}}
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match="bleu_tokenize flores200: none of auto, "):
        load_module(tmp_path / "x.ckpt", Seq2SeqModule, "seq2seq")
