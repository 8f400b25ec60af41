"""The GPU benchmark as a dry run on a CPU: it measures, says what it leaves out, and writes nothing."""

from __future__ import annotations

import sys
import time

import pytest

from benchmarks import gpu
from benchmarks.results import RESULTS


@pytest.fixture(autouse=True)
def writes_nothing(monkeypatch):
    monkeypatch.setattr(gpu, "write_result", lambda *args: pytest.fail("a CPU has no results of a GPU"))


def test_a_dry_run_measures_a_part_and_leaves_out_what_needs_cuda(capsys):
    assert gpu.main(["--accelerator", "cpu", "--only", "blank", "syncs"]) == 0
    output = capsys.readouterr().out
    assert "end to end: blank: seconds" in output and "host syncs: left_out needs CUDA" in output
    assert not (RESULTS / "gpu.json").exists() or "host syncs" in (RESULTS / "gpu.json").read_text()


def test_a_missing_package_leaves_out_its_part(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    for name in [name for name in sys.modules if name.startswith("projects.policy_gradient")]:
        monkeypatch.delitem(sys.modules, name)
    assert gpu.main(["--accelerator", "cpu", "--only", "policy"]) == 0
    assert "end to end: policy_gradient: left_out needs gymnasium" in capsys.readouterr().out


def test_after_its_time_it_measures_nothing_more(capsys, monkeypatch):
    monkeypatch.setattr(gpu, "LIMIT", 0.0)
    assert gpu.main(["--accelerator", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert len(lines) == len(gpu.parts("cpu", "sample")) and all("seconds are over" in line for line in lines)


def test_a_part_that_takes_too_long_is_ended(capsys, monkeypatch):
    def without_end():
        try:
            time.sleep(60)
        except Exception:
            time.sleep(60)
        return {}

    monkeypatch.setattr(gpu, "LIMIT", 0.3)
    monkeypatch.setattr(gpu, "parts", lambda *args: {"first": without_end, "second": dict})
    assert gpu.measure("cpu", "sample", [])["first"] == {"left_out": "0 seconds are over"}


@pytest.mark.slow
def test_every_part_runs_on_a_cpu(capsys):
    assert gpu.main(["--accelerator", "cpu"]) == 0
    assert capsys.readouterr().out.count("left_out") == 1
