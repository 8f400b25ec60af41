"""Checks of a finished run, the same for every capstone: its evaluation, and its checkpoint from Python."""

from __future__ import annotations

import contextlib
import doctest
import inspect
import json
import random
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule

from commands import same
from common.cli.evaluate import main as evaluate
from common.io.checkpoints import AtomicCheckpointIO, load_module
from common.project import Project


def save_checkpoint(path: Path, module: LightningModule, project: str, **entries: Any) -> Path:
    """Checkpoint of a module as a run writes it, without what a run is resumed from; `entries` are the capstone's own."""
    data = {"source": "sample"}
    state = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams), "data": data, **entries}
    AtomicCheckpointIO(project).save_checkpoint(state, path)
    return path


def run_onnx(path: Path, **inputs: torch.Tensor | np.ndarray) -> list[np.ndarray]:
    """Outputs of an ONNX file."""
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {name: np.asarray(value) for name, value in inputs.items()})


def run_card(folder: Path, **inputs: Any) -> list[dict[str, Any]]:
    """Variables of each block of Python in an exported folder's model card, run in that folder with `inputs`."""
    found = []
    with contextlib.chdir(folder):
        for code in re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL):
            found.append(dict(inputs))
            exec(code.replace('"FOLDER"', repr(str(folder))), found[-1])
    return found


def checkpoint_of(run_dir: Path) -> Path:
    """The checkpoint that the run's own test was of."""
    return run_dir / "checkpoints" / json.loads((run_dir / "summary.json").read_text())["checkpoint"]


def results(folder: Path) -> dict[str, Any]:
    """Content of an evaluation's JSON."""
    return json.loads((folder / "evaluation.json").read_text())


def contents(run_dir: Path) -> dict[Path, bytes]:
    """The run's own files; W&B's background process may write into its folder when it likes."""
    files = [path for path in run_dir.rglob("*") if path.is_file() and "wandb" not in path.relative_to(run_dir).parts]
    return {path: path.read_bytes() for path in files}


def check_evaluation(project: Project, run_dir: Path, cwd: Path, *flags: str) -> None:
    """The run's checkpoint has the run's metrics in both splits, and its test's plots; the run's own files stay as they are.

    Args:
        project: The capstone.
        run_dir: Folder of a finished run.
        cwd: Folder to evaluate in: an empty one, as on another machine.
        flags: Further flags.
    """
    before = contents(run_dir)
    summary = json.loads((run_dir / "summary.json").read_text())
    expected = {"test": summary["test"], "val": {k: v for k, v in summary["best_validation"].items() if k != "step"}}
    for split, metrics in expected.items():
        args = ["--checkpoint", str(checkpoint_of(run_dir)), "--split", split, "--to", split, "--accelerator", "cpu"]
        with contextlib.chdir(cwd):
            assert evaluate(project, [*args, *flags]) == 0
        found = results(cwd / split)
        if split == "test":
            assert found["metrics"] == metrics, "exactly"
        assert found["metrics"] == pytest.approx(metrics, rel=1e-6), "from metrics.csv"
        assert (found["data_source"], found["precision"]) == (summary["data_source"], summary["precision"])
        assert found["metadata"].items() <= summary["metadata"].items()
    assert contents(run_dir) == before


def global_state() -> list[Any]:
    """Random states and thread count of this process."""
    return [torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate(), torch.get_num_threads()]


def check_load(
    load: Callable[..., Any], module_class: type[LightningModule], checkpoint: Path, cwd: Path, **examples: Any
) -> Any:
    """`load` has the signature of all capstones, leaves global state alone, and its example runs; returns the pipeline.

    `load_from_checkpoint` gives the same module.

    Args:
        load: The capstone's.
        module_class: Its LightningModule.
        checkpoint: Checkpoint of a run.
        cwd: An empty folder.
        examples: Inputs that the example in the docstring of `load` names.
    """
    assert list(inspect.signature(load).parameters)[:2] == ["checkpoint", "device"]
    assert inspect.signature(load).parameters["device"].default == "cpu"
    shutil.copyfile(checkpoint, cwd / "best.ckpt")
    before = global_state()
    with contextlib.chdir(cwd):
        (example,) = doctest.DocTestFinder(recurse=False).find(load, "load", globs={**load.__globals__, **examples})
        ended = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example)
    assert ended.attempted > 2 and not ended.failed
    pipeline = load(str(checkpoint), torch.device("cpu"))
    assert global_state() == before
    one, _ = load_module(checkpoint, module_class, load.__module__.split(".")[1])
    other = module_class.load_from_checkpoint(checkpoint, map_location="cpu", weights_only=True)
    assert same(one.state_dict(), other.state_dict()) and dict(one.hparams) == dict(other.hparams)
    return pipeline


def check_batches(pipeline: Callable[..., Any], inputs: Sequence[Any], count: int) -> None:
    """`count` inputs at once have the outputs of the few in `inputs`, each alone; none have none.

    Args:
        pipeline: Called with inputs.
        inputs: A few inputs.
        count: More than a batch has.
    """
    before = global_state()
    alone = [pipeline(inputs[i : i + 1]) for i in range(len(inputs))]
    many = pipeline([inputs[i % len(inputs)] for i in range(count)])
    assert len(many) == count and all(len(output) == 1 for output in alone)
    for i in (*range(len(inputs)), count - 1):
        expected = alone[i % len(inputs)][0]
        if isinstance(expected, str):
            assert many[i] == expected
        else:
            np.testing.assert_allclose(np.asarray(many[i]), np.asarray(expected), rtol=1e-4, atol=1e-5)
    assert len(pipeline([])) == 0 and type(pipeline([])) is type(many)
    assert global_state() == before
