"""Files of a new project: which there are, and what is in each."""

from __future__ import annotations

import re
from pathlib import Path

from common.scaffold.renaming import Renaming, new_readme, new_recipe, new_test_name
from common.scaffold.settings import NOT_COPIED, SUITE, distribution, new_pyproject

ROOT = Path(__file__).resolve().parents[2]
BUNDLED = Path(__file__).with_name("repository")  # in a wheel: what a clone has beside its packages
SETTINGS = BUNDLED if BUNDLED.is_dir() else ROOT  # settings and tests are in here
# what a new repository takes over besides `common` and the project
COPIED = ["LICENSE", "Makefile", "pyproject.toml", ".gitignore", ".pre-commit-config.yaml"]
COPIED += ["tests/commands.py", "tests/image_layouts.py", "tests/conftest.py", "tests/projects/conftest.py"]
COPIED += ["tests/projects/test_sweeps.py", "tests/trained.py"]
REPOSITORY_README = """# {name}

Created from `{template}` of Lightning Capstones. The [project's README](projects/{name}/README.md) lists its files, and
what to change for your own task; `common/` holds the command line, run folder, callbacks and comparison.

```sh
make train                                          # installs everything and trains
make test                                           # installs everything and runs the tests
make check                                          # ruff and mypy
python -m common.compare                            # comparison of all runs
python -m common.multirun {name} --seeds 0 1 2
```

MIT license, see `LICENSE`.
"""


def template_names() -> list[str]:
    """Projects of this repository."""
    return sorted(path.parent.name for path in (ROOT / "projects").glob("*/train.py"))


def project_files(renaming: Renaming, link_template: bool) -> dict[Path, str | Path]:
    """Relative path of each file of the new project -> its text, or the file that it is a copy of.

    Args:
        renaming: Old and new names.
        link_template: Whether the template stands beside the new project, so that its README can be linked, and its tests
            find all packages of this repository.
    """
    old, new = renaming.old, renaming.new
    files: dict[Path, str | Path] = {}
    for root, folder in ((ROOT, "projects"), (SETTINGS, "tests/projects")):
        for source in source_files(root / folder / old):
            below = source.relative_to(root / folder / old)
            path = Path(folder, new, below.with_name(new_test_name(below.name, renaming)))
            if path.name == "README.md":
                files[path] = new_readme(source.read_text(), renaming, link_template)
            elif path.suffix == ".yaml":
                files[path] = new_recipe(source.read_text(), renaming)
            elif path.suffix != ".py":
                files[path] = source
            elif link_template or not imports_left_out(source.read_text()):
                files[path] = renaming.apply(source.read_text())
    return files


def imports_left_out(code: str) -> bool:
    """Whether code imports a package that a new repository does without: tests that compare with the course do."""
    return re.search(rf"(?m)^from ({'|'.join(NOT_COPIED)})\b", code) is not None


def repository_files(renaming: Renaming) -> dict[Path, str | Path]:
    """All files of a new repository with one project: the project, `common`, settings, license, README."""
    name = renaming.new
    files = project_files(renaming, link_template=False)
    copies = [(ROOT, path) for path in [*source_files(ROOT / "common"), ROOT / "projects" / "__init__.py"]]
    copies += [(SETTINGS, SETTINGS / path) for path in COPIED]
    for root, path in copies:
        files[path.relative_to(root)] = path.read_text() if path.suffix == ".py" else path
    code = "\n".join(text for path, text in files.items() if path.suffix == ".py" and isinstance(text, str))
    for path, text in files.items():
        files[path] = text.replace(SUITE, distribution(name)) if isinstance(text, str) else text
    makefile = (SETTINGS / "Makefile").read_text()
    files[Path("Makefile")] = re.sub(r"(?m)^PROJECT \?= .*$", f"PROJECT ?= {name}", makefile)
    files[Path("pyproject.toml")] = new_pyproject((SETTINGS / "pyproject.toml").read_text(), renaming, code)
    files[Path("README.md")] = REPOSITORY_README.format(name=name, template=renaming.old)
    return files


def source_files(folder: Path) -> list[Path]:
    """Files in and below `folder`, without caches, hidden files and what a wheel bundles."""
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    paths = [path for path in paths if not any(part.startswith((".", "__pycache__")) for part in path.parts)]
    return [folder / path for path in paths if not (folder / path).is_relative_to(BUNDLED) or folder.is_relative_to(BUNDLED)]
