"""Export: nothing is written that is not checked, nothing half-written is left, and bad input is one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from scipy.stats import binomtest
from torch import nn

from commands import ROOT, environment
from common.cli.evaluate import main as evaluate
from common.errors import UserError
from common.export import onnx_model
from common.export.clean_process import run_clean
from common.export.command import new_folder
from common.export.graph import Export, Graph, Int8, Written
from common.export.model_card import model_card, read_summary
from common.export.onnx_model import write_onnx
from common.export.quantize import mcnemar_worse, write_int8_classifier
from common.io.checkpoints import read_checkpoint
from common.io.exported import write_exported
from projects.blank import export
from projects.blank.inference import load
from projects.blank.module import BlankModule
from projects.blank.train import PROJECT
from trained import results, run_onnx, save_checkpoint


def linear_graph(network: nn.Module | None = None) -> Graph:
    """A graph of a linear classifier of three classes, in batches of three sizes."""
    torch.manual_seed(0)
    batches = [{"x": torch.randn(n, 4)} for n in (2, 1, 5)]
    return Graph(network or nn.Linear(4, 3).eval(), batches, ("scores",), metadata={"classes": "a, b, c"})


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    options = {"source": "sample", "target": "target"}
    path = tmp_path / "best.ckpt"
    module = BlankModule(2, hidden_dim=4)
    return save_checkpoint(path, module, "blank", datamodule_hyper_parameters=options, optimizer_states=[{"large": 1}])


@pytest.fixture
def folder(checkpoint, tmp_path) -> Path:
    """What `export --weights_only` writes."""
    assert export.main(["--checkpoint", str(checkpoint), "--to", str(tmp_path / "model"), "--weights_only"]) == 0
    return tmp_path / "model"


# ---- ONNX


def test_the_onnx_file_has_torchs_outputs_in_batches_of_any_size(tmp_path):
    pytest.importorskip("onnxscript")
    graph = linear_graph()
    written = write_onnx(graph, tmp_path)
    x = torch.randn(11, 4)
    (found,) = run_onnx(tmp_path / "model.onnx", x=x)
    np.testing.assert_allclose(found, graph.network(x).detach().numpy(), rtol=1e-5, atol=1e-6)
    assert written.difference < 1e-5 and "in batches of 2, 1, 5" in written.check
    assert graph.describe_inputs() == ["`x`: float32 (n, 4)"]


class WithoutBias(nn.Linear):
    """Linear layer that forgets its bias while it is exported."""

    def forward(self, x):
        return super().forward(x) - (self.bias if torch.compiler.is_exporting() else 0)


def test_a_file_that_computes_something_else_is_refused(tmp_path):
    pytest.importorskip("onnxscript")
    with pytest.raises(UserError, match=r"ONNX: its outputs are 0\.\d+ off torch's; not written; add --weights_only"):
        write_onnx(linear_graph(WithoutBias(4, 3).eval()), tmp_path)


def test_a_network_that_torch_cannot_export_is_one_line(tmp_path):
    class Branching(nn.Module):
        """Network whose operations depend on its input's values."""

        def forward(self, x):
            return x if x.sum() > 0 else -x

    pytest.importorskip("onnxscript")
    with pytest.raises(UserError, match=r"ONNX: torch cannot export this network: .*; add --weights_only$") as raised:
        write_onnx(linear_graph(Branching().eval()), tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import types; sys.modules['torch'] = types; result = 1", "the engine needs torch"),
        # installed, it could be imported
        ("import projects; result = 1", "(No module named 'projects'|the engine needs torch)"),
        ("raise ValueError('no such operator')", "no such operator"),
    ],
)
def test_a_clean_process_has_neither_torch_nor_this_suite(code, message, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with pytest.raises(UserError, match=f"does not run in a process of its own: .*{message}"):
        run_clean(code)


def test_onnx_is_run_where_torch_is_not(tmp_path):
    pytest.importorskip("onnxscript")
    write_onnx(linear_graph(), tmp_path)
    loaded = run_clean(onnx_model.RUN.partition("arrays =")[0] + "result = sorted(sys.modules)", tmp_path / "model.onnx")
    assert "onnxruntime" in loaded and not {"torch", "lightning", "common"} & set(loaded)


# ---- int8


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (3, 0), (12, 3), (5, 5), (2, 9), (40, 21)])
def test_mcnemars_test_is_an_exact_binomial_test(only_first, only_second):
    n = only_first + only_second
    expected = binomtest(only_first, n, alternative="greater").pvalue if n else 1.0
    assert mcnemar_worse(only_first, only_second) == pytest.approx(expected)


def test_int8_is_kept_unless_its_loss_is_significant():
    assert Int8("accuracy", 90.0, 89.0, 0.2, 100, "test").kept and Int8("accuracy", 90.0, 90.5, 0.01, 100, "test").kept
    assert not Int8("accuracy", 90.0, 85.0, 0.01, 100, "test").kept


@pytest.mark.parametrize("calibrated", [False, True])
def test_an_int8_classifier_is_compared_example_by_example(tmp_path, calibrated):
    pytest.importorskip("onnxscript")
    graph = linear_graph()
    write_onnx(graph, tmp_path)
    x = torch.randn(300, 4)
    labels = graph.network(x).argmax(1)
    calibration = ({"x": batch} for batch in x.split(50)) if calibrated else None
    labeled = [({"x": x[:200]}, labels[:200]), ({"x": x[200:]}, labels[200:])]
    _, test = write_int8_classifier(graph, tmp_path, labeled, calibration)
    right = run_onnx(tmp_path / "model-int8.onnx", x=x)[0].argmax(1) == labels.numpy()
    assert (test.float32, test.int8, test.count) == (100.0, pytest.approx(100 * right.mean()), 300)
    assert test.p_value == pytest.approx(0.5 ** int((~right).sum())), "float32 alone is right, wherever int8 is not"


# ---- folders


def test_a_folder_takes_its_place_when_it_is_finished(tmp_path):
    (tmp_path / "model").mkdir()
    with new_folder(tmp_path / "model") as partial:
        (partial / "file").write_text("content")
        assert not list((tmp_path / "model").iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "file").read_text() == "content"


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("error", [UserError("no"), KeyboardInterrupt()])
def test_a_folder_that_fails_leaves_nothing(tmp_path, exists, error):
    if exists:
        (tmp_path / "model").mkdir()
    with pytest.raises(type(error)), new_folder(tmp_path / "model") as partial:
        (partial / "file").write_text("content")
        raise error
    assert [path.name for path in tmp_path.iterdir()] == ["model"] * exists


def test_an_exported_folder_is_read_like_its_checkpoint(checkpoint, folder):
    saved, read = read_checkpoint(checkpoint), read_checkpoint(folder)
    assert "optimizer_states" not in read
    assert {key: read[key] for key in ("project", "version", "hyper_parameters", "data")} == {
        key: saved[key] for key in ("project", "version", "hyper_parameters", "data")
    }
    assert read["state_dict"].keys() == saved["state_dict"].keys()
    assert all(torch.equal(value, read["state_dict"][name]) for name, value in saved["state_dict"].items())


def test_an_exported_folder_is_evaluated_like_its_checkpoint(checkpoint, folder, tmp_path):
    flags = ["--accelerator", "cpu", "--precision", "32-true", "--to"]
    for path, name in ((checkpoint, "a"), (folder, "b")):
        assert evaluate(PROJECT, ["--checkpoint", str(path), *flags, str(tmp_path / name)]) == 0
    assert results(tmp_path / "a")["metrics"] == results(tmp_path / "b")["metrics"]


def test_tied_weights_are_stored_once_and_read_twice(tmp_path):
    module = nn.ModuleDict({"a": nn.Linear(50, 50), "b": nn.Linear(50, 50)})
    module["b"].weight = module["a"].weight
    write_exported(module, {"capstone": {"hyper_parameters": {}}}, tmp_path)
    state = read_checkpoint(tmp_path)["state_dict"]
    assert state.keys() == module.state_dict().keys() and torch.equal(state["a.weight"], state["b.weight"])
    assert (tmp_path / "model.safetensors").stat().st_size < 1.2 * 4 * 50 * 50


def damage(folder: Path, part: str) -> None:
    if part == "weights":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-5])
    elif part == "config":
        (folder / "config.json").write_text("{}")
    elif part == "missing":
        (folder / "config.json").unlink()
    elif part == "other":
        config = json.loads((folder / "config.json").read_text())
        config["capstone"]["project"] = "gan"
        (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("weights", r"model\.safetensors is damaged: "),
        ("config", r"its config\.json is damaged, or not of this suite"),
        ("missing", r"a folder without model\.safetensors and config\.json; name a checkpoint"),
        ("other", "belongs to gan, not to blank"),
    ],
)
def test_a_damaged_folder_is_one_line(folder, part, message):
    damage(folder, part)
    with pytest.raises(UserError, match=message) as raised:
        load(folder)
    assert "\n" not in str(raised.value)


def test_weights_that_are_not_what_they_should_be_are_refused(checkpoint, tmp_path, monkeypatch, capsys):
    def write_other(module, config, folder):
        other = BlankModule(2, hidden_dim=4)
        write_exported(other, config, folder)

    monkeypatch.setattr("common.export.weights.write_exported", write_other)
    assert export.main(["--checkpoint", str(checkpoint), "--to", str(tmp_path / "new"), "--weights_only"]) == 2
    assert capsys.readouterr().err == "error: model.safetensors: the weights that are read back are others; not written\n"
    assert not (tmp_path / "new").exists()


# ---- the command


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--checkpoint GOOD --to full", "--to full: exists and is not an empty folder; choose another"),
        ("--checkpoint GOOD --to full/precious", "--to full/precious: exists and is not an empty folder"),
        ("--checkpoint nowhere.ckpt --to new", "checkpoint nowhere.ckpt: no such file"),
        ("--checkpoint full --to new", "checkpoint full: a folder without model.safetensors and config.json"),
        ("--checkpoint GOOD --to new --public", "--public: it is for --push HUB_ID"),
        ("--checkpoint GOOD --to new --int8", "unrecognized arguments: --int8"),
        ("--checkpoint GOOD --to full/precious/new", "--to full/precious/new: Not a directory"),
        ("--checkpoint GOOD", "the following arguments are required: --to"),
    ],
)
def test_bad_input_is_one_line(checkpoint, tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("data")
    try:
        code = export.main([*flags.replace("GOOD", str(checkpoint)).split(), "--weights_only"])
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2 and error.startswith("error: ") and error.count("\n") == 1 and message in error, error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.ckpt", "full"]
    assert (tmp_path / "full" / "precious").read_text() == "data"


def test_help_needs_no_torch(tmp_path):
    code = "import atexit, sys; from projects.cifar10.export import main"
    code += "; atexit.register(lambda: print('torch' in sys.modules)); main(['--help'])"
    done = subprocess.run([sys.executable, "-c", code], env=environment(tmp_path), capture_output=True, text=True)
    assert "--int8" in done.stdout and "--push HUB_ID" in done.stdout and done.stdout.endswith("False\n"), done.stderr


# ---- the model card


def made(**options) -> Export:
    fields = {"title": "A model", "description": "What it does.", "tags": ("text-classification", "x")}
    fields |= {"metrics": {"accuracy": "test/accuracy"}, "checkpoint": {"data": {"source": "sample"}}}
    return Export(**{**fields, **options, "write_weights": lambda folder: None})


WRITTEN = [Written("model.safetensors", "model = load()", "the same")]
SUMMARY = {"checkpoint": "best.ckpt", "test": {"test/accuracy": 0.875}, "command": "python -m x", "device": "CPU"}


def header_of(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def test_a_card_has_header_data_results_command_license_and_checks():
    card = model_card(made(), WRITTEN, [], SUMMARY, "best.ckpt")
    header = header_of(card)
    assert (header["license"], header["pipeline_tag"], header["library_name"]) == (
        "mit",
        "text-classification",
        "lightning-capstones",
    )
    (result,) = header["model-index"][0]["results"]
    assert result["dataset"]["name"] == "sample" and result["metrics"][0]["value"] == 0.875
    assert "Trained on the embedded sample. It is generated" in card and "| `test/accuracy` | 0.8750 |" in card
    assert "python -m x" in card and "```python\nmodel = load()\n```" in card and "- `model.safetensors`: the same." in card


def test_a_card_of_other_data_does_not_license_them():
    card = model_card(made(checkpoint={"data": {"source": "cifar10-jpeg75"}}), WRITTEN, [], SUMMARY, "best.ckpt")
    assert header_of(card)["license"] == "other" and "JPEG at quality 75" in card
    assert "`cifar10-jpeg75`, have terms of their own" in card


def test_results_of_another_checkpoint_are_not_quoted():
    card = model_card(made(), WRITTEN, [], SUMMARY, "step-00000003.ckpt")
    assert "0.875" not in card and "The run's test was of another checkpoint." in card
    assert "no results are known" in model_card(made(), WRITTEN, [], {}, "best.ckpt")


def test_the_summary_of_the_run_is_beside_the_checkpoint(tmp_path):
    path = tmp_path / "checkpoints" / "best.ckpt"
    path.parent.mkdir()
    assert read_summary(path) == {}
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    assert read_summary(path) == SUMMARY
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(UserError, match=r"summary\.json: no JSON"):
        read_summary(path)
