"""Stubs: the learner's files, made from our solutions by taking the bodies away."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

from foundations.catalog import CASES, find_chapter, is_prediction, solution_path
from foundations.faults import all_cases, find_case, plant

TODO = "raise NotImplementedError"


def make_stub(exercise: str, case: int = 1) -> str:
    """Text of the learner's file: the solution's imports, signatures and docstrings, as percent cells.

    Names that begin with an underscore are the solution's own helpers and are left out. Of a broken training the file
    is the solution with the faults of the case of that number.
    """
    if exercise in CASES:
        return _make_broken(exercise, case)
    text = solution_path(exercise).read_text(encoding="utf-8")
    tree = ast.parse(text)
    title = (ast.get_docstring(tree) or exercise).splitlines()
    lines = text.splitlines()
    cells = [_heading(exercise, title)]
    code: list[str] = []
    for node in tree.body[1:]:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            if not node.name.startswith("_"):
                code.append("\n\n" + "\n".join(_without_body(node, lines)))
        else:
            code.append("\n".join(lines[node.lineno - 1 : node.end_lineno]))
    cells.append("# %%\n" + "\n".join(code).strip("\n"))
    return "\n\n".join(cells) + "\n"


def is_stub(exercise: str, path: Path, case: int = 0) -> bool:
    """Whether a file is the stub as it is made today. `case` is the one that was drawn; 0 for the one in its heading."""
    text = path.read_text(encoding="utf-8", errors="replace")
    return text == make_stub(exercise, find_case(exercise, text, case).number if exercise in CASES else 1)


def _make_broken(exercise: str, case: int) -> str:
    """The learner's file of a broken training."""
    text = plant(exercise, all_cases(exercise)[case - 1].changes)
    tree = ast.parse(text)
    title = [*(ast.get_docstring(tree) or exercise).splitlines(), "", f"Case {case}."]
    code = "\n".join(text.splitlines()[tree.body[0].end_lineno :]).strip("\n")
    return f"{_heading(exercise, title)}\n\n# %%\n{code}\n"


def _heading(exercise: str, title: list[str]) -> str:
    chapter = find_chapter(exercise).name
    text = [
        f"# {title[0]}",
        *title[1:],
        "",
        f"Lesson: foundations/lessons/{chapter}.md. Check: `python -m foundations check {exercise}`",
    ]
    return "# %% [markdown]\n" + "\n".join(f"# {line}".rstrip() for line in text)


def _without_body(node: ast.stmt, lines: list[str]) -> list[str]:
    """Lines of a function or class, its body replaced: of a class, the bodies of its methods."""
    first = min([node.lineno, *(item.lineno for item in getattr(node, "decorator_list", []))])
    if isinstance(node, ast.ClassDef):
        methods = [item for item in node.body if isinstance(item, ast.FunctionDef) and _is_public(item.name)]
        head = _head_end(node, first)
        kept = lines[first - 1 : head]
        for method in methods:
            kept += ["", *_without_body(method, lines)]
        return kept if methods else [*kept, f"{' ' * (node.col_offset + 4)}{TODO}"]
    assert isinstance(node, ast.FunctionDef)
    return [*lines[first - 1 : _head_end(node, first)], f"{' ' * (node.col_offset + 4)}{TODO}"]


def _is_public(name: str) -> bool:
    return not name.startswith("_") or (name.startswith("__") and name.endswith("__"))


def _head_end(node: ast.FunctionDef | ast.ClassDef, first: int) -> int:
    """Last line of the signature and docstring."""
    body = node.body[0]
    if isinstance(body, ast.Expr) and isinstance(body.value, ast.Constant) and isinstance(body.value.value, str):
        return body.end_lineno or first
    return body.lineno - 1 - len(getattr(body, "decorator_list", []))


def write_stubs(folder: Path, exercises: list[str], cases: Mapping[str, int] | None = None) -> list[str]:
    """Writes the stubs that `folder` lacks; returns their ids. A file that exists is never overwritten.

    Args:
        folder: The learner's folder.
        exercises: Their ids.
        cases: Number of the case for each broken training; the first where there is none.
    """
    written = []
    for exercise in exercises:
        path = folder / find_chapter(exercise).name / f"{exercise}.py"
        if is_prediction(exercise) or path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(make_stub(exercise, (cases or {}).get(exercise, 1)), encoding="utf-8")
        written.append(exercise)
    return written
