"""Renaming: the text of one project under the names of another, without its results."""

from __future__ import annotations

import re
from dataclasses import dataclass

README = """# {new}

Created from {origin}.

{commands}
{sections}
## Results

None yet. `python -m common.multirun {new} --seeds 0 1 2` trains, `python -m common.compare runs/{new}` lists the results.
"""
RESULT_SECTIONS = ("Results", "What was tried")  # of a README: what the template has reached
# in a paragraph or list item that a new project cannot keep: a result of the template, or what only this repository has
NOT_KEPT = re.compile(r"\]\(\.\./\.\./|\bbenchmarks\.|\bfoundations/|common\.scaffold")


@dataclass
class Renaming:
    """Names of the project `old` -> names of the project `new`; `classes` maps each old class to the new one."""

    old: str
    new: str
    classes: dict[str, str]

    def apply(self, text: str) -> str:
        """`text` with the new names.

        The project's name is replaced where it is a word of its own, or after `projects/`, `runs/` or W&B's `capstones-`.
        In a hub id or a data set's label, as `org/cifar10` or `cifar10-jpeg75`, it means the data, and stays.

        >>> Renaming("cifar10", "my_task", {"CIFAR10Data": "MyTaskData"}).apply("runs/cifar10: CIFAR10Data('org/cifar10')")
        "runs/my_task: MyTaskData('org/cifar10')"
        """
        old = re.escape(self.old)
        text = re.sub(rf"(?<![\w/-]){old}(?![\w-])", self.new, text)
        text = re.sub(rf"\b(projects/|runs/|capstones-){old}(?![\w-])", rf"\g<1>{self.new}", text)
        for before, after in self.classes.items():
            text = re.sub(rf"\b{before}\b", after, text)
        return text


def class_renames(source: str, old: str, new: str) -> dict[str, str]:
    """Classes of `source` whose names begin with the project's -> their new names.

    >>> class_renames("class CIFAR10Module(LightningModule):", "cifar10", "my_task")
    {'CIFAR10Module': 'MyTaskModule'}
    """
    prefix = old.replace("_", "")
    camel = "".join(part[:1].upper() + part[1:] for part in new.split("_"))
    names = re.findall(r"(?m)^class (\w+)", source)
    return {name: camel + name[len(prefix) :] for name in names if name.lower().startswith(prefix)}


def new_test_name(name: str, renaming: Renaming) -> str:
    """Name of a test file for the new project, as pytest needs a different one for each; other files keep theirs.

    >>> [new_test_name(name, Renaming("bert_sentiment", "my_task", {})) for name in ("test_bert_runs.py", "conftest.py")]
    ['test_my_task_runs.py', 'conftest.py']
    """
    if not name.startswith("test_"):
        return name
    rest = name.removeprefix("test_")
    for prefix in (renaming.old, renaming.old.partition("_")[0]):
        if rest == f"{prefix}.py":
            return f"test_{renaming.new}.py"
        rest = rest.removeprefix(f"{prefix}_")
    return f"test_{renaming.new}_{rest}"


def new_recipe(text: str, renaming: Renaming) -> str:
    """Recipe under the new names, without the result that the template reached with it."""
    return re.sub(r"(?m)^# Result:.*\n(?:#  +.*\n)*", "# Result:   not measured yet\n", renaming.apply(text))


def new_readme(text: str, renaming: Renaming, link_template: bool) -> str:
    """README with the template's commands and explanations, under the new names, and none of its results.

    Args:
        text: README of the template.
        renaming: Old and new names.
        link_template: Whether the template stands beside the new project, so that its README can be linked.
    """
    old, new = renaming.old, renaming.new
    opening, *sections = re.split(r"(?m)^## ", text)
    commands = re.findall(r"```\w+\n.*?```\n", opening, re.DOTALL)
    kept = [f"## {section}" for section in sections if section.partition("\n")[0] not in RESULT_SECTIONS]
    return README.format(
        new=new,
        origin=f"[`{old}`](../{old}/README.md)" if link_template else f"`{old}` of Lightning Capstones",
        commands="\n".join(renaming.apply(re.sub(r".*common\.scaffold.*\n", "", block)) for block in commands),
        sections="\n".join(renaming.apply(without_results(section)).rstrip() + "\n" for section in kept),
    )


def without_results(section: str) -> str:
    """Section of a README without the paragraphs and list items that `NOT_KEPT` finds.

    >>> without_results("Text.\\n\\n![Plot](../../docs/a.png)\\n\\n- a\\n- `python -m benchmarks.gan`\\n- b\\n")
    'Text.\\n\\n- a\\n- b\\n'
    """
    section = re.sub(r"(?m)^(?:- |!\[).*\n(?:  .*\n)*", lambda item: "" if NOT_KEPT.search(item[0]) else item[0], section)
    return "\n\n".join(part for part in re.split(r"\n{2,}", section) if not NOT_KEPT.search(part))
