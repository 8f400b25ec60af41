"""A project of your own: `python -m common.scaffold NAME --from TEMPLATE [--to FOLDER]`; `--help` lists the templates.

Every project of this repository is a template: the new one has its rooms, its code under new names, its recipes and tests.
With `--to` it stands in a repository of its own, with `common/` and all that is needed to install, train and test.
"""

from __future__ import annotations

import argparse
import importlib.util
import keyword
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from common.cli.command import OneLineParser, report_errors
from common.errors import UserError
from common.scaffold.renaming import Renaming, class_renames, fresh_readme, new_test_name, unmeasured

ROOT = Path(__file__).resolve().parents[2]
SUITE = "lightning-capstones"  # the name that pip knows this repository by
# what a repository of its own takes over besides `common` and the project
SHARED = ["LICENSE", "Makefile", "pyproject.toml", ".gitignore", ".pre-commit-config.yaml", "projects/__init__.py"]
SHARED += ["tests/commands.py", "tests/projects/conftest.py", "tests/projects/test_sweeps.py"]
REPOSITORY_README = """# {name}

Made from `{template}` of Lightning Capstones. The [project's README](projects/{name}/README.md) says what is where;
`common/` is the command line, run folder, callbacks and comparison.

```sh
make train                                          # sets everything up and trains
make test                                           # sets everything up and runs the tests
make check                                          # ruff and mypy
python -m common.compare                            # all runs side by side
python -m common.multirun {name} --seeds 0 1 2
```

MIT licence, see `LICENSE`.
"""


def new_parser() -> OneLineParser:
    """The command line's flags."""
    parser = OneLineParser(prog="python -m common.scaffold", description="Begins a project of your own from one of ours.")
    parser.add_argument("name", metavar="NAME", help="Of the new project, as Python can import it: my_task.")
    parser.add_argument(
        "--from",
        dest="template",
        required=True,
        metavar="TEMPLATE",
        help=f"The project to begin with: {', '.join(template_names())}.",
    )
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="Make a repository there, instead of adding to this one.")
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code (see `common.errors`)."""
    options = new_parser().parse_args(args)
    return report_errors(lambda: scaffold(options))


def scaffold(options: argparse.Namespace) -> None:
    """Does what the parsed command line asks for: checks everything first, so that nothing is ever half made."""
    name, template, target = options.name, options.template, ROOT if options.to is None else options.to
    if template not in template_names():
        raise UserError(f"--from {template}: no such project; there are {', '.join(template_names())}")
    check_name(name)
    if options.to is not None and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"--to {target}: exists and is not empty; name a new folder")
    renaming = plan_renaming(name, template)
    files = project_files(renaming, linked=options.to is None)
    if options.to is not None:
        files |= repository_files(renaming)
    for place in (target / "projects" / name, target / "tests" / "projects" / name):
        if place.exists():
            raise UserError(f"{name}: {place} is there already; choose another name")
    check_test_names(files, target)
    try:
        write_files(files, target)
        tidy([target / "projects" / name, target / "tests" / "projects" / name])
    except OSError as error:
        raise UserError(f"{error.filename or target}: {error.strerror or error}") from error
    print(f"wrote {len(files)} files: {target / 'projects' / name}, {target / 'tests' / 'projects' / name}")
    steps = [f"python -m projects.{name}.train --help", f"python -m pytest tests/projects/{name}"]
    for step in [f"cd {target}", "make test", "make train"] if options.to is not None else steps:
        print(f"next: {step}")


def template_names() -> list[str]:
    """The projects of this repository."""
    return sorted(path.parent.name for path in (ROOT / "projects").glob("*/train.py"))


def check_name(name: str) -> None:
    """Raises UserError if `name` cannot be a project's."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(f"{name}: a name is of small letters, digits and underscores, and begins with a letter: my_task")
    if keyword.iskeyword(name):
        raise UserError(f"{name}: a word of Python's own; choose another name")


def plan_renaming(name: str, template: str) -> Renaming:
    """What is called how. Raises UserError if a new class would have a name that the template uses already."""
    source = "\n".join(path.read_text() for path in sorted((ROOT / "projects" / template).glob("*.py")))
    classes = class_renames(source, template, name)
    for old, new in classes.items():
        if old != new and re.search(rf"\b{new}\b", source):
            raise UserError(f"{name}: its {old} would be called {new}, which means something else; choose another name")
    return Renaming(template, name, classes)


def project_files(renaming: Renaming, linked: bool) -> dict[Path, str | Path]:
    """Where each file of the new project goes, with its text, or the file that it is a copy of.

    Args:
        renaming: what is called how.
        linked: whether the template stands beside the new project.

    Raises:
        UserError: the template's tests are not here.
    """
    old, new = renaming.old, renaming.new
    if not (ROOT / "tests" / "projects" / old).is_dir():
        raise UserError(f"--from {old}: its tests are not installed; start this in a clone of the repository")
    files: dict[Path, str | Path] = {}
    for path in own_files(ROOT / "projects" / old):
        place = Path("projects", new, path.relative_to(ROOT / "projects" / old))
        if place.name == "README.md":
            files[place] = fresh_readme(path.read_text(), renaming, linked)
        elif place.suffix == ".yaml":
            files[place] = unmeasured(renaming.apply(path.read_text()))
        else:
            files[place] = renaming.apply(path.read_text()) if place.suffix == ".py" else path
    for path in own_files(ROOT / "tests" / "projects" / old):
        below = path.relative_to(ROOT / "tests" / "projects" / old)
        place = Path("tests", "projects", new, below.with_name(new_test_name(below.name, renaming)))
        files[place] = renaming.apply(path.read_text()) if path.suffix == ".py" else path
    return files


def repository_files(renaming: Renaming) -> dict[Path, str | Path]:
    """The same of what a repository has beside the project: `common`, settings, licence, a page to begin with."""
    name = renaming.new
    files: dict[Path, str | Path] = {}
    for path in [*own_files(ROOT / "common"), *(ROOT / shared for shared in SHARED)]:
        if path.suffix in (".py", ".toml"):
            files[path.relative_to(ROOT)] = path.read_text().replace(SUITE, name.replace("_", "-"))
        else:
            files[path.relative_to(ROOT)] = path
    settings, makefile = str(files[Path("pyproject.toml")]), (ROOT / "Makefile").read_text()
    description = f'description = "{name}, made from {renaming.old} of Lightning Capstones."'
    files[Path("pyproject.toml")] = re.sub(r"(?m)^description = .*$", description, settings)
    files[Path("Makefile")] = re.sub(r"(?m)^PROJECT \?= .*$", f"PROJECT ?= {name}", makefile)
    files[Path("README.md")] = REPOSITORY_README.format(name=name, template=renaming.old)
    return files


def own_files(folder: Path) -> list[Path]:
    """The files in and below `folder`, without what Python and editors leave there."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return [
        path for path in found if not any(part.startswith((".", "__pycache__")) for part in path.parts[len(folder.parts) :])
    ]


def check_test_names(files: dict[Path, str | Path], target: Path) -> None:
    """Raises UserError if a new test file has another's name, which pytest could not tell apart."""
    known = {path.name: path for path in (target / "tests").rglob("test_*.py")}
    for place in files:
        if place.name in known and place.name.startswith("test_"):
            raise UserError(f"{place.name}: {known[place.name]} has that name already; choose another for the project")


def write_files(files: dict[Path, str | Path], target: Path) -> None:
    """Writes every file anew; one that is there already stops it."""
    for place, content in files.items():
        path = target / place
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            if path.exists():
                raise FileExistsError(None, "is there already", str(path))
            shutil.copyfile(content, path)
        else:
            with path.open("x") as file:
                file.write(content)


def tidy(folders: Sequence[Path]) -> None:
    """Puts imports and lines into the order that new names may have broken, if ruff is installed."""
    if importlib.util.find_spec("ruff") is None:
        return
    for words in (["check", "--select=I", "--fix"], ["format"]):
        subprocess.run([sys.executable, "-m", "ruff", *words, "--quiet", "--no-cache", *map(str, folders)], check=False)


if __name__ == "__main__":
    sys.exit(main())
