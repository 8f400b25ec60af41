"""A damaged `config.yaml` of a run to resume is one line that says how to continue, and never other settings in silence."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from toy_runs import TINY, call

from common.cli.parser import CapstoneCLI
from common.cli.recipes import with_saved_config
from common.errors import UserError
from common.io.run_dir import RunDir
from common.run.build import write_config
from toy.train import PROJECT

FLAGS = ["--resume", "auto", "--name", "a"]
WAY_OUT = "restore it, or add --config recipes/NAME.yaml and the flags that began the run"


@pytest.fixture
def saved(tmp_path) -> Path:
    """Configuration of a run "a" that has a checkpoint."""
    request = CapstoneCLI(PROJECT, TINY).request()
    path = tmp_path / "runs/toy/a/config.yaml"
    (path.parent / "checkpoints").mkdir(parents=True)
    (path.parent / "checkpoints/step-00000004.ckpt").touch()
    write_config(request, RunDir(path.parent))
    return path


def without_last_lines(count: int) -> Callable[[bytes], bytes]:
    return lambda data: b"".join(data.splitlines(keepends=True)[:-count])


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "no settings in it"),
    "NUL bytes": (lambda data: b"\0" * len(data), "not YAML: unacceptable character #x0000"),
    "NUL bytes at the end": (lambda data: data[:-50] + b"\0" * 50, "not YAML: unacceptable character #x0000"),
    "not UTF-8": (lambda data: data + b"# \xe4\n", "not YAML: 'utf-8' codec can't decode byte 0xe4"),
    "not YAML": (lambda data: data + b"a: [\n", "not YAML: while parsing"),
    "words": (lambda data: b"just words\n", "Unexpected config: just words"),
    "half a value": (lambda data: data[: data.index(b"detect_anomaly: false") + 18], "--trainer.detect_anomaly: "),
    "an unknown option": (lambda data: data.replace(b"  lr:", b"  rate:"), "Group 'model' does not accept option 'rate'"),
    "half a number": (lambda data: data[:-2], "cut short before the end of its last option, data.val_size"),
    "one line less": (without_last_lines(1), "cut short before the end of its last option, data.val_size"),
    "a group less": (without_last_lines(4), "cut short before the end of its last option, data.val_size"),
}


@pytest.mark.parametrize("damage, fault", DAMAGES.values(), ids=DAMAGES)
def test_damage_is_one_line_that_says_how_to_continue(saved, tmp_path, damage, fault):
    saved.write_bytes(damage(saved.read_bytes()))
    error = call(tmp_path, *FLAGS).error
    assert re.fullmatch(rf"runs/toy/a/config.yaml: {re.escape(fault)}.*; {WAY_OUT}", error), error


@pytest.mark.parametrize(
    "flags", [["--resume", "allow", "--name", "a"], ["--resume", "runs/toy/a/checkpoints/step-00000004.ckpt"]]
)
@pytest.mark.parametrize("fault", ["no settings in it", "no such file"])
def test_every_kind_of_resume_needs_the_file(saved, tmp_path, flags, fault):
    saved.unlink() if fault == "no such file" else saved.write_text("")
    assert call(tmp_path, *flags).error.endswith(f"runs/toy/a/config.yaml: {fault}; {WAY_OUT}")


def test_the_way_out_continues_the_run_and_writes_the_file_anew(train):
    path = train("--name", "a").run("a") / "config.yaml"
    before = path.read_text()
    path.write_text("")
    ended = train(*FLAGS, "--max_epochs", "3", "--config", "recipes/sample.yaml")
    assert ended.code == 0 and "resuming runs/toy/a from step-00000004.ckpt" in ended.out, ended.err
    assert path.read_text() == before.replace("max_epochs: 2", "max_epochs: 3")


def test_a_fault_in_the_flags_is_not_blamed_on_the_file(saved, tmp_path):
    assert call(tmp_path, *FLAGS, "--model.lr", "x").error.startswith("--model.lr")


def test_an_old_checkpoint_on_another_nodes_disk_is_no_run_without_configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "runs/toy/x/checkpoints/step-00000001.ckpt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"an old file")
    flags = ["--name", "x", "--resume", "auto"]
    with pytest.raises(UserError, match="no such file; restore it, or add --config"):
        with_saved_config(flags, "toy")
    monkeypatch.setenv("NODE_RANK", "1")
    assert with_saved_config(flags, "toy") == flags
