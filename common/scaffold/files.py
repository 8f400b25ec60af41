"""Files of a new project: which there are, and what is in each."""

from __future__ import annotations

import re
from pathlib import Path

from common.errors import UserError
from common.scaffold.renaming import Renaming, new_readme, new_recipe, new_test_name

ROOT = Path(__file__).resolve().parents[2]
SUITE = "lightning-capstones"  # this repository's name for pip
# what a new repository takes over besides `common` and the project
COPIED = ["LICENSE", "Makefile", "pyproject.toml", ".gitignore", ".pre-commit-config.yaml", "projects/__init__.py"]
COPIED += ["tests/commands.py", "tests/image_layouts.py", "tests/conftest.py", "tests/projects/conftest.py"]
COPIED += ["tests/projects/test_sweeps.py", "tests/trained.py"]
REPOSITORY_README = """# {name}

Created from `{template}` of Lightning Capstones. The [project's README](projects/{name}/README.md) lists its files;
`common/` holds the command line, run folder, callbacks and comparison.

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
        link_template: Whether the template stands beside the new project, so that its README can be linked.

    Raises:
        UserError: The template's tests are not installed.
    """
    old, new = renaming.old, renaming.new
    if not (ROOT / "tests" / "projects" / old).is_dir():
        raise UserError(f"--from {old}: its tests are not installed; run this in a clone of the repository")
    files: dict[Path, str | Path] = {}
    for folder in ("projects", "tests/projects"):
        for source in source_files(ROOT / folder / old):
            below = source.relative_to(ROOT / folder / old)
            path = Path(folder, new, below.with_name(new_test_name(below.name, renaming)))
            if path.name == "README.md":
                files[path] = new_readme(source.read_text(), renaming, link_template)
            elif path.suffix == ".yaml":
                files[path] = new_recipe(source.read_text(), renaming)
            else:
                files[path] = renaming.apply(source.read_text()) if path.suffix == ".py" else source
    return files


def repository_files(renaming: Renaming) -> dict[Path, str | Path]:
    """The same for what a new repository has besides the project: `common`, settings, license, README."""
    name = renaming.new
    files: dict[Path, str | Path] = {}
    for path in [*source_files(ROOT / "common"), *(ROOT / copied for copied in COPIED)]:
        is_text = path.suffix in (".py", ".toml")
        files[path.relative_to(ROOT)] = path.read_text().replace(SUITE, name.replace("_", "-")) if is_text else path
    settings, makefile = str(files[Path("pyproject.toml")]), (ROOT / "Makefile").read_text()
    description = f'description = "{name}, created from {renaming.old} of Lightning Capstones."'
    files[Path("pyproject.toml")] = re.sub(r"(?m)^description = .*$", description, settings)
    files[Path("Makefile")] = re.sub(r"(?m)^PROJECT \?= .*$", f"PROJECT ?= {name}", makefile)
    files[Path("README.md")] = REPOSITORY_README.format(name=name, template=renaming.old)
    return files


def source_files(folder: Path) -> list[Path]:
    """Files in and below `folder`, without caches and hidden files."""
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return [folder / path for path in paths if not any(part.startswith((".", "__pycache__")) for part in path.parts)]
