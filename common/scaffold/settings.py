"""Settings of a new repository: its pyproject.toml requires what the new project uses, and no more."""

from __future__ import annotations

import re
import tomllib

from common.scaffold.renaming import Renaming

SUITE = "lightning-capstones"  # this repository's name for pip
NOT_COPIED = ("benchmarks", "foundations")  # packages that a new repository does without
MODULES = {"pillow": "PIL"}  # requirement -> the module it brings, where that has another name


def distribution(name: str) -> str:
    """Name for pip of the repository of the project `name`."""
    return name.replace("_", "-")


def imported_module(requirement: str) -> str:
    """Module that a requirement brings.

    >>> imported_module("pillow>=10.0"), imported_module("gymnasium[classic-control]>=1.1")
    ('PIL', 'gymnasium')
    """
    name = re.split(r"[^\w-]", requirement, maxsplit=1)[0]
    return MODULES.get(name, name.replace("-", "_"))


def new_pyproject(text: str, renaming: Renaming, code: str) -> str:
    """This repository's pyproject.toml for a repository that has one project.

    A requirement stays if `code` imports it, an extra if a message in `code` names it.

    Args:
        text: This repository's pyproject.toml.
        renaming: Old and new names.
        code: All code of the new repository, tests included, with `SUITE` as its name.
    """
    project = tomllib.loads(text)["project"]
    imported = set(re.findall(r"(?m)^\s*(?:from|import) (\w+)", code))
    for requirement in project["dependencies"]:
        if imported_module(requirement) not in imported:
            text = text.replace(f'    "{requirement}",\n', "", 1)
    unnamed = [extra for extra in project["optional-dependencies"] if extra != "dev" and f"{SUITE}[{extra}]" not in code]
    for extra in unnamed:
        text = re.sub(rf"(?m)^{extra} = .*\n", "", text)

    def dev_extras(line: re.Match[str]) -> str:
        """Line of the extra `dev` that names other extras, with those that stay."""
        kept = ",".join(extra for extra in line[1].split(",") if extra not in unnamed)
        return f'    "{SUITE}[{kept}]",\n' if kept else ""

    text = re.sub(rf'(?m)^    "{SUITE}\[(.*)\]",\n', dev_extras, text)
    description = f"{renaming.new}, created from {renaming.old} of Lightning Capstones."
    text = re.sub(r"(?m)^description = .*$", f'description = "{description}"', text)
    text = text.replace('dynamic = ["version"]', 'version = "0.1.0"')
    for table in (r"\[tool\.hatch\.version\]", r"\[\[tool\.mypy\.overrides\]\]"):  # the suite's version, and the course
        text = re.sub(rf"(?ms)^{table}.*?\n\n", "", text)
    for package in NOT_COPIED:
        text = text.replace(f'"{package}", ', "")
    return text.replace(SUITE, distribution(renaming.new))
