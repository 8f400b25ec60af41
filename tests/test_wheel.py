"""Wheel: everything runs from it outside of the repository, and writes into the working directory alone."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from commands import ROOT, environment
from common.scaffold.create import format_code, plan_renaming, write_files
from common.scaffold.files import repository_files, template_names
from common.version import VERSION


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Folder that a wheel of this repository is installed in."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, ROOT], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-compile", "--target", folder / "site", wheel], check=True)
    return folder / "site"


@pytest.fixture
def python(site, tmp_path):
    """Runs `python -m` with the installed wheel in an empty folder; returns exit code and output."""

    def call(*words: str) -> tuple[int, str]:
        variables = environment(tmp_path.parent) | {"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", *words]
        done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=240)
        return done.returncode, done.stdout + done.stderr

    return call


@pytest.mark.slow
def test_wheel_has_recipes_lessons_and_readmes(site):
    for package in ("common", "foundations", "projects"):
        tracked = subprocess.run(["git", "ls-files", package], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert all((site / name).read_bytes() == (ROOT / name).read_bytes() for name in tracked.splitlines())


@pytest.mark.slow
def test_commands_run_from_the_wheel_and_write_into_the_working_directory(site, python, tmp_path):
    before = contents(site)
    flags = ["--config", "recipes/default.yaml", "--name", "a", "--max_epochs", "1", "--accelerator", "cpu"]
    assert python("projects.blank.train", *flags)[0] == 0
    run = tmp_path / "runs" / "blank" / "a"
    (checkpoint,) = run.glob("checkpoints/best-*.ckpt")
    (tmp_path / "rows.csv").write_text("0.5,0.5\n")
    assert python("projects.blank.predict", "rows.csv", "--checkpoint", str(checkpoint))[0] == 0
    code, output = python("common.compare", "runs")
    assert code == 0 and "blank" in output
    assert python("foundations", "start")[0] == 0
    for lesson in (ROOT / "foundations" / "lessons").glob("*.md"):
        assert list((tmp_path / "my_foundations").glob(f"**/*{lesson.stem}*")), lesson
    code, output = python("common.scaffold", "my_task", "--from", "blank")
    assert (code, output) == (2, "error: my_task: this installation is no repository; name a folder for one: --to FOLDER\n")
    assert contents(site) == before


@pytest.mark.slow
@pytest.mark.parametrize("template", template_names())
def test_scaffold_writes_from_the_wheel_what_it_writes_in_a_clone(python, tmp_path, template):
    assert python("common.scaffold", "my_task", "--from", template, "--to", "own")[0] == 0
    write_files(repository_files(plan_renaming("my_task", template)), tmp_path / "clone")
    format_code([tmp_path / "clone" / part / "my_task" for part in ("projects", "tests/projects")])
    assert contents(tmp_path / "own") == contents(tmp_path / "clone")


def test_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == VERSION == re.findall(r"(?m)^## (.*)", (ROOT / "CHANGELOG.md").read_text())[0]


def test_workflow_runs_what_the_makefile_has():
    """The workflow's jobs, by what they run; none but `slow` waits for Monday."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    runs = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in workflow["jobs"].items()}
    assert {name: runs[name] for name in ("check", "test", "slow")} == {n: [f"make {n}"] for n in ("check", "test", "slow")}
    assert "tests/plain_install.py" in runs["base"][-1] and (ROOT / "tests" / "plain_install.py").exists()
    assert [name for name, job in workflow["jobs"].items() if "if" in job] == ["slow"]
    assert set(re.findall(r"(?m)^(\w+):", (ROOT / "Makefile").read_text())) >= {"check", "test", "slow"}
