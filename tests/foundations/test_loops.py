"""The five training loops: as LightningModules they end at the same weights, and the lesson counts their lines."""

import importlib

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from foundations.catalog import NEEDS, ROOT, load_exercise, missing_package
from foundations.exercises.loops import image_loop, imbalanced_loop, multilabel_loop, regression_loop, sequence_loop
from foundations.imports import exercise_imports, import_answer
from foundations.instrumented import Recorder
from foundations.line_counts import code_lines, table

CASES = {
    "image_loop": (image_loop.case, "train_images", "ImageModule"),
    "regression_loop": (regression_loop.case, "train_regression", "RegressionModule"),
    "sequence_loop": (sequence_loop.case, "train_tagger", "SequenceModule"),
    "imbalanced_loop": (imbalanced_loop.case, "train_imbalanced", "ImbalancedModule"),
    "multilabel_loop": (multilabel_loop.case, "train_multilabel", "MultilabelModule"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_loop_and_lightning_module_end_at_equal_weights(name):
    from lightning.pytorch import Trainer

    case, function, class_name = CASES[name]
    torch.manual_seed(0)
    net, data = case(12, 6)
    start = {key: value.clone() for key, value in net.state_dict().items()}
    recorder = Recorder(net, data[0], data[2])
    arguments = {}
    if name == "regression_loop":
        arguments = {"mean": data[1].mean(), "std": data[1].std()}
    if name == "imbalanced_loop":
        arguments = {"pos_weight": ((data[1] == 0).sum() / (data[1] == 1).sum()).item()}
    with exercise_imports({}):
        getattr(import_answer(name), function)(recorder.model, recorder.optimizer, *data, 2, 4, 0)
        steps = [step for epoch in recorder.epochs() for step in epoch.steps]
        assert len(steps) == 6
        batches = [(rows(data[0], step.ids), rows(data[1], step.ids, -100)) for step in steps]
        net.load_state_dict(start)  # Lightning leaves modules in the mode that they come in
        module = getattr(importlib.import_module("loops.lightning_modules"), class_name)(net, 0.1, 10**9, **arguments)
        options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = Trainer(accelerator="cpu", max_steps=6, enable_checkpointing=False, **options)
        trainer.fit(module.train(), DataLoader(batches, batch_size=None))
    for ours, theirs in zip(net.parameters(), steps[-1].weights, strict=True):
        torch.testing.assert_close(ours.detach(), theirs, rtol=1e-4, atol=1e-6)


def rows(data, ids, padding=0):
    if isinstance(data, torch.Tensor):
        return data[ids]
    return pad_sequence([data[i] for i in ids], batch_first=True, padding_value=padding)


def test_lesson_has_the_table_of_lines_that_the_script_prints():
    assert table() in (ROOT / "lessons" / "loops.md").read_text()


def test_code_lines_leaves_out_what_is_no_code(tmp_path):
    path = tmp_path / "code.py"
    path.write_text(
        'def f(\n    a,\n    b,\n):\n    """Doc.\n\n    More.\n    """\n    # no\n    c = a\n\n    return c + b\n\n\nx = 1\n'
    )
    assert code_lines(path, "f") == 3


def test_a_missing_package_is_asked_for(monkeypatch):
    assert not missing_package("gather")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert missing_package("image_loop") == "scikit-learn"
    for name in NEEDS:
        load_exercise(name)


def test_recorder_names_what_grad_holds():
    net = torch.nn.Linear(2, 1)
    data = torch.randn(4, 2)
    recorder = Recorder(net, data[:3], data[3:])
    for clear, expected in ((False, "of its batch"), (False, "of all batches so far"), (True, "of its batch")):
        if clear:
            recorder.optimizer.zero_grad()
        recorder.model(data[:3]).sum().backward()
        recorder.optimizer.step()
        assert recorder.events[-1].gradient == expected
    recorder.optimizer.zero_grad()
    recorder.optimizer.step()
    assert recorder.events[-1].gradient in ("nothing", "of its batch") and not recorder.events[-1].forwards
