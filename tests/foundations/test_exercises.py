"""Every exercise: its stub fails with a helpful line, its solution passes, each wrong answer gets its own message."""

import ast
import re

import pytest
import torch

from foundations.catalog import CASES, CHAPTERS, ROOT, TRAINING, all_exercises, is_prediction, load_exercise, solution_path
from foundations.report import failure_lines, locate
from foundations.sandbox import run_sandboxed
from foundations.stubs import make_stub
from foundations.viewing import find_object

WRITTEN = [name for name in all_exercises() if not is_prediction(name)]
STUBS = [name for name in WRITTEN if name not in CASES]  # a broken training is given whole: tests of test_cases


def slow_ones_marked(names):
    return [pytest.param(name, marks=[pytest.mark.slow] if name in TRAINING else []) for name in names]


@pytest.mark.parametrize("name", slow_ones_marked(WRITTEN))
def test_solution_passes_wrong_answers_are_named_and_other_styles_pass(name):
    task = load_exercise(name)
    assert len(task.wrong_answers) >= 2
    result = run_sandboxed("foundations.worker:check_variants", name, seconds=240)
    assert result.value is not None, (result.ended, result.printed)
    solution, wrong, right = result.value
    assert not solution.failed, solution
    for variant, outcome in zip(task.wrong_answers, wrong, strict=True):
        assert outcome.failed, f"{variant.replacement.__name__} passes"
        assert outcome.probably == variant.message, (
            f"{variant.replacement.__name__} is taken for: {outcome.probably} {outcome}"
        )
    for variant, outcome in zip(task.other_answers, right, strict=True):
        assert not outcome.failed, (variant.replacement.__name__, outcome)


@pytest.mark.parametrize("name", slow_ones_marked(STUBS))
def test_stub_does_not_pass_and_says_where_to_begin(name, tmp_path):
    stub = tmp_path / f"{name}.py"
    stub.write_text(make_stub(name))
    result = run_sandboxed("foundations.worker:check_file", name, str(stub), {}, seconds=60)
    assert result.value is not None and result.value.unwritten, result
    lines = failure_lines(name, result.value, 0.1, 0)
    assert "NOT WRITTEN YET" in lines[0] and f"hint {name}" in lines[1]


@pytest.mark.parametrize("name", STUBS)
def test_stub_has_no_line_of_the_solution(name):
    stub, solution = ast.parse(make_stub(name)), ast.parse(solution_path(name).read_text())
    bodies = [ast.dump(node) for node in ast.walk(stub) if isinstance(node, ast.Return | ast.For | ast.While | ast.With)]
    assert not bodies, "a stub holds signatures and docstrings alone"
    names = {node.name for node in solution.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    kept = {node.name for node in stub.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert kept == {name for name in names if not name.startswith("_")}


@pytest.mark.parametrize("name", STUBS)
def test_stub_imports_the_modules_that_hints_and_messages_name(name):
    task = load_exercise(name)
    text = " ".join([*task.hints, *(variant.message for variant in task.wrong_answers)])
    imported = {
        alias.name for node in ast.parse(make_stub(name)).body if isinstance(node, ast.Import) for alias in node.names
    }
    assert set(re.findall(r"\b(copy|itertools|functools|contextlib|math)\.[a-z]", text)) <= imported


@pytest.mark.parametrize("name", WRITTEN)
def test_text_of_an_exercise_is_complete(name):
    task = load_exercise(name)
    assert all(task.hints) and task.why and task.minutes > 0
    assert locate(task.link)
    assert not task.source or find_object(task.source)
    tree = ast.parse(solution_path(name).read_text())
    assert (ast.get_docstring(tree) or "").splitlines()[0] == task.title
    imported = [node.module for node in tree.body if isinstance(node, ast.ImportFrom)]
    used = [module.partition(".")[2] for module in imported if module.partition(".")[0] in {c.name for c in CHAPTERS}]
    assert set(used) == set(task.uses) and all(all_exercises().index(other) < all_exercises().index(name) for other in used)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.name)
def test_chapter_ends_with_its_challenge(chapter):
    levels = [load_exercise(name).level for name in chapter.exercises if not is_prediction(name)]
    assert levels[-1] == "challenge" and levels.count("challenge") == 1


def torch_names(tree: ast.Module) -> set[str]:
    """Names of torch that a solution uses: `torch.f`, `nn.C`, `F.f`, and methods of tensors."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            of_torch = isinstance(node.value, ast.Name) and node.value.id in ("torch", "nn", "F")
            of_self = isinstance(node.value, ast.Name) and node.value.id == "self"
            of_python = any(hasattr(kind, node.attr) for kind in (str, list, dict))
            if of_torch or (hasattr(torch.Tensor, node.attr) and not of_python and not of_self):
                names.add(node.attr)
    return names - {"Tensor", "Module", "shape", "dtype", "device", "ndim", "nn", "float32", "int64", "float64", "Generator"}


@pytest.mark.parametrize("name", WRITTEN)
def test_lessons_have_every_torch_name_that_a_solution_needs(name):
    chapter = next(number for number, chapter in enumerate(CHAPTERS) if name in chapter.exercises)
    lessons = "\n".join((ROOT / "lessons" / f"{earlier.name}.md").read_text() for earlier in CHAPTERS[: chapter + 1])
    words = set(re.findall(r"\w+", lessons))
    missing = torch_names(ast.parse(solution_path(name).read_text())) - words
    assert not missing
