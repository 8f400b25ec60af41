"""Layout: imports run one way and never in a circle, files and functions stay small, every module and class is documented.

The directions are those of docs/design.md. An import for types alone, or inside a function, counts like any other.
"""

from __future__ import annotations

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("common", "foundations", "projects", "benchmarks")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
PRODUCT = [path for path in FILES if path.relative_to(ROOT).parts[0] != "benchmarks"]
CAPSTONES = sorted(path.parent.name for path in (ROOT / "projects").glob("*/train.py"))

# what each part of `common` may import, besides itself: the parts in the layers below it
LAYERS = [
    {"errors", "options", "version"},
    {"project", "trainer", "metrics", "nn", "io", "data"},
    {"callbacks", "plots", "debug"},
    {"run"},
    {"cli"},
    {"search", "export", "demo"},
    {"compare", "scaffold", "multirun"},
]
TOOLS = LAYERS[-1]
# files of a capstone that hold plain networks: torch, `common.nn`, and one another
NETWORK_FILES = {
    "networks",
    "batch_norm",
    "layers",
    "attention",
    "recurrent",
    "transformer",
    "mlp",
    "dcgan",
    "resnet",
    "augment",
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(path: Path) -> set[str]:
    """Modules that a file imports, as dotted names; of `from a import b` both a and a.b."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def import_graph() -> dict[str, set[str]]:
    """Module name -> the modules of the product that it imports itself; packages count only where they hold code."""
    known = {module_name(path): path for path in PRODUCT}
    graph = {}
    for name, path in known.items():
        found = imported_names(path) & known.keys()
        # `from package import module` names the package too, which is imported for the module's sake alone
        graph[name] = {each for each in found if not any(other.startswith(f"{each}.") for other in found)} - {name}
    return graph


GRAPH = import_graph()


def test_imports_form_no_circle():
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        pytest.fail(f"imports in a circle: {' -> '.join(reversed(error.args[1]))}")


def layer_of(module: str) -> int:
    part = module.split(".")[1]
    return next(number for number, layer in enumerate(LAYERS) if part in layer)


def test_common_imports_only_from_its_own_layer_and_those_below():
    for module, imports in GRAPH.items():
        if not module.startswith("common."):
            continue
        for each in imports:
            assert each.startswith("common."), f"{module} imports {each}: common knows no capstone"
            assert layer_of(each) <= layer_of(module), f"{module} imports {each}, which lies above it"
            if each.split(".")[1] in TOOLS:
                assert each.split(".")[1] == module.split(".")[1], f"{module} imports the tool {each}"


@pytest.mark.parametrize("capstone", CAPSTONES)
def test_a_capstone_imports_common_and_itself(capstone):
    own = f"projects.{capstone}"
    for module, imports in GRAPH.items():
        if not module.startswith(f"{own}."):
            continue
        file = module.split(".")[2]
        for each in imports:
            assert each.startswith((f"{own}.", "common.")) or each == own, f"{module} imports {each}"
            assert each.split(".")[1] not in TOOLS, f"{module} imports the tool {each}"
            below = each.removeprefix(f"{own}.")
            if file in NETWORK_FILES:
                allowed = below in NETWORK_FILES | {"config"} or each.startswith("common.nn.")
                assert allowed, f"{module} imports {each}: networks need torch and common.nn alone"
            if file == "module":
                assert below not in ("inference", "predict", "train"), f"{module} imports {each}"
            if file == "data":
                assert below not in NETWORK_FILES - {"augment"} | {"module", "inference"}, f"{module} imports {each}"


# what the course takes from the suite: what `--debug` and its callbacks report, and the sample that graduates train on
OF_THE_SUITE = {
    "foundations.diagnosis": ("common.debug", "common.callbacks"),
    "foundations.graduate": ("projects.seq2seq.synthetic",),
}


def test_the_course_stands_by_itself():
    for module, imports in GRAPH.items():
        for each in imports:
            if module.startswith("foundations."):
                allowed = each.startswith("foundations.") or each in ("common.errors", "common.cli.command")
                allowed |= each.startswith(OF_THE_SUITE.get(module, ()))
                assert allowed, f"{module} imports {each}"
            else:
                assert not each.startswith("foundations."), f"{module} imports {each}"


@pytest.mark.parametrize("path", [p for p in PRODUCT if p.stem in NETWORK_FILES and "projects" in p.parts], ids=module_name)
def test_networks_need_torch_alone(path):
    outside = {name.partition(".")[0] for name in imported_names(path)} - {"common", "projects"} - sys.stdlib_module_names
    assert outside <= {"torch"}, path


@pytest.mark.parametrize("path", [p for p in PRODUCT if "nn" in p.parts], ids=module_name)
def test_common_nn_needs_torch_alone(path):
    assert not {name for name in imported_names(path) if name.startswith("lightning")}


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_files_and_functions_are_short_and_documented(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400, "a file holds at most 400 lines"
    tree = ast.parse(text)
    assert ast.get_docstring(tree) or not tree.body, "a module begins with a docstring"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            length = node.end_lineno - node.lineno + 1
            assert length <= 60, f"{node.name} has {length} lines, at most 60 are allowed"
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and "exercises" not in path.parts:
            assert ast.get_docstring(node), f"class {node.name} has no docstring"


@pytest.mark.parametrize("capstone", CAPSTONES)
def test_every_capstone_has_the_same_files(capstone):
    names = {path.name for path in (ROOT / "projects" / capstone).glob("*")}
    assert {"train.py", "evaluate.py", "module.py", "data.py", "inference.py", "README.md", "recipes"} <= names
