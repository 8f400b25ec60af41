"""A plain install, without extras, runs every command; what needs an extra names it in one line."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

import plain_install
from commands import ROOT, environment
from plain_install import PlainFinder, top_level_imports

MODULES = [path for folder in ("common", "projects") for path in sorted((ROOT / folder).rglob("*.py"))]


def test_optional_packages_are_imported_where_they_are_used():
    assert PlainFinder.has("torch") and not PlainFinder.has("peft") and not PlainFinder.has("pytest")
    own = {*sys.stdlib_module_names, "common", "projects"}
    for path in MODULES:
        for package in top_level_imports(ast.parse(path.read_text()).body):
            assert package in own or PlainFinder.has(package), f"{path.relative_to(ROOT)} imports {package}"


def test_every_command_is_run():
    has_main = [path for path in MODULES if '__name__ == "__main__"' in path.read_text()]
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__") for path in has_main}
    assert {module for module, *_ in plain_install.COMMANDS} == names


@pytest.mark.slow
def test_every_command_runs_without_the_extras(tmp_path):
    command = [sys.executable, plain_install.__file__]
    done = subprocess.run(command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
