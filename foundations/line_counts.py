"""Lines of the five training loops, by hand and as LightningModules: `python -m foundations.line_counts` prints a table."""

from __future__ import annotations

import ast
from pathlib import Path

from foundations.catalog import SOLUTIONS

LOOPS = {  # file and function of the loop by hand -> class in lightning_modules.py
    "image_loop": ("train_images", "ImageModule"),
    "regression_loop": ("train_regression", "RegressionModule"),
    "sequence_loop": ("train_tagger", "SequenceModule"),
    "imbalanced_loop": ("train_imbalanced", "ImbalancedModule"),
    "multilabel_loop": ("train_multilabel", "MultilabelModule"),
}
HELPERS = {"sequence_loop": ("_pad",)}  # functions that the loop by hand needs besides; f1_score serves both sides
SHARED = ("LoopModule", "fit")  # of lightning_modules.py, once for all five


def code_lines(path: Path, *names: str) -> int:
    """Lines of code of functions or classes: no blank lines, comments, docstrings or signatures' continuation lines.

    Args:
        path: Python file.
        names: Functions or classes of its top level.
    """
    text = path.read_text(encoding="utf-8")
    nodes = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return sum(len(_lines(nodes[name], text.splitlines())) for name in names)


def _lines(top: ast.FunctionDef | ast.ClassDef, text: list[str]) -> set[int]:
    """Numbers of the lines that hold code."""
    numbers = set(range(top.lineno, (top.end_lineno or top.lineno) + 1))
    for node in ast.walk(top):
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        first = node.body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            numbers -= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
        numbers -= set(range(node.lineno + 1, first.lineno))  # a signature counts as one line, however it is broken
    return {number for number in numbers if text[number - 1].strip() and not text[number - 1].strip().startswith("#")}


def table() -> str:
    """The table of the lesson, in Markdown."""
    folder = SOLUTIONS / "loops"
    modules = folder / "lightning_modules.py"
    rows = []
    for name, (function, module) in LOOPS.items():
        by_hand = code_lines(folder / f"{name}.py", function, *HELPERS.get(name, ()))
        rows.append((f"{name}, `{module}`", by_hand, code_lines(modules, module)))
    rows.append((f"for all five: `{'`, `'.join(SHARED)}`", 0, code_lines(modules, *SHARED)))
    rows.append(("together", sum(row[1] for row in rows), sum(row[2] for row in rows)))
    lines = ["| | by hand | with Lightning | saved |", "|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {hand} | {module} | {hand - module} |" for name, hand, module in rows)])


if __name__ == "__main__":
    print(table())
