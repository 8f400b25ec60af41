"""Scaffold: a new project has all files of its template under its own name, and nothing existing is overwritten."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import io
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from common.scaffold.__main__ import main
from common.scaffold.create import format_code, plan_renaming, write_files
from common.scaffold.files import project_files, repository_files, source_files, template_names
from common.scaffold.renaming import Renaming, class_renames, new_readme, new_recipe, new_test_name
from plain_install import installed, top_level_imports

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = template_names()
OWNERS = functools.cache(metadata.packages_distributions)  # of each package that can be imported
LOCAL = {*sys.stdlib_module_names, "common", "projects", *(path.stem for path in (ROOT / "tests").rglob("*.py"))}


@pytest.fixture
def run(capsys) -> Callable[..., tuple[int, str, str]]:
    """Runs the command in this process; returns exit code, standard output and standard error."""

    def call(*words: object) -> tuple[int, str, str]:
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return call


@pytest.fixture(scope="session")
def repository(tmp_path_factory) -> Path:
    """A repository with a project from each template, `my_<template>`. Read-only but for `runs/`."""
    target = tmp_path_factory.mktemp("scaffold") / "repository"
    assert main(["my_blank", "--from", "blank", "--to", str(target)]) == 0
    for template in TEMPLATES:
        if template != "blank":
            write_files(project_files(plan_renaming(f"my_{template}", template), link_template=False), target)
    return target


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def python(cwd: Path, *words: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Runs Python in a repository, without what this process has set in the environment."""
    other = ("PYTEST_", "CAPSTONES_", "PYTHONPATH")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(other)}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout
    )


# names


def test_project_name_is_replaced_but_no_data_sets_name():
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
def test_test_files_get_unique_names(old, name, expected):
    assert new_test_name(name, Renaming(old, "my_task", {})) == expected


def test_recipe_loses_its_result():
    recipe = "# Title.\n#\n# Result:   90 %\n#           on two cores (results/x.json)\n# Command:  train\nseed: 1\n"
    assert new_recipe(recipe, Renaming("gan", "my_task", {})) == (
        "# Title.\n#\n# Result:   not measured yet\n# Command:  train\nseed: 1\n"
    )


@pytest.mark.parametrize("opening", ["", "```python\nload()\n```\n\n"])
def test_readme_keeps_all_but_results(opening):
    commands = "```sh\npython -m common.scaffold my_task --from gan\ntrain gan\n```\n\n"
    results = "## Results\n\n90 %\n\n### Images\n\n80 %\n\n"
    how = "## How it works\n\nA gan.\n\n![70 %](../../docs/a.png)\n\n"
    how += "- `python -m benchmarks.gan`: 60\n  %\n- More.\n\n## End\n\nx\n"
    text = f"# T: 91 %\n\nIt reaches 91 %.\n\n{commands}{opening}{results}{how}"
    expected = f"""# my_task

Created from [`gan`](../gan/README.md).

```sh
train my_task
```

{opening}## How it works

A my_task.

- More.

## End

x

## Results

None yet."""
    readme = new_readme(text, Renaming("gan", "my_task", {}), link_template=True)
    assert readme.partition(" `python")[0] == expected


# bad input


@pytest.mark.parametrize(
    "words, message",
    [
        ("My-Task --from blank", "My-Task: a name has lower-case letters, digits and underscores"),
        ("2x --from blank", "2x: a name has lower-case letters"),
        ("größe --from blank", "größe: a name has lower-case letters"),
        ("class --from blank", "class: a keyword of Python; choose another name"),
        ("gan --from blank", "gan: {root}/projects/gan is there already; choose another name"),
        ("lightning --from blank", "its BlankModule would be called LightningModule, which means something else"),
        ("x --from nothing", "--from nothing: no such project; there are {templates}"),
        ("x --from blank --to {full}", "--to {full}: exists and is not empty; name a new folder"),
        ("x --from blank --to {file}", "--to {file}: exists and is not empty; name a new folder"),
        ("x --from blank --to {file}/y", "{file}/y"),
        ("x", "the following arguments are required: --from (see --help)"),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(tmp_path, run, words, message):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    places = {"root": ROOT, "full": tmp_path / "full", "file": tmp_path / "full" / "file", "templates": ", ".join(TEMPLATES)}
    before = sorted(path for part in ("projects", "tests") for path in (ROOT / part).rglob("*.py"))
    code, out, err = run(*words.format(**places).split())
    assert (code, out, err.count("\n")) == (2, "", 1) and err.startswith("error: ") and message.format(**places) in err, err
    assert contents(tmp_path) == {"full/file": b"mine"}
    assert sorted(path for part in ("projects", "tests") for path in (ROOT / part).rglob("*.py")) == before


def test_test_file_of_another_project_is_not_duplicated(tmp_path, run):
    """A project named like the first word of another one's name would have test files of the same names."""
    target = tmp_path / "own"
    assert run("task_one", "--from", "blank", "--to", target)[0] == 0
    (target / "tests/projects/task_one/test_task_one.py").rename(target / "tests/projects/task_one/test_task.py")
    done = python(target, "-m", "common.scaffold", "task", "--from", "task_one")
    assert done.returncode == 2 and not (target / "projects" / "task").exists()
    assert re.match(r"error: test_task\.py: .*tests/projects/task_one/test_task\.py has that name already", done.stderr)


def test_existing_files_are_never_overwritten(tmp_path):
    for content in ("new", ROOT / "LICENSE"):
        (tmp_path / "a").write_text("mine")
        with pytest.raises(FileExistsError):
            write_files({Path("a"): content}, tmp_path)
        assert (tmp_path / "a").read_text() == "mine"


# the new project


@pytest.mark.parametrize("template", TEMPLATES)
def test_new_project_has_all_files_and_no_trace_of_the_old_name(repository, template):
    for part in ("projects", "tests/projects"):
        old, new = ROOT / part / template, repository / part / f"my_{template}"
        copied = [path for path in source_files(old) if path.name != "test_seq2seq_course.py"]  # there is no course
        assert len(copied) == len(source_files(new)) >= (8 if part == "projects" else 1)
        for path in source_files(new):
            text = path.read_bytes().decode(errors="replace")
            assert not re.search(rf"(projects[./]|runs/|capstones-)({template})\b", text), path
            assert not re.search(r"<!-- table:|results/\w+-\w+\.json", text), path


def test_repository_is_complete_and_keeps_the_license(repository):
    assert (repository / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    settings = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    assert (settings["name"], settings["license"]) == ("my-blank", "MIT") and "my_blank" in settings["description"]
    commands = subprocess.run(["make", "-n", "train"], cwd=repository, capture_output=True, text=True).stdout
    assert ".venv/bin/python -m projects.my_blank.train" in commands
    readme = (repository / "README.md").read_text()
    assert readme.startswith("# my_blank\n") and "python -m common.multirun my_blank" in readme


def test_without_ruff_the_command_says_what_formats(tmp_path, run, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, out, _ = run("x", "--from", "blank", "--to", tmp_path / "own")
    assert code == 0 and "ruff is not installed here: `make format` sorts imports" in out
    assert "\nformat: " in (tmp_path / "own" / "Makefile").read_text()


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", ["x", "detect_defects_of_solar_panels"])
def test_checks_pass_under_a_name_of_any_length(tmp_path, capsys, name, template):
    write_files(repository_files(plan_renaming(name, template)), tmp_path)
    format_code([tmp_path / "projects" / name, tmp_path / "tests" / "projects" / name])
    for command in (["check"], ["format", "--check"]):
        done = python(tmp_path, "-m", "ruff", *command, "--no-cache", ".")
        assert done.returncode == 0, done.stdout
    assert 'packages = ["common", "projects"]' in (tmp_path / "pyproject.toml").read_text(), "of mypy, and of the wheel"


@functools.cache
def imports(code: str) -> tuple[set[str], set[str]]:
    """Packages that code imports, and those that it imports when it is imported itself."""
    tree = ast.parse(code)
    statements = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    return set(top_level_imports(statements)), set(top_level_imports(tree.body))


@pytest.mark.parametrize("template", TEMPLATES)
def test_repository_depends_on_what_it_uses(template):
    files = repository_files(plan_renaming("my_task", template))
    project = tomllib.loads(str(files[Path("pyproject.toml")]))["project"]
    extras = project["optional-dependencies"]
    base, dev = installed(project["dependencies"]), installed(project["dependencies"] + extras["dev"])
    imported, messages = set(), set()
    for path, text in files.items():
        if path.suffix == ".py":
            used, at_import = imports(str(text))
            for package in at_import - LOCAL:
                found = {canonicalize_name(owner) for owner in OWNERS()[package]}
                assert found & (dev if path.parts[0] == "tests" else base), f"{path} imports {package}"
            imported |= used
            assert "lightning-capstones" not in str(text), path
            messages |= set(re.findall(r"my-task\[(\w+)\]", str(text))) if path.parts[0] != "tests" else set()
    assert messages == extras.keys() - {"dev"}, "every extra is named where it is missing, and no other is"
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    modules = {line: {"pillow": "PIL"}.get(name := Requirement(line).name, name) for line in known}
    assert project["dependencies"] == [line for line in known if modules[line] in imported]


@pytest.mark.parametrize("template", TEMPLATES)
def test_readme_names_the_places_to_change(repository, template):
    project = repository / "projects" / f"my_{template}"
    section = (project / "README.md").read_text().split("\n## Your own task\n")[1].split("\n## ")[0]
    rows = [row for row in section.splitlines() if row.startswith("| ")][1:]
    assert {"| your loss "} <= {row[: row.index("|", 1)] for row in rows} and len(rows) >= 5
    for row in rows:
        code = "".join((project / file).read_text() for file in re.findall(r"`(\w+\.py)`", row))
        assert code or "no code" in row, row
        for name in re.findall(r"`([A-Za-z_0-9]+)`", row):
            assert re.search(rf"\b{name}\b", code), f"{row}: {name}"
    tests = "".join(path.read_text() for path in (repository / "tests" / "projects" / f"my_{template}").glob("test_*.py"))
    prose = "".join(line for line in section.splitlines() if not line.startswith("|"))
    assert all(f"def {name}(" in tests for name in re.findall(r"`(test_\w+)`", prose))


def test_readme_links_to_what_is_there(repository):
    for readme in repository.rglob("README.md"):
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", readme.read_text()):
            assert (readme.parent / link).exists(), f"{readme}: {link}"


def in_repository(repository: Path, log: Path) -> None:
    """All in one process: each new project answers `--help`; `my_blank` trains and is compared. Prints a line for each."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("common", "projects")]:
        del sys.modules[name]  # of this repository: the new one has its own
    sys.path[:0] = [str(repository)]
    os.chdir(repository)
    for module in ("common.cli.main", *(f"projects.my_{template}.module" for template in TEMPLATES)):
        assert Path(importlib.import_module(module).__file__).is_relative_to(repository), module
    train_main = importlib.import_module("common.cli.main").main
    with log.open("w") as lines:
        for template in TEMPLATES:
            project = importlib.import_module(f"projects.my_{template}.train").PROJECT
            with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
                train_main(project, ["--help"])
            print(json.dumps([template, project.name, out.getvalue().split(" [")[0], project.module.__name__]), file=lines)
    project = importlib.import_module("projects.my_blank.train").PROJECT
    assert train_main(project, ["--name", "a", "--max_epochs", "1", "--accelerator", "cpu"]) == 0
    assert importlib.import_module("common.compare.__main__").main(["runs", "--output", "runs/table.csv"]) == 0


def test_new_projects_answer_train_and_are_compared(repository, tmp_path):
    process = multiprocessing.get_context("fork").Process(target=in_repository, args=(repository, tmp_path / "log"))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    answers = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [answer[0] for answer in answers] == TEMPLATES
    for template, name, usage, module in answers:
        assert name == f"my_{template}" and usage == f"usage: python -m projects.my_{template}.train"
        assert module == "".join(part.capitalize() for part in f"my_{template}".split("_")) + "Module"
    table = (repository / "runs" / "table.csv").read_text().splitlines()
    assert table[1].startswith("my_blank,a,sample,default,0,")


def test_project_beside_the_others(tmp_path, run):
    """In a repository that was itself created by the command; the second project comes from the first."""
    target = tmp_path / "own"
    assert run("first", "--from", "blank", "--to", target)[0] == 0
    before = contents(target)
    done = python(target, "-B", "-m", "common.scaffold", "second_one", "--from", "first")
    assert (done.returncode, done.stderr) == (0, "") and "next: python -m projects.second_one.train --help" in done.stdout
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
def test_the_new_projects_own_checks_and_tests_pass(tmp_path, template):
    target = tmp_path / "repository"
    assert main(["my_task", "--from", template, "--to", str(target)]) == 0
    for command in (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]):
        done = python(target, "-m", *command, timeout=600)
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    done = python(target, "-m", "pytest", "-q", "-n", "2", "tests/projects", timeout=1700)
    assert done.returncode == 0, done.stdout[-5000:]
    assert re.search(r"\d+ passed", done.stdout) and "failed" not in done.stdout
