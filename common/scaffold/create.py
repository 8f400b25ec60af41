"""Creation of a project: checks of the names, then all files at once."""

from __future__ import annotations

import importlib.util
import keyword
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError
from common.scaffold.files import BUNDLED, ROOT, project_files, repository_files, template_names
from common.scaffold.renaming import Renaming, class_renames


def create_project(name: str, template: str, repository: Path | None) -> None:
    """Creates the project `name` from `template`, in this repository or in a new one at `repository`.

    Raises:
        UserError: A name cannot be used, or a file cannot be written. Nothing is written unless all checks pass.
    """
    target = repository or ROOT
    if template not in template_names():
        raise UserError(f"--from {template}: no such project; there are {', '.join(template_names())}")
    check_name(name)
    if repository is None and BUNDLED.is_dir():
        raise UserError(f"{name}: this installation is no repository; name a folder for one: --to FOLDER")
    if repository is not None and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"--to {target}: exists and is not empty; name a new folder")
    renaming = plan_renaming(name, template)
    files = project_files(renaming, link_template=True) if repository is None else repository_files(renaming)
    folders = [target / "projects" / name, target / "tests" / "projects" / name]
    for folder in folders:
        if folder.exists():
            raise UserError(f"{name}: {folder} is there already; choose another name")
    check_test_names(files, target)
    try:
        write_files(files, target)
        format_code(folders)
    except OSError as error:
        raise UserError(f"{error.filename or target}: {error.strerror or error}") from error
    print(f"wrote {len(files)} files: {folders[0]}, {folders[1]}")
    steps = [f"python -m projects.{name}.train --help", f"python -m pytest tests/projects/{name}"]
    for step in [f"cd {target}", "make test", "make train"] if repository is not None else steps:
        print(f"next: {step}")


def check_name(name: str) -> None:
    """Raises UserError if `name` cannot be the name of a project."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(f"{name}: a name has lower-case letters, digits and underscores, and begins with a letter: my_task")
    if keyword.iskeyword(name):
        raise UserError(f"{name}: a keyword of Python; choose another name")


def plan_renaming(name: str, template: str) -> Renaming:
    """Old and new names. Raises UserError if a new class would have a name that the template uses already."""
    source = "\n".join(path.read_text() for path in sorted((ROOT / "projects" / template).glob("*.py")))
    classes = class_renames(source, template, name)
    for old, new in classes.items():
        if old != new and re.search(rf"\b{new}\b", source):
            raise UserError(f"{name}: its {old} would be called {new}, which means something else; choose another name")
    return Renaming(template, name, classes)


def check_test_names(files: dict[Path, str | Path], target: Path) -> None:
    """Raises UserError if a new test file has the name of another one, which pytest could not tell apart."""
    known = {path.name: path for path in (target / "tests").rglob("test_*.py")}
    for path in files:
        if path.name in known and path.name.startswith("test_"):
            raise UserError(f"{path.name}: {known[path.name]} has that name already; choose another for the project")


def write_files(files: dict[Path, str | Path], target: Path) -> None:
    """Writes every file below `target`. Raises FileExistsError instead of overwriting one."""
    for relative, content in files.items():
        path = target / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            if path.exists():
                raise FileExistsError(None, "is there already", str(path))
            shutil.copyfile(content, path)
        else:
            with path.open("x") as file:
                file.write(content)


def format_code(folders: Sequence[Path]) -> None:
    """Sorts imports and formats code, which new names may have put out of order."""
    if importlib.util.find_spec("ruff") is None:
        print("ruff is not installed here: `make format` sorts imports and wraps lines")
        return
    for args in (["check", "--select=I", "--fix"], ["format"]):
        subprocess.run([sys.executable, "-m", "ruff", *args, "--quiet", "--no-cache", *map(str, folders)], check=False)
