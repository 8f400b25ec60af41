"""One project's text made another's: module paths, names and classes, but no data set's name; figures stay behind."""

from __future__ import annotations

import re
from dataclasses import dataclass

README = """# {new}

Begun from {origin}, which says how everything works.

{commands}
## Figures

None yet. `python -m common.multirun {new} --seeds 0 1 2` makes some, `python -m common.compare runs/{new}` lists them.

{rooms}
"""


@dataclass
class Renaming:
    """From the project `old` to `new`, and from each old class to a new one."""

    old: str
    new: str
    classes: dict[str, str]

    def apply(self, text: str) -> str:
        """`text` with the new names.

        The project's name is replaced where it is a word of its own, or behind `projects/`, `runs/` or W&B's `capstones-`.
        In a hub id or in the label of a data set, as `org/cifar10` or `cifar10-jpeg75`, it means the data, and stays.

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
    """The classes of `source` whose names begin with the project's, each with its new name.

    >>> class_renames("class CIFAR10Module(LightningModule):", "cifar10", "my_task")
    {'CIFAR10Module': 'MyTaskModule'}
    """
    begins = old.replace("_", "")
    camel = "".join(part[:1].upper() + part[1:] for part in new.split("_"))
    names = re.findall(r"(?m)^class (\w+)", source)
    return {name: camel + name[len(begins) :] for name in names if name.lower().startswith(begins)}


def new_test_name(name: str, renaming: Renaming) -> str:
    """The name of a test file, with the new project's in it, as pytest wants every test file's to be different.

    >>> [new_test_name(name, Renaming("bert_sentiment", "my_task", {})) for name in ("test_bert_runs.py", "conftest.py")]
    ['test_my_task_runs.py', 'conftest.py']
    """
    if not name.startswith("test_"):
        return name
    rest = name.removeprefix("test_")
    for begins in (renaming.old, renaming.old.partition("_")[0]):
        if rest == f"{begins}.py":
            return f"test_{renaming.new}.py"
        rest = rest.removeprefix(f"{begins}_")
    return f"test_{renaming.new}_{rest}"


def unmeasured(recipe: str) -> str:
    """A recipe's text without the figure that another project has reached with it."""
    return re.sub(r"(?m)^# Reaches:.*\n(?:#  +.*\n)*", "# Reaches:  not measured yet\n", recipe)


def fresh_readme(text: str, renaming: Renaming, linked: bool) -> str:
    """A README with the commands and the rooms of the template's, and nothing that has been measured.

    Args:
        text: the template's.
        renaming: what is called how.
        linked: whether the template stands beside the new project.
    """
    commands = re.search(r"```sh\n.*?```\n", text, re.DOTALL)
    rooms = re.search(r"## The rooms\n.*?(?=\n## |\Z)", text, re.DOTALL)
    return README.format(
        new=renaming.new,
        origin=f"[`{renaming.old}`](../{renaming.old}/README.md)" if linked else f"`{renaming.old}` of Lightning Capstones",
        commands=renaming.apply(commands[0]) if commands else "",
        rooms=renaming.apply(rooms[0]).rstrip() if rooms else "",
    )
