"""Mutants of the solutions, and those that their checks pass: `python -m tests.foundations.mutants [CHAPTER|EXERCISE ...]`.

A mutant is a solution with one operator, constant, axis, comparison, argument order or statement of a body changed; what
the learner's file has from the start, signatures and settings at the top, stays. Why a check rightly passes some is in
survivors.json: {exercise: {description: reason}}, the description without its line number. The exit code is 1 if it passes
another one.
"""

from __future__ import annotations

import ast
import copy
import json
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from foundations.catalog import CHAPTERS, all_exercises, is_prediction, solution_path
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
SURVIVORS = Path(__file__).with_name("survivors.json")
COMMUTATIVE = ("max", "min", "maximum", "minimum", "zip", "isclose", "allclose", "equal")


def mutants(tree: ast.Module) -> Iterator[tuple[str, ast.Module]]:
    """Each mutant of a module with a description."""
    nodes = [node for definition in tree.body if not _is_given(definition) for node in ast.walk(definition)]
    given = {id(part) for node in nodes if isinstance(node, ast.arguments) for part in ast.walk(node)}
    nodes = [node for node in nodes if id(node) not in given]
    for node in nodes:
        for keyword in getattr(node, "keywords", []):
            if keyword.arg == "strict":
                keyword.value.of_strict = True
    of_code = {id(node) for node in nodes}
    for position, original in enumerate(ast.walk(tree)):
        for number in range(2):
            if id(original) not in of_code or not _mutate(copy.deepcopy(original), number):
                continue
            changed = copy.deepcopy(tree)
            node = next(islice(ast.walk(changed), position, None))
            text = _mutate(node, number)
            yield f"line {getattr(node, 'lineno', '?')}: {text}", changed


def _name(node: ast.Call) -> str:
    return ast.unparse(node.func).rpartition(".")[2]


def _is_given(node: ast.stmt) -> bool:
    """Whether the learner's file has the statement from the start, as it has signatures: it is no one's mistake."""
    return not isinstance(node, ast.FunctionDef | ast.ClassDef)


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


def mutants_of(exercise: str) -> dict[str, str]:
    """Description of each mutant of an exercise's solution, by its code."""
    tree = ast.parse(solution_path(exercise).read_text())
    found = {ast.unparse(changed): text for text, changed in mutants(tree)}
    found.pop(ast.unparse(tree), None)
    return found


def without_line(text: str) -> str:
    """Description of a mutant without its line number, as survivors.json has it."""
    return text.partition(": ")[2]


def survivors(exercise: str) -> tuple[int, list[str]]:
    """Number of mutants of an exercise, and those that its check passes. Raises RuntimeError if it fails the solution."""
    found = mutants_of(exercise)
    codes = [solution_path(exercise).read_text(), *found]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        paths = []
        for i, code in enumerate(codes):
            path = Path(folder) / str(i) / f"{exercise}.py"
            path.parent.mkdir()
            path.write_text(code)
            paths.append(str(path))
        results = pool.map(
            lambda path: run_sandboxed("foundations.worker:check_file", exercise, path, {}, seconds=60), paths
        )
        passed = [result.value is not None and not result.value.failed for result in results]
    if not passed[0]:
        raise RuntimeError(f"the check of {exercise} fails its solution: that all mutants fail would say nothing")
    return len(found), [text for text, alive in zip(found.values(), passed[1:], strict=True) if alive]


def is_preloaded() -> bool:
    """Whether this process has what each check with device "meta" would import for a second; called in the sandbox."""
    return "torch._dynamo" in sys.modules


def of_chapter(name: str, exercises: list[str], explained: dict[str, dict[str, str]]) -> int:
    """Prints the survivors of a chapter's exercises, explained or not. Returns how many are not."""
    total, reasons, unexplained = 0, 0, 0
    for exercise in exercises:
        count, alive = survivors(exercise)
        lines = []
        for text in alive:
            reason = explained.get(exercise, {}).get(without_line(text), "")
            lines.append(f"{text}  ({reason})" if reason else f"{text}  NOT EXPLAINED")
            reasons, unexplained = reasons + bool(reason), unexplained + (not reason)
        total += count
        print(f"{name}/{exercise}: {count - len(alive)} of {count} fail", *lines, sep="\n    ", flush=True)
    failing = total - reasons - unexplained
    percent = 100 * failing / max(total, 1)
    print(
        f"{name}: {failing} of {total} mutants fail ({percent:.1f} %), "
        f"{reasons} survivors are explained, {unexplained} are not\n",
        flush=True,
    )
    return unexplained


def main() -> int:
    """Survivors of each exercise that is named, by itself or by its chapter, or of all. Returns the exit code."""
    PRELOADED.append("torch._dynamo")  # see conftest.py
    unknown = set(sys.argv[1:]) - {chapter.name for chapter in CHAPTERS} - set(all_exercises())
    if unknown:
        print(f"no such chapter or exercise: {', '.join(sorted(unknown))}")
        return 2
    if not run_sandboxed("tests.foundations.mutants:is_preloaded", seconds=60).value:
        print("(checks are forked from a server without torch._dynamo: those with device meta take a second longer)")
    explained, unexplained = json.loads(SURVIVORS.read_text()), 0
    for chapter in CHAPTERS:
        exercises = [
            exercise
            for exercise in chapter.exercises
            if not is_prediction(exercise) and (not sys.argv[1:] or {chapter.name, exercise} & set(sys.argv[1:]))
        ]
        if exercises:
            unexplained += of_chapter(chapter.name, exercises, explained)
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
