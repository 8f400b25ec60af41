"""Mutants of the solutions, and those that their checks pass: `python -m tests.foundations.mutants [CHAPTER ...]`.

A mutant is a solution with one operator, constant, axis, comparison, argument order or statement changed.
"""

from __future__ import annotations

import ast
import copy
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from foundations.catalog import CHAPTERS, is_prediction, solution_path
from foundations.sandbox import PRELOADED, run_sandboxed

OPERATORS: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.MatMult: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
COMMUTATIVE = ("max", "min", "maximum", "minimum", "zip", "isclose", "allclose", "equal")


def mutants(tree: ast.Module) -> Iterator[tuple[str, ast.Module]]:
    """Each mutant of a module with a description."""
    nodes = [node for definition in tree.body if not _is_text(definition) for node in ast.walk(definition)]
    positions = [i for i, node in enumerate(ast.walk(tree)) if any(node is other for other in nodes)]
    for node in nodes:
        for keyword in getattr(node, "keywords", []):
            if keyword.arg == "strict":
                keyword.value.of_strict = True
    for position in positions:
        for number in range(2):
            changed = copy.deepcopy(tree)
            node = list(ast.walk(changed))[position]
            text = _mutate(node, number)
            if text:
                yield f"line {getattr(node, 'lineno', '?')}: {text}", changed


def _name(node: ast.Call) -> str:
    return ast.unparse(node.func).rpartition(".")[2]


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr | ast.Import | ast.ImportFrom)


def _mutate(node: ast.AST, number: int) -> str:
    """Changes `node` in the way of `number`, and says how; empty if there is no such way."""
    if isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in OPERATORS and number == 0:
        node.op = OPERATORS[type(node.op)]()
        return f"operator in {ast.unparse(node)[:60]}"
    if isinstance(node, ast.Compare) and type(node.ops[0]) in OPERATORS and number == 0:
        node.ops[0] = OPERATORS[type(node.ops[0])]()
        return f"comparison in {ast.unparse(node)[:60]}"
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        if number == 1 and node.value != 1:  # a negated dimension is often the same one
            return ""
        node.value = node.value + 1 if number == 0 else -node.value
        return f"constant {node.value}"
    if isinstance(node, ast.Constant) and isinstance(node.value, bool) and number == 0 and not hasattr(node, "of_strict"):
        node.value = not node.value
        return f"constant {node.value}"
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not | ast.Invert) and number == 0:
        node.op = ast.UAdd()
        return f"without the sign in {ast.unparse(node)[:60]}"
    if isinstance(node, ast.Call) and len(node.args) >= 2 and number == 0 and _name(node) not in COMMUTATIVE:
        node.args[0], node.args[1] = node.args[1], node.args[0]
        return f"order of arguments in {ast.unparse(node)[:60]}"
    if isinstance(node, ast.Call) and node.keywords and number == 1 and node.keywords[-1].arg != "strict":
        dropped = node.keywords.pop()
        return f"without {dropped.arg}= in {ast.unparse(node)[:60]}"
    if isinstance(node, ast.FunctionDef | ast.For | ast.If | ast.With | ast.While) and number == 0:
        for i, statement in enumerate(node.body):
            if isinstance(statement, ast.AugAssign) or (
                isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
            ):
                node.body[i] = ast.Pass()
                return f"without {ast.unparse(statement)[:60]}"
    return ""


def survivors(exercise: str) -> tuple[int, list[str]]:
    """Number of mutants of an exercise, and those that its check passes."""
    tree = ast.parse(solution_path(exercise).read_text())
    original = ast.unparse(tree)
    found = {ast.unparse(changed): text for text, changed in mutants(tree)}
    found.pop(original, None)
    alive = []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        paths = []
        for i, code in enumerate(found):
            path = Path(folder) / str(i) / f"{exercise}.py"
            path.parent.mkdir()
            path.write_text(code)
            paths.append(str(path))
        results = pool.map(
            lambda path: run_sandboxed("foundations.worker:check_file", exercise, path, {}, seconds=60), paths
        )
        for text, result in zip(found.values(), results, strict=True):
            if result.value is not None and not result.value.failed:
                alive.append(text)
    return len(found), alive


def main() -> None:
    """Prints the survivors of each exercise of the chapters that are named, or of all."""
    PRELOADED.append("torch._dynamo")  # see conftest.py
    total = alive = 0
    for chapter in CHAPTERS:
        for exercise in chapter.exercises:
            named = not sys.argv[1:] or chapter.name in sys.argv[1:] or exercise in sys.argv[1:]
            if named and not is_prediction(exercise):
                count, left = survivors(exercise)
                total, alive = total + count, alive + len(left)
                print(f"{chapter.name}/{exercise}: {count - len(left)} of {count} fail", *left, sep="\n    ", flush=True)
    print(f"{total - alive} of {total} mutants fail ({100 * (total - alive) / max(total, 1):.1f} %)")


if __name__ == "__main__":
    main()
