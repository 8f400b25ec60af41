"""A new project has everything that its template has, under its own name, in a place where nothing was before."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from common.scaffold import __main__ as scaffold
from common.scaffold.renaming import Renaming, class_renames, fresh_readme, new_test_name, unmeasured

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = scaffold.template_names()
# flags with which a template does a step of training, validation and test in no time
STEP = {"blank": [], "gan": ["--data.source", "ring8", "--data.eval_samples", "50"]}


@pytest.fixture
def run(capsys) -> Callable[..., tuple[int, str, str]]:
    """Calls the command; returns exit code, standard output and standard error."""

    def call(*words: object) -> tuple[int, str, str]:
        try:
            code = scaffold.main([str(word) for word in words])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return call


@pytest.fixture(scope="session")
def repository(tmp_path_factory) -> Path:
    """A repository with a project made from each template, `my_<template>`. Not to be written to but below `runs/`."""
    target = tmp_path_factory.mktemp("scaffold") / "repository"
    assert scaffold.main(["my_blank", "--from", "blank", "--to", str(target)]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scaffold, "tidy", lambda folders: None)  # a second for each
        for template in TEMPLATES:
            if template != "blank":
                renaming = scaffold.plan_renaming(f"my_{template}", template)
                scaffold.write_files(scaffold.project_files(renaming, linked=False), target)
    return target


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def python(cwd: Path, *words: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Runs Python in a repository as its own tests would, with what this one has left in the environment gone."""
    other = ("PYTEST_", "CAPSTONES_", "PYTHONPATH")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(other)}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout
    )


# names


def test_names_are_replaced_where_they_mean_the_project():
    text = """
        from projects.cifar10.data import CIFAR10Data  # see projects/cifar10/README.md and runs/cifar10/a
        HUB_ID = "uoft-cs/cifar10"
        check_project(checkpoint, "cifar10", path)
        project: capstones-cifar10
        python -m projects.cifar10.train ...  # of `cifar10-jpeg75`; not mycifar10, cifar100
        class MyCIFAR10DataSet(CIFAR10Data): ...
        r"not to cifar10: projects\\.cifar10\\.predict"
    """
    expected = """
        from projects.my_task.data import MyTaskData  # see projects/my_task/README.md and runs/my_task/a
        HUB_ID = "uoft-cs/cifar10"
        check_project(checkpoint, "my_task", path)
        project: capstones-my_task
        python -m projects.my_task.train ...  # of `cifar10-jpeg75`; not mycifar10, cifar100
        class MyCIFAR10DataSet(MyTaskData): ...
        r"not to my_task: projects\\.my_task\\.predict"
    """
    assert Renaming("cifar10", "my_task", {"CIFAR10Data": "MyTaskData"}).apply(text) == expected


@pytest.mark.parametrize(
    "template, old, new",
    [
        ("bert_sentiment", "BertSentimentModule", "MyTaskModule"),
        ("gan", "GANData", "MyTaskData"),
        ("seq2seq", "Seq2SeqModule", "MyTaskModule"),
        ("seq2seq", "TranslationData", None),
    ],
)
def test_classes_are_named_after_the_project(template, old, new):
    assert class_renames(f"class {old}(Base):\n    class GANInside: ...\n", template, "my_task").get(old) == new


@pytest.mark.parametrize(
    "old, name, expected",
    [
        ("cifar10", "test_cifar10_data.py", "test_my_task_data.py"),
        ("bert_sentiment", "test_bert_runs.py", "test_my_task_runs.py"),
        ("seq2seq", "test_search.py", "test_my_task_search.py"),
        ("blank", "test_blank.py", "test_my_task.py"),
        ("gan", "conftest.py", "conftest.py"),
    ],
)
def test_test_files_have_names_of_their_own(old, name, expected):
    assert new_test_name(name, Renaming(old, "my_task", {})) == expected


def test_figures_stay_behind():
    recipe = "# Title.\n#\n# Reaches:  90 %\n#           on two cores (results/x.json)\n# Command:  train\nseed: 1\n"
    assert unmeasured(recipe) == "# Title.\n#\n# Reaches:  not measured yet\n# Command:  train\nseed: 1\n"
    text = "# T\n\n```sh\ntrain\n```\n\n## Figures\n\n90 %\n\n## The rooms\n\n| a |\n\n## More\n\n```sh\nx\n```\n"
    readme = fresh_readme(text, Renaming("gan", "my_task", {}), linked=True)
    assert "[`gan`](../gan/README.md)" in readme and "90 %" not in readme and "## More" not in readme
    assert readme.index("```sh\ntrain\n```") < readme.index("None yet.") < readme.index("## The rooms\n\n| a |")


# what is refused


@pytest.mark.parametrize(
    "words, message",
    [
        ("My-Task --from blank", "My-Task: a name is of small letters, digits and underscores"),
        ("2x --from blank", "2x: a name is of small letters"),
        ("größe --from blank", "größe: a name is of small letters"),
        ("class --from blank", "class: a word of Python's own; choose another name"),
        ("gan --from blank", "gan: {root}/projects/gan is there already; choose another name"),
        ("lightning --from blank", "its BlankModule would be called LightningModule, which means something else"),
        ("bert --from cifar10", "test_bert_data.py: {root}/tests/projects/bert_sentiment/test_bert_data.py has that name"),
        ("x --from nothing", "--from nothing: no such project; there are bert_sentiment, blank, cifar10, gan"),
        ("x --from blank --to {full}", "--to {full}: exists and is not empty; name a new folder"),
        ("x --from blank --to {file}", "--to {file}: exists and is not empty; name a new folder"),
        ("x --from blank --to {file}/y", "{file}/y"),
        ("x", "the following arguments are required: --from (see --help)"),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(tmp_path, run, words, message):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    places = {"root": ROOT, "full": tmp_path / "full", "file": tmp_path / "full" / "file"}
    before = sorted(path for part in ("projects", "tests") for path in (ROOT / part).rglob("*.py"))
    code, out, err = run(*words.format(**places).split())
    assert (code, out, err.count("\n")) == (2, "", 1) and err.startswith("error: ") and message.format(**places) in err, err
    assert contents(tmp_path) == {"full/file": b"mine"}
    assert sorted(path for part in ("projects", "tests") for path in (ROOT / part).rglob("*.py")) == before


def test_a_file_that_is_there_is_never_written_over(tmp_path):
    for content in ("new", ROOT / "LICENSE"):
        (tmp_path / "a").write_text("mine")
        with pytest.raises(FileExistsError):
            scaffold.write_files({Path("a"): content}, tmp_path)
        assert (tmp_path / "a").read_text() == "mine"


# what is made


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_new_project_has_all_rooms_and_no_trace_of_the_old_name(repository, template):
    for part in ("projects", "tests/projects"):
        old, new = ROOT / part / template, repository / part / f"my_{template}"
        count = len(scaffold.own_files(old))
        assert count == len(scaffold.own_files(new)) >= (8 if part == "projects" else 1)
        for path in scaffold.own_files(new):
            text = path.read_bytes().decode(errors="replace")
            assert not re.search(rf"(projects[./]|runs/|capstones-)({template})\b", text), path
            assert not re.search(r"<!-- table:|results/\w+-\w+\.json", text), path


def test_a_repository_is_complete_and_keeps_the_licence(repository):
    assert (repository / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    settings = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    assert (settings["name"], settings["license"]) == ("my-blank", "MIT") and "my_blank" in settings["description"]
    own = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert settings["dependencies"] == own["dependencies"]
    assert not any(
        "lightning-capstones" in extra for extras in settings["optional-dependencies"].values() for extra in extras
    )
    commands = subprocess.run(["make", "-n", "train"], cwd=repository, capture_output=True, text=True).stdout
    assert ".venv/bin/python -m projects.my_blank.train" in commands
    readme = (repository / "README.md").read_text()
    assert readme.startswith("# my_blank\n") and "python -m common.multirun my_blank" in readme
    lint = python(repository, "-m", "ruff", "check", "--no-cache", "projects/my_blank", "tests/projects/my_blank", "common")
    assert lint.returncode == 0, lint.stdout


def test_new_projects_answer_train_and_are_compared(repository):
    """One process for all: each answers `--help` under its name, some take a step; one trains and appears in a table."""
    code = f"""
import contextlib, importlib, io, json, pathlib, sys
from common.compare import __main__ as compare
from common.cli.main import main
for template in {TEMPLATES}:
    project = importlib.import_module(f"projects.my_{{template}}.train").PROJECT
    module = importlib.import_module(f"projects.my_{{template}}.module")
    assert pathlib.Path(module.__file__).is_relative_to({str(repository)!r}), module.__file__
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main(project, ["--help"])
    print(json.dumps([template, project.name, out.getvalue().split(" [")[0], project.module.__name__]))
    flags = {STEP}.get(template)
    if flags is not None:
        assert main(project, ["--fast_dev_run", "--accelerator", "cpu", *flags]) == 0, template
sys.stdout.flush()
words = ["--name", "a", "--max_epochs", "1", "--accelerator", "cpu"]
assert main(importlib.import_module("projects.my_blank.train").PROJECT, words) == 0
assert compare.main(["runs", "--output", "runs/table.csv"]) == 0
"""
    done = python(repository, "-c", code)
    assert done.returncode == 0, done.stdout + done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert [answer[0] for answer in answers] == TEMPLATES
    for template, name, usage, module in answers:
        assert name == f"my_{template}" and usage == f"usage: python -m projects.my_{template}.train"
        assert module == "".join(part.capitalize() for part in f"my_{template}".split("_")) + "Module"
    table = (repository / "runs" / "table.csv").read_text().splitlines()
    assert table[1].startswith("my_blank,a,sample,default,0,")


def test_a_project_beside_the_others(repository, tmp_path, monkeypatch, run):
    """In a repository that was itself made by the command; the second project comes from the first."""
    target = tmp_path / "own"
    assert run("first", "--from", "blank", "--to", target)[0] == 0
    before = contents(target)
    monkeypatch.setattr(scaffold, "ROOT", target)
    code, out, err = run("second_one", "--from", "first")
    assert (code, err) == (0, "") and "next: python -m projects.second_one.train --help" in out
    after = contents(target)
    assert before.items() <= after.items(), "nothing else has changed"
    assert after.keys() - before.keys() == {
        path.replace("/first/", "/second_one/").replace("test_first", "test_second_one")
        for path in before
        if path.startswith(("projects/first/", "tests/projects/first/"))
    }
    assert b"class SecondOneModule(LightningModule)" in after["projects/second_one/module.py"]
    assert b"[`first`](../first/README.md)" in after["projects/second_one/README.md"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("template", TEMPLATES)
def test_the_new_projects_own_tests_pass(tmp_path, template):
    target = tmp_path / "repository"
    assert scaffold.main(["my_task", "--from", template, "--to", str(target)]) == 0
    done = python(target, "-m", "pytest", "-q", "-n", "2", "tests/projects", timeout=1700)
    assert done.returncode == 0, done.stdout[-5000:]
    assert re.search(r"\d+ passed", done.stdout) and "failed" not in done.stdout
