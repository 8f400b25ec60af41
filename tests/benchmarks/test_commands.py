"""Commands in READMEs, recipes, docs and results: their modules, flags and values are those of the current parsers."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from benchmarks.results import RESULTS
from common.cli.evaluate import new_parser
from common.cli.parser import CapstoneCLI, TrainParser
from common.errors import UserError

ROOT = RESULTS.parent
CAPSTONES = sorted(path.parent.name for path in (ROOT / "projects").glob("*/train.py"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
DOCUMENTS += sorted((ROOT / "projects").glob("*/README.md"))
COMMAND = re.compile(r"python -m ((?:projects|common|benchmarks)\.[\w.]+)([^`|>;#]*)")
NOT_THERE = {"projects.my_task.train"}  # what `common.scaffold` makes


PARSE_KNOWN_ARGS = argparse.ArgumentParser.parse_known_args


class Parsed(BaseException):
    """Raised in place of what a command does with its arguments."""


def code_spans(text: str) -> Iterator[str]:
    """Code of a Markdown text: each line of a fenced block, and inline spans, which may go over a line's end."""
    fences = re.compile(r"^```\w*\n(.*?)^```", re.DOTALL | re.MULTILINE)
    for block in fences.findall(text):
        yield from re.sub(r"\\\n\s*", "", block).splitlines()
    yield from (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", fences.sub("", text)))


def commands_of(path: Path) -> list[tuple[str, list[str]]]:
    """Modules and arguments of the commands in a document, a recipe's header or a result."""
    text = path.read_text()
    if path.suffix == ".md":
        spans = list(code_spans(text))
    elif path.suffix == ".json":
        spans = list(strings_of(json.loads(text)))
    else:
        spans = re.sub(r"\\\n#\s*", "", text).splitlines()
    return [command for span in spans for command in commands_in(span.partition("   (")[0])]


def commands_in(line: str) -> list[tuple[str, list[str]]]:
    """Modules and arguments of the commands in a line; a number stands for N."""
    found = [match.groups() for match in COMMAND.finditer(line)]
    return [(module, ["2" if word == "N" else word for word in shlex.split(words)]) for module, words in found]


def strings_of(value: Any) -> Iterator[str]:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings_of(item)
    elif isinstance(value, str):
        yield value


@pytest.fixture(autouse=True)
def sample_without_network(monkeypatch):
    """The sample's recipe where the sample is asked for; `auto` would look for data on the hub."""
    monkeypatch.setattr("common.cli.parser.uses_sample", lambda args, *_: "sample" in args)


def parse(module: str, args: list[str]) -> None:
    """Parses a command and does nothing else. Raises UserError or SystemExit if it is not valid."""
    if module.endswith(".train"):
        cli = cli_of(module)
        cli.parse_arguments(cli.parser, args)
    elif module.endswith(".evaluate"):
        evaluation_parser(module).parse_args(args)
    elif module == "common.multirun":
        if "--search" in args:
            pytest.importorskip("optuna")
        with redirect_stdout(StringIO()) as runs:
            assert importlib.import_module(module).main([*args, "--dry_run"]) == 0
        for line in runs.getvalue().splitlines():
            parse(*commands_in(line)[0])
    elif args:
        call_parser(module, args, check_arguments)
    else:
        assert importlib.util.find_spec(module), module


@cache
def cli_of(module: str) -> CapstoneCLI:
    """Command line of a capstone; its parser takes long to build, and can parse many commands."""
    return CapstoneCLI(importlib.import_module(module).PROJECT, ["--data.source", "sample"])


@cache
def evaluation_parser(module: str) -> TrainParser:
    """Parser of a capstone's `evaluate`."""
    return new_parser(importlib.import_module(module).PROJECT)


def check_arguments(parser: argparse.ArgumentParser) -> None:
    """Exits if `sys.argv` has an argument that the parser does not know."""
    if unknown := PARSE_KNOWN_ARGS(parser, sys.argv[1:])[1]:
        parser.error(f"unrecognized arguments: {shlex.join(unknown)}")


def call_parser(module: str, args: list[str], function: Callable[[argparse.ArgumentParser], Any]) -> Any:
    """Calls a command up to the point where it parses its arguments; returns `function` of its parser."""

    def stop(parser: argparse.ArgumentParser, *_: Any) -> None:
        raise Parsed(function(parser))

    spec = importlib.util.find_spec(module)
    assert spec, module
    main = importlib.import_module(f"{module}.__main__" if spec.submodule_search_locations else module).main
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Parsed) as parsed:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        patch.setattr(argparse.ArgumentParser, "parse_known_args", stop)
        patch.setattr(sys, "argv", [module, *args])
        main()
    return parsed.value.args[0]


def errors_of(commands: list[tuple[str, list[str]]], capsys: Any) -> list[str]:
    errors = []
    for module, args in commands:
        try:
            if module not in NOT_THERE:
                parse(module, args)
        except UserError as error:
            errors.append(f"{module} {shlex.join(args)}: {error}")
        except SystemExit:
            errors.append(f"{module} {shlex.join(args)}: {capsys.readouterr().err}")
    return errors


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_of_a_document_parse(path, capsys):
    assert not errors_of(commands_of(path), capsys)


@pytest.mark.parametrize("capstone", CAPSTONES)
def test_commands_of_recipes_parse(capstone, capsys):
    recipes = (ROOT / "projects" / capstone / "recipes").glob("*.yaml")
    commands = [command for path in recipes for command in commands_of(path)]
    assert commands and not errors_of(commands, capsys)


def test_commands_of_results_parse(capsys):
    commands = [command for path in RESULTS.glob("*.json") for command in commands_of(path)]
    different_but_for_the_seed = {re.sub(r"--(seed|name) \S+", "", shlex.join([module, *args])) for module, args in commands}
    assert commands and not errors_of(
        [(words[0], words[1:]) for words in map(shlex.split, different_but_for_the_seed)], capsys
    )


@cache
def flags_of(package: str) -> set[str]:
    """Flags in the `--help` of all commands of a package."""
    flags: set[str] = set()
    for path in sorted((ROOT / package).rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
        if path.stem == "train":
            flags |= set(re.findall(r"--[\w.]+", cli_of(module).parser.format_help()))
        elif path.stem == "evaluate" and package != "common":
            parser = new_parser(importlib.import_module(module).PROJECT)
            flags |= set(re.findall(r"--[\w.]+", parser.format_help()))
        elif "__main__" in path.read_text() and re.search(r"parse_(known_)?args\(", path.read_text()):
            flags |= set(re.findall(r"--[\w.]+", call_parser(module, [], argparse.ArgumentParser.format_help)))
    return flags


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_flags_in_a_document_exist(path):
    package = path.parent.relative_to(ROOT).as_posix()
    packages = [package, "benchmarks"] if path.parent.name in CAPSTONES else ["projects", "benchmarks"]
    known = set().union(*map(flags_of, packages), flags_of("common"))
    others = r"\b(pip|git|docker|torchrun|sbatch|pytest|tests|wandb (?:leet|sync)|mlflow (?:ui|server)|tensorboard)\b"
    spans = [span for span in code_spans(path.read_text()) if not re.search(others, span)]
    mentioned = {flag.rstrip(".") for span in spans for flag in re.findall(r"(?<![\w-])--[A-Za-z][\w.]*", span)}
    of_classes = ("--trainer.callbacks.", "--trainer.logger.")  # options of the class that is named
    mentioned -= known | {"--trainer.x", "--model.x", "--data.x"}
    assert {flag for flag in mentioned if not flag.startswith(of_classes)} == set()


@pytest.mark.parametrize(
    "text",
    [
        "```sh\npython -m projects.blank.train --model.no_such_option 1\n```",
        "see `python -m projects.blank.train\n--model.lr high`",
        "`python -m projects.blank.predict FILE --no_such_flag`",
        "`python -m projects.blank.evaluate --checkpoint PATH --no_such_flag`",
        "`python -m projects.blank.train --config recipes/no_such_recipe.yaml`",
    ],
)
def test_a_renamed_flag_is_found(text, tmp_path, capsys):
    (tmp_path / "README.md").write_text(text)
    assert len(errors_of(commands_of(tmp_path / "README.md"), capsys)) == 1
